"""Checks of the workdir: space, speed, locks, and who can write to the cache of compiled
programs."""

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.common.locks import Busy, locked
from stedm_jax.doctor.findings import Finding, fail, ok, warn

PROBE = 64_000_000
SLOW = 50e6
CACHE = ".compile_cache"
OTHER_DISK = "give a --workdir on a local or faster disk"


def nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def space(path: Path, needed: float = 0.0) -> Finding:
    """Free space where the workdir is or will be, against what a run leaves there."""
    usage = os.statvfs(nearest(path))
    free = usage.f_bavail * usage.f_frsize
    seen = f"{free / 1e9:.1f} GB free at {nearest(path)}"
    if needed:
        seen += f", {needed / 1e9:.1f} GB needed"
    fix = "make room, lower train.keep and synthesis.count, or give a --workdir on a larger disk"
    if free < max(needed, 1e9):
        return fail(seen, fix)
    if free < max(2 * needed, 5e9):
        return warn(seen + (", less than twice that" if needed else ""), fix)
    if usage.f_files and usage.f_favail < 10_000:
        return warn(f"{seen}, but only {usage.f_favail:,} files more", "delete small files there")
    return ok(seen)


def speed(path: Path) -> Iterator[Finding]:
    """Writes, syncs and reads back a file of PROBE bytes, and takes a lock, where the workdir is or
    will be."""
    folder = nearest(path)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as probe:
            yield _written(Path(probe) / "probe")
            yield _locks(Path(probe) / "lock")
    except OSError as error:
        seen = f"{folder} cannot be written ({error.strerror})"
        yield fail(seen, "give another --workdir, or change who may write there (chown, chmod)")


def _written(file: Path) -> Finding:
    data = os.urandom(PROBE)
    began = time.monotonic()
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    rate = PROBE / max(time.monotonic() - began, 1e-9)
    if file.read_bytes() != data:
        return fail("a file that was written is read back with other content", OTHER_DISK)
    seen = f"writes {rate / 1e6:.0f} MB/s at {file.parent.parent}"
    if rate < SLOW:
        return warn(seen, f"a checkpoint of full size has 4 GB; {OTHER_DISK}")
    return ok(seen)


def _locks(file: Path) -> Finding:
    """Runs that share a workdir know of each other by locks, which some network file systems do
    not keep."""
    name = "file locks"
    try:
        with locked(file), locked(file):
            fix = "give a --workdir on local disk, on NFS 4, or on Lustre mounted with flock"
            return fail("a second lock was given on a locked file", fix, name)
    except Busy:
        return ok("kept", name=name)
    except UserError as error:
        return fail(str(error), name=name)


def compile_cache(workdir: Path) -> Finding:
    """The programs of the cache are run as they are found: no other user may be able to write
    there."""
    cache = workdir / CACHE
    place = cache if cache.exists() else nearest(workdir)
    about = place.stat()
    others = stat.S_IMODE(about.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    if cache.exists() and about.st_uid != os.getuid():
        return fail(f"{cache} belongs to another user", f"rm -r {cache}, or another --workdir")
    if cache.exists() and others:
        seen = f"others can write to {cache}, whose programs are run as they are found"
        return fail(seen, f"rm -r {cache}; then chmod go-w {cache.parent}")
    if others and not about.st_mode & stat.S_ISVTX:
        fix = f"chmod go-w {place}, or another --workdir"
        return warn(f"others can write to {place}", fix)
    if not os.access(place, os.W_OK):
        return fail(f"{place} cannot be written", "give another --workdir, or change its owner")
    shared = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    note = f"; JAX_COMPILATION_CACHE_DIR={shared} is not used by runs" if shared else ""
    return ok(f"{cache}, private{note}")


def in_use(workdir: Path) -> Finding:
    """Whether a run is making cells of the workdir now."""
    busy = []
    for file in (workdir / ".lock", *workdir.glob(".locks/*.lock")):
        try:
            if file.exists():
                with locked(file):
                    pass
        except Busy:
            busy.append(file.stem.replace("@", "/"))
    if busy:
        seen = f"a run is going on in {workdir} ({', '.join(busy)})"
        return warn(seen, "wait for it, or give another --workdir")
    return ok(f"no run in {workdir}")
