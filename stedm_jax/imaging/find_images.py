"""Which files of a folder are images and slides to be read."""

import sys
from collections import Counter
from pathlib import Path

import openslide

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.image_file import SUFFIXES
from stedm_jax.imaging.open_slide import open_slide
from stedm_jax.imaging.tiff_pages import is_tiff

SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".svslide", ".bif", ".dcm")
KNOWN = (*SUFFIXES, ".tif", ".tiff", *SLIDES)
RESULT = b"stedm_jax.inference"
"""What stands in the head of every mask and outline that inference writes, so that it is never
taken for an image, and only what is ours is overwritten."""
_HEAD = 2048


def is_slide(path: Path) -> bool:
    """Whether a file is a scanner's, which says its microns, or has several levels; also where it
    is damaged, which is said when it is read."""
    if path.is_dir() or path.suffix.lower() in SLIDES:
        return True
    if not is_tiff(path):
        plain = path.suffix.lower() in SUFFIXES
        return not plain and openslide.OpenSlide.detect_format(path) is not None
    try:
        reader = open_slide(path)
    except UserError:
        return True
    reader.close()
    return reader.is_slide


def is_result(path: Path) -> bool:
    """Whether inference wrote a file."""
    try:
        with path.open("rb") as file:
            return RESULT in file.read(_HEAD)
    except OSError:  # which is said when it is read
        return False


def find_images(folder: Path) -> list[Path]:
    """Images and slides of a folder and those below it, in order; of a file, itself.

    Hidden files are none (`.DS_Store`, `._A.png` of macOS, what is half written), and neither are
    results of inference and files of unknown endings; how many there are is said.

    Raises:
      UserError: there is none, or two would give results of the same name.
    """
    if folder.is_file():
        if is_result(folder):
            raise UserError(f"{folder} is a result of stedm_jax.inference, and no image.")
        return [folder]
    found: list[Path] = []
    passed: Counter[str] = Counter()
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.parent.with_suffix(".mrxs").is_file():
            continue
        if why := _passed_over(path, folder):
            passed[why] += 1
        else:
            found.append(path)
    if passed:
        said = ", ".join(f"{count} {why}" for why, count in passed.most_common())
        print(f"passed over in {folder}: {said}", file=sys.stderr, flush=True)
    if not found:
        raise UserError(
            f"There is no image in {folder}; known are files that end in {', '.join(KNOWN)}."
        )
    names = Counter(str(path.with_suffix("")) for path in found)
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise UserError(
            "Images differ in their ending only, so that results would have one name: "
            f"{', '.join(twice)}."
        )
    return found


def _passed_over(path: Path, folder: Path) -> str:
    """Why a file of a folder is no image, in words after a number; "" if it is one."""
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
        return "hidden"
    if not path.is_file():
        return "that lead nowhere"
    if is_result(path):
        return "results of stedm_jax.inference"
    suffix = path.suffix.lower()
    return "" if suffix in KNOWN else f"of the unknown ending '{suffix}'"
