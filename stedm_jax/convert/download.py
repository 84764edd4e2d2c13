"""Getting a file of the registry, where it can be had without asking and is known by its
checksum."""

from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.common.fetch import fetch
from stedm_jax.convert.registry import Entry


def download(entry: Entry, out: Path, *, force: bool = False) -> list[Path]:
    """Fetches the files of an entry and compares their checksums; only then do they get their
    names.

    Where the publisher states no more than the first digits of a checksum, those are compared.

    Args:
      entry: of the registry.
      out: a file, or a folder for several files.
      force: replaces what is there.

    Raises:
      UserError: the file is to be got by hand, `out` exists, the network does not answer, or
        another file came.
    """
    if not entry.urls or entry.urls.keys() != entry.sha256.keys():
        how = "after asking for access there" if entry.gated else "by hand"
        raise UserError(
            f"{entry.name} has no address whose checksum is known, and is not downloaded. Get it "
            f"{how}: {entry.source} (terms: {entry.license}). Then: python -m stedm_jax.convert "
            f"{entry.name} FILE --out=weights/{entry.name}"
        )
    targets = {name: out if len(entry.urls) == 1 else out / name for name in entry.urls}
    there = [str(target) for target in targets.values() if target.exists()]
    if there and not force:
        raise UserError(f"{', '.join(there)} exists; give another --out, or --force to replace it.")
    for name, target in targets.items():
        fetch(entry.urls[name], target, entry.sha256[name])
    return list(targets.values())
