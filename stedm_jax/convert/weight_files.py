"""Tensors by name out of whatever file weights come in, recognized by its content and not by its
ending.

safetensors (one file, several with an index, a folder as diffusers writes it), files of torch.save,
and npz.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  declares bfloat16 to numpy, which safetensors asks for
import numpy as np
from safetensors import SafetensorError, safe_open

from stedm_jax.common.errors import UserError
from stedm_jax.convert.admitted_names import short
from stedm_jax.convert.torch_file import TorchFile
from stedm_jax.convert.unpickle import Inert, Tensor

Read = Callable[[], np.ndarray]
_AGAIN = "Download it again and compare its size."
_NOT_WEIGHTS = {
    rb"\s*<(!doctype|html|\?xml)": (
        "a web page, as comes from a download that needs a login or another address"
    ),
    rb"version https://git-lfs": "a pointer of Git LFS; fetch the file itself (git lfs pull)",
    rb"\x89HDF\r\n": "an HDF5 file of Keras",
    rb"GGUF": "a GGUF file",
    rb"\x1f\x8b": "compressed by gzip; unpack it first",
}
"""How files begin that are often taken for weights -> what they are."""
_IN_FOLDER = (
    "*.safetensors.index.json diffusion_pytorch_model.safetensors model.safetensors "
    "pytorch_model.bin *.safetensors *.ckpt *.pth *.pt *.bin"
)
"""What diffusers, transformers and timm call weights in a folder; the first that is there is
taken."""
_DAMAGE = (
    *(SafetensorError, zipfile.BadZipFile, zlib.error, OSError, EOFError, MemoryError),
    *(ValueError, TypeError, AttributeError, LookupError, RuntimeError),
)
"""What the readers of safetensors, zip archives and NumPy raise."""


class Tensors(Mapping):
    """Arrays by name, each read when it is asked for.

    (Of str and np.ndarray; as type arguments, a type checker at run time would read the arrays.)

    Attributes:
      left_out: names in the file that were not asked for. files: where they were read from.
    """

    def __init__(
        self, readers: Mapping[str, Read], left_out: Sequence[str] = (), files: Sequence[Path] = ()
    ):
        self._readers, self.left_out, self.files = dict(readers), tuple(left_out), tuple(files)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def replaced(self, names: Mapping[str, str], source: "Tensors", without: str) -> "Tensors":
        """These, with others in their place or beside them.

        Args:
          names: name in `source` -> the one that its tensor gets here.
          source: what was read from the same files.
          without: beginning of the names that go.
        """
        kept = {name: read for name, read in self._readers.items() if not name.startswith(without)}
        new = {name: source._readers[theirs] for theirs, name in names.items()}
        left = [name for name in self.left_out if name not in names]
        return Tensors(kept | new, left, self.files)

    def merged(self, plain: Callable[[str], str], where: str) -> "Tensors":
        """These under other names; of those that get the same one, the first.

        Args:
          plain: gives the other name.
          where: the file, for errors.

        Raises:
          UserError: two that get the same name differ.
        """
        groups: dict[str, list[str]] = {}
        for name in self:
            groups.setdefault(plain(name), []).append(name)
        for first, *others in groups.values():
            one = self[first] if others else None
            for other in others:
                if not _equal(one, self[other]):
                    raise UserError(
                        f"{where} has two copies of one tensor, {short(first)} and {short(other)}, "
                        "which differ; as published they are the same. Save the file anew from the "
                        "model that is meant."
                    )
        readers = {name: self._readers[first] for name, (first, *_) in groups.items()}
        return Tensors(readers, self.left_out, self.files)

    def renamed(self, where: str, under: Sequence[str], strip: Sequence[str]) -> "Tensors":
        """Only the names that begin with the first of `under` that occurs, without it and without
        the prefixes `strip`.

        Args:
          where: the file, for errors.
          under: prefixes ("model.diffusion_model."); "" fits every name.
          strip: prefixes taken off, one after the other ("module.", "backbone.").

        Raises:
          UserError: there are none, or two names become one.
        """
        occur = (each for each in under if any(name.startswith(each) for name in self))
        wanted = next(occur, under[-1])
        out: dict[str, Read] = {}
        left = list(self.left_out)
        for name, read in self._readers.items():
            if not name.startswith(wanted):
                left.append(name)
                continue
            own = name.removeprefix(wanted)
            for prefix in strip:
                own = own.removeprefix(prefix)
            if own in out:
                raise UserError(
                    f"{where} has two tensors called {short(own)} without {', '.join(strip)}."
                )
            out[own] = read
        if not out:
            begin = sorted({name.split(".")[0] for name in self})
            raise UserError(
                f"{where} has no tensor under '{wanted}'; its names begin with "
                f"{', '.join(map(short, begin[:20]))}. It is another file than this entry is for."
            )
        return Tensors(out, left, self.files)


def _equal(one: Any, other: np.ndarray) -> bool:
    """Whether two arrays are the same bit for bit."""
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and one.tobytes() == other.tobytes()


def read_tensors(path: Path, *, key: str = "", parts: Mapping[str, str] | None = None) -> Tensors:
    """The tensors of a file or folder.

    Args:
      path: of the weights.
      key: the part of a checkpoint that holds them ("state_dict", "teacher"); found where there is
        one only.
      parts: for weights in several files of a folder, stem of a file -> prefix for its names.

    Raises:
      UserError: the file is absent, cut off, hostile or of another kind, or holds no such part.
    """
    if parts and (path.stem in parts or any(list(path.glob(f"{stem}.*")) for stem in parts)):
        return _parts(path, parts)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    return _read(path, key)


def _parts(folder: Path, parts: Mapping[str, str]) -> Tensors:
    readers: dict[str, Read] = {}
    used: list[Path] = []
    for stem, prefix in parts.items():
        files = [each for each in folder.glob(f"{stem}.*") if each.is_file()]
        if len(files) != 1:
            there = f"has {len(files) or 'no'} {stem}" if folder.is_dir() else "is no folder"
            raise UserError(
                f"These weights are in several files; give the folder with {', '.join(parts)} "
                f"(.safetensors or .pth, one each). {folder} {there}."
            )
        tensors = _read(files[0])
        readers |= {prefix + name: partial(tensors.__getitem__, name) for name in tensors}
        used += files
    return Tensors(readers, files=used)


def _in_folder(folder: Path) -> Path:
    """The one file of weights of a folder as diffusers, transformers and timm write it."""
    for pattern in _IN_FOLDER.split():
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{folder} holds {', '.join(each.name for each in found)}; name one of them."
            )
    raise UserError(f"{folder} holds no file of weights (safetensors, ckpt, pth, pt or bin).")


def _read(path: Path, key: str = "") -> Tensors:
    with path.open("rb") as file:
        head = file.read(512)
    for pattern, what in _NOT_WEIGHTS.items():
        if re.match(pattern, head, re.IGNORECASE):
            raise UserError(f"{path} is {what}; it holds no weights that can be read.")
    if path.name.endswith(".index.json"):
        return _sharded(path)
    if not head:
        raise UserError(f"{path} is empty. {_AGAIN}")
    if head[8:9] == b"{":  # behind the length of the header, which may begin like any other kind
        return _safetensors(path)
    if head[:2] == b"PK" and _holds_arrays(path):
        return _npz(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        file = TorchFile(path)
        found, others = _state_dict(path, file.content, key)
        readers = {name: partial(file.array, tensor) for name, tensor in found.items()}
        return Tensors(readers, others, [path])
    if path.suffix == ".safetensors":
        return _safetensors(path)
    raise UserError(
        f"{path} is neither safetensors nor a file of torch.save nor npz; name a file of weights."
    )


def _lazily(path: Path, names: Sequence[str], read: Callable[[str], np.ndarray]) -> Tensors:
    return Tensors({name: partial(_checked, path, read, name) for name in names}, files=[path])


def _checked(path: Path, read: Callable[[str], np.ndarray], name: str) -> np.ndarray:
    try:
        return read(name)
    except _DAMAGE as error:
        raise UserError(
            f"{path} is damaged at {short(name)}, or has a data type there that is not read "
            f"({error}). {_AGAIN}"
        ) from error


def _safetensors(path: Path) -> Tensors:
    try:
        file = safe_open(path, framework="numpy")
        names = list(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged, cut off or no safetensors file ({error}). {_AGAIN}"
        ) from error
    return _lazily(path, names, file.get_tensor)


def _sharded(path: Path) -> Tensors:
    try:
        files = json.loads(path.read_text())["weight_map"]
        shards = {file: path.parent / file for file in files.values()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is no index of safetensors files ({type(error).__name__}). {_AGAIN}"
        ) from error
    for file, place in shards.items():
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(
                f"{path} names {short(file)}, which is no safetensors file beside it; it is "
                "refused."
            )
        if not place.is_file():
            raise UserError(
                f"{path} needs {file}, which is not beside it; download all of its files."
            )
    opened = {file: _safetensors(place) for file, place in shards.items()}
    lost = [name for name, file in files.items() if name not in opened[file]]
    if lost:
        raise UserError(
            f"{path} promises {len(lost)} tensors that are not in its files: "
            f"{', '.join(map(short, lost[:10]))}. {_AGAIN}"
        )
    readers = {name: partial(opened[file].__getitem__, name) for name, file in files.items()}
    return Tensors(readers, files=[path, *shards.values()])


def _holds_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist()[:2])
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _npz(path: Path) -> Tensors:
    """Arrays of an archive of numpy, each unpacked when it is asked for.

    How much the entries say they unpack to is bounded before any is read; zipfile reads no more of
    one than it says.
    """
    try:
        archive: Any = np.load(path, allow_pickle=False)
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged ({error}). {_AGAIN}") from error
    unpacked = sum(info.file_size for info in archive.zip.infolist())
    if unpacked > max(64 * path.stat().st_size, 1 << 26):
        raise UserError(
            f"{path} unpacks to far more than weights do; it is taken for a zip bomb and refused."
        )
    return _lazily(path, archive.files, archive.__getitem__)


def _tensors_of(content: Any) -> dict[str, Tensor]:
    items = content.items() if isinstance(content, dict) else ()
    return {
        name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)
    }


def _state_dict(path: Path, content: Any, key: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors wanted, and the names of the other parts of the checkpoint."""
    if isinstance(content, Inert):
        raise UserError(
            f"{path} holds a whole object ({content.of}) and not its weights. Save those: "
            "torch.save(model.state_dict(), FILE)."
        )
    content = content if isinstance(content, dict) else {}
    own = _tensors_of(content)
    parts = {
        name: found
        for name, value in content.items()
        if isinstance(name, str) and (found := _tensors_of(value))
    }
    if own and not (key and parts):  # a file with the wanted part alone needs no key
        return own, [str(name) for name in content if name not in own]
    names = [key] if key else ["state_dict"] if "state_dict" in parts else list(parts)
    if len(names) == 1 and names[0] in parts:
        return parts[names[0]], [str(name) for name in content if name != names[0]]
    listed = ", ".join(map(short, parts)) or "no such parts"
    if key:
        raise UserError(
            f"{path} has no part '{short(key)}' with tensors; it has {listed}. Give another --key, "
            "or none."
        )
    if parts:
        raise UserError(
            f"{path} holds several sets of weights: {listed}. Choose one with --key=NAME."
        )
    raise UserError(f"{path} holds no state dict; save one: torch.save(model.state_dict(), FILE).")
