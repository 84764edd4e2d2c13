"""Where a tile set goes, and what belongs to it lies."""

import argparse
import hashlib
from pathlib import Path

from stedm_jax.data.remote import is_remote


def remote_name(url: str) -> str:
    """A name for what belongs to a remote set on this machine, unlike that of a set at any other
    URL."""
    plain = url.rstrip("/")
    return f"{plain.rpartition('/')[2]}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def local_out(args: argparse.Namespace) -> Path:
    """Where the set is packed: --out, or the spool folder of a remote one."""
    out = str(args.out)
    return Path(args.spool or ".") / f"{remote_name(out)}-spool" if is_remote(out) else Path(out)


def report_folder(out: Path | str) -> Path:
    """The folder of the report on a set: beside it, or for a remote one in the working
    directory."""
    text = str(out).rstrip("/")
    return Path(f"{remote_name(text) if is_remote(text) else text}-report")
