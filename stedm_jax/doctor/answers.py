"""What the TPU compiler says of a program, kept, so that a second look at the same one takes no
compilation.

A program is known by its text before the compiler's own changes, by the pod, and by the versions
and options of the compiler. What is kept are the compiler's words (memory, cost, the module as
text), not what this package reads in them.
"""

import gzip
import importlib.metadata
import json
import os
import re
import time
import zlib
from pathlib import Path
from typing import Any

import jax

from stedm_jax.common.files import sha256_of_json, write_bytes

_VERSIONS = ("jax", "jaxlib", "libtpu")
_OPTIONS = ("XLA_", "LIBTPU_", "JAX_")
"""How the names of environment variables begin that change what the compiler does."""
_UNITS = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30}
_WANTED = re.compile(r"(?:HLO temporaries \(|Used )([\d.]+)([KMG]?)(?:\)| of [\d.]+[KMG]? hbm)")
Answer = tuple[dict[str, Any], str]
"""Attributes of an Account, and the compiled module as text; "" of a program that was refused."""


def ask(lowered: Any) -> Answer:
    """Compiles a lowered program."""
    began, text = time.monotonic(), ""
    try:
        compiled = lowered.compile()
        facts, text = facts_of(compiled), compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        facts = facts_of_refusal(str(error).strip() or type(error).__name__)
    return facts | {"compile_seconds": time.monotonic() - began}, text


def facts_of(compiled: Any) -> dict[str, Any]:
    """What a compiled program says of itself."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    outputs = max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes)
    arguments = memory.argument_size_in_bytes
    # The TPU compiler's temporaries leave out buffers that its peak contains, as it contains
    # arguments and results.
    peak = getattr(memory, "peak_memory_in_bytes", 0)
    facts = {
        "arguments": arguments,
        "outputs": outputs,
        "temporaries": max(memory.temp_size_in_bytes, peak - arguments - outputs),
        "code": memory.generated_code_size_in_bytes,
        "xla_flops": cost.get("flops", 0.0),
        "xla_bytes": cost.get("bytes accessed", 0.0),
    }
    return {name: float(value) for name, value in facts.items()}


def facts_of_refusal(text: str) -> dict[str, Any]:
    """What the compiler said when it refused, and how much memory it wanted."""
    found = _WANTED.search(text)
    needed = float(found[1]) * _UNITS[found[2]] if found else 0.0
    return {"refused": text.splitlines()[0], "needed": needed}


def kept_file(folder: str, program: str, topology: str) -> Path:
    """Where the answer for a program on a pod is kept; another place for another compiler."""
    options = {name: value for name, value in os.environ.items() if name.startswith(_OPTIONS)}
    versions = [_version(name) for name in _VERSIONS]
    return Path(folder) / f"{sha256_of_json([program, topology, versions, options])[:32]}.json.gz"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def recall(file: Path) -> Answer | None:
    """An answer that was kept; None where nothing whole is there."""
    try:
        facts, text = json.loads(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error):  # damaged: as if it were not there
        return None
    return facts, text


def keep(file: Path, answer: Answer) -> None:
    """Keeps an answer, to be recalled."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, gzip.compress(json.dumps(answer).encode(), 6))
