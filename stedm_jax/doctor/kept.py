"""What the compiler said of a program, kept, so that a second look at the same one takes no
compilation.

A program is known by its text before the compiler's own changes, by the pod, and by the versions
and options of the compiler. What is kept are the compiler's words (memory, cost, the module as
text), not what this package reads in them.
"""

import gzip
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

from stedm_jax.workdir import write_text

_VERSIONS = ("jax", "jaxlib", "libtpu")
_OPTIONS = (
    "XLA_",
    "LIBTPU_",
    "JAX_",
)  # how the names of variables begin that change what the compiler does


def fingerprint(program: str, topology: str) -> str:
    """A name for a program on a pod; another one for another version of the compiler."""
    parts = [topology, *(f"{name}={_version(name)}" for name in _VERSIONS)]
    parts += [
        f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_OPTIONS)
    ]
    return hashlib.sha256("\n".join([*parts, program]).encode()).hexdigest()[:32]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def recall(folder: str, name: str) -> tuple[dict[str, Any], str] | None:
    """(what the compiler said, the module's text; "" of one that was refused); None where nothing
    whole is kept."""
    file = Path(folder) / f"{name}.json"
    if not folder or not file.exists():
        return None
    try:
        said = json.loads(file.read_text())
        text = (
            ""
            if said["refused"]
            else gzip.decompress(file.with_suffix(".txt.gz").read_bytes()).decode()
        )
    except (OSError, ValueError, KeyError, EOFError):  # damaged: as if it were not there
        return None
    return said, text


def keep(folder: str, name: str, said: dict[str, Any], text: str) -> None:
    """Writes both; the text first, because the other file says that all is there."""
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = Path(folder) / f"{name}.json"
    if text:
        file.with_suffix(".txt.gz").write_bytes(gzip.compress(text.encode(), 6))
    write_text(file, json.dumps(said, indent=1))
