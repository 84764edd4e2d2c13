"""Checks of the workdir: room, speed, locks, and who can write to the cache of compiled
programs."""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from stedm_jax.doctor.findings import Finding, fail, ok, warn

PROBE = 64_000_000
SLOW = 50e6
CACHE = ".compile_cache"


def nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def room(path: Path, needed: float = 0.0) -> Finding:
    """Free space where the workdir is or will be, against what a run leaves there."""
    usage = os.statvfs(nearest(path))
    free, nodes = usage.f_bavail * usage.f_frsize, usage.f_favail
    seen = f"{free / 1e9:.1f} GB free at {nearest(path)}" + (
        f", {needed / 1e9:.1f} GB needed" if needed else ""
    )
    mend = "make room, lower train.keep and synthesis.count, or give a --workdir on a larger disk"
    if free < needed or free < 1e9:
        return fail("disk", seen, mend)
    if free < 2 * needed or free < 5e9:
        return warn("disk", f"{seen}, less than twice that" if needed else seen, mend)
    if usage.f_files and nodes < 10_000:
        return warn("disk", f"{seen}, but only {nodes:,} files more", "delete small files there")
    return ok("disk", seen)


def speed(path: Path) -> Iterator[Finding]:
    """Writes, syncs and reads back a file of PROBE bytes, and takes a lock, where the workdir is or
    will be."""
    folder = nearest(path)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as probe:
            yield _written(Path(probe) / "probe", PROBE)
            yield _locks(Path(probe) / "lock")
    except OSError as error:
        text = f"{folder} cannot be written ({error.strerror})"
        yield fail(
            "workdir", text, "give another --workdir, or change who may write there (chown, chmod)"
        )


def _written(file: Path, size: int) -> Finding:
    block = os.urandom(1_000_000)
    began = time.monotonic()
    with file.open("wb") as out:
        for _ in range(max(1, size // len(block))):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    rate = size / max(time.monotonic() - began, 1e-9)
    with file.open("rb") as back:
        same = all(part == block for part in iter(lambda: back.read(len(block)), b""))
    if not same:
        return fail(
            "workdir", "what was written is read back otherwise", "give a --workdir on another disk"
        )
    seen = f"writes {rate / 1e6:.0f} MB/s at {file.parent.parent}"
    if rate < SLOW:
        return warn(
            "workdir",
            seen,
            "a checkpoint of full size has 4 GB; give a --workdir on a local or faster disk",
        )
    return ok("workdir", seen)


def _locks(file: Path) -> Finding:
    """Two runs in one workdir are told apart by a lock, which some network file systems do not
    keep."""
    mend = "give a --workdir on storage that keeps file locks (local disk; NFS 4; Lustre mounted with flock)"
    with file.open("w") as first, file.open("w") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return fail("file locks", f"there are none ({error.strerror})", mend)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ok("file locks", "kept")
    return fail("file locks", "a second lock was given on a locked file", mend)


def compile_cache(workdir: Path) -> Finding:
    """The cache of compiled programs is run as it is found: nobody else may be able to write to
    it."""
    cache = workdir / CACHE
    place = cache if cache.exists() else nearest(workdir)
    about = place.stat()
    others = stat.S_IMODE(about.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    if cache.exists() and about.st_uid != os.getuid():
        return fail(
            "compile cache",
            f"{cache} belongs to somebody else",
            f"rm -r {cache}, or another --workdir",
        )
    if cache.exists() and others:
        text = f"others can write to {cache}, whose programs are run as they are found"
        return fail("compile cache", text, f"rm -r {cache}; then chmod go-w {cache.parent}")
    if others and not about.st_mode & stat.S_ISVTX:
        return warn(
            "compile cache",
            f"others can write to {place}",
            f"chmod go-w {place}, or another --workdir",
        )
    if not os.access(place, os.W_OK):
        return fail(
            "compile cache",
            f"{place} cannot be written",
            "give another --workdir, or change its owner",
        )
    shared = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    note = f"; JAX_COMPILATION_CACHE_DIR={shared} is not used by runs" if shared else ""
    return ok("compile cache", f"{cache}, private{note}")


def in_use(workdir: Path) -> Finding:
    """Whether a run holds the workdir now."""
    lock = workdir / ".lock"
    if not lock.exists():
        return ok("in use", f"{workdir} by nobody")
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return warn(
                "in use",
                f"a run is going on in {workdir}",
                "wait for it, or give another --workdir",
            )
    return ok("in use", f"{workdir} by nobody")
