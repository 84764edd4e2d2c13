"""Files of records (ArrayRecord), which a full disk does not end with a bare RuntimeError."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from stedm_jax.common.errors import UserError

_COPIED_AT_ONCE = 32


class NoRoom(UserError):
    """The disk is full, or may not be written to: it concerns all slides, not only the one at
    hand."""


def no_room(place: Path | str, why: object) -> NoRoom:
    """The error to raise where nothing more can be written."""
    return NoRoom(
        f"{place} could not be written ({str(why)[:200]}). Make room on the disk and run the same "
        "command again; what is finished is kept."
    )


@dataclass(frozen=True)
class Shard:
    """A finished file of records: under any name, with how many there are, their bytes, and its
    checksum ("": not known)."""

    path: Path
    records: int
    payload: int
    sha256: str = ""


class RecordFile:
    """A new file of records (group_size 1, uncompressed), open for writing; a context manager that
    closes it.

    Args:
      path: of the file.
      place: what errors name.

    Attributes:
      records: how many were written; payload: their bytes.

    Raises:
      NoRoom: from `write` and `close`.
    """

    def __init__(self, path: Path, place: Path):
        self.path, self.place = path, place
        self.records = self.payload = 0
        self._writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")

    @property
    def shard(self) -> Shard:
        """What was written, to be asked when it is closed."""
        return Shard(self.path, self.records, self.payload)

    def __enter__(self) -> "RecordFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except NoRoom:
            if kind is None:  # else it was raised already
                raise

    def write(self, data: bytes) -> None:
        """Appends a record."""
        with self._refused():
            self._writer.write(data)
        self.records += 1
        self.payload += len(data)

    def copy(self, source: Path, first: int, count: int) -> None:
        """Appends `count` records of another file, from number `first` on."""
        reader = ArrayRecordReader(str(source))
        try:
            for start in range(first, first + count, _COPIED_AT_ONCE):
                stop = min(start + _COPIED_AT_ONCE, first + count)
                for data in reader.read(range(start, stop)):
                    self.write(data)
        finally:
            reader.close()

    def close(self) -> None:
        """Completes the file; does nothing where it is closed."""
        with self._refused():
            self._writer.close()

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise no_room(self.place, error) from error
