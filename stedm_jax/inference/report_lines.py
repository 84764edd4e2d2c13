"""report.jsonl: a line an image, kept from one call of the command to the next, so that what was
done is not done again."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from stedm_jax.common.files import write_text

NOT_DONE = "not done yet; run the same command again"

Line = dict[str, Any]


class Report:
    """Context in which lines are added, each as soon as its image is done. At its end the file has
    one line for each image: also for those that the command did not come to, whose `error` is
    NOT_DONE, and those of earlier calls.

    Args:
      path: of the file; its folder exists.
      names: of the images.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path, self._names, self._known = path, names, read_lines(path)
        self._new: dict[str, Line] = {}

    def __enter__(self) -> "Report":
        if self._path.exists():  # without half a line, and what failed
            _write(self._path, (line for line in self._known.values() if "error" not in line))
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # of a full disk, which is being said
            self._file.close()
            missing = {name: {"image": name, "error": NOT_DONE} for name in self._names}
            others = {k: v for k, v in read_lines(self._path).items() if k not in missing}
            _write(self._path, [*others.values(), *(missing | self._new).values()])

    @property
    def missing(self) -> int:
        """How many images were not come to."""
        return len(set(self._names) - set(self._new))

    def done(self, name: str, made_with: str) -> Line | None:
        """The line of an image that was done with the same input and settings."""
        line = self._known.get(name)
        return line if line and "error" not in line and line.get("made_with") == made_with else None

    def add(self, line: Line, before: bool = False) -> None:
        """Adds the line of an image, which replaces any earlier one; `before`: it is there."""
        self._new[line["image"]] = line
        if before:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read_lines(path: Path) -> dict[str, Line]:
    """The last line of each image; none where there is no file."""
    lines: dict[str, Line] = {}
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with suppress(ValueError, TypeError, KeyError):
                line = json.loads(text)
                lines[line["image"]] = line
    return lines


def _write(path: Path, lines: Iterable[Line]) -> None:
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
