"""What every data_prep command shares: its parser, its progress line, and how it ends."""

import argparse
import difflib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from data_prep.engine.executors import leave_with
from data_prep.spelling import split_outside_quotes, unquoted
from stedm_jax.common import commands
from stedm_jax.common.errors import PARENT, UserError, explain
from stedm_jax.common.text import duration


def run_command(main: Callable[[list[str]], int]) -> None:
    """Runs a command with the program's arguments and exits with its status; see
    stedm_jax.common.commands. A command that a stage started ends with that stage."""
    if parent := os.environ.get(PARENT):
        leave_with(int(parent))

    def guarded(argv: list[str]) -> int:
        try:
            return main(argv)
        except OSError as error:
            if error.errno is None or explain(error) is not None:
                raise
            place = error.filename or "while writing"
            raise UserError(f"{error.strerror}: {place}") from error

    commands.run_command(guarded)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence that suggests the option that was probably meant,
    instead of the whole usage."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See ArgumentParser; keeps what was given, for the message."""
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def option(self, name: str, default: Any, about: str, **more: Any) -> None:
        """Adds --name, whose type is that of its default unless `more` has another; None stands for
        a text, False for a flag."""
        kind: dict[str, Any] = {"type": str if default is None else type(default)}
        if default is False:
            kind = {"action": "store_true"}
        self.add_argument(f"--{name}", default=default, help=about, **(kind | more))

    def error(self, message: str) -> NoReturn:
        """See ArgumentParser.

        Raises:
          UserError: always.
        """
        known = [option for option in self._option_string_actions if option.startswith("--")]
        message = message[:1].upper() + message[1:].rstrip(".") + "."
        for name in (text.partition("=")[0] for text in self._given):
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                near = difflib.get_close_matches(name, known, 1, 0.6)
                message = f"There is no option {name}" + (f"; is {near[0]} meant?" if near else ".")
                break
        raise UserError(f"{message} `{self.prog} --help` lists all.")


def make_parser(command: str, about: str | None) -> Parser:
    """A parser whose help is the docstring of the command's module; its second paragraph, an
    example, is left out."""
    description, _, *rest = (about or "").split("\n\n")
    return Parser(
        prog=f"python -m data_prep.{command}",
        description=description,
        epilog="\n\n".join(rest),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def folder(text: str) -> Path:
    """Reads an option that names a folder."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder; correct the path")
    return Path(text)


class Progress:
    """A line such as "phantom 7/22 slides, 0.8/s, ETA 0:18"; it is rewritten on a terminal and
    repeated every few seconds elsewhere."""

    def __init__(self, what: str, total: int, unit: str, quiet: bool = False):
        self.what, self.total, self.unit, self.quiet = what, total, unit, quiet
        self.started = self._shown = time.monotonic()

    def update(self, done: int) -> None:
        """Shows that `done` of the total are done."""
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if self.quiet or (not terminal and done < self.total and now - self._shown < 5):
            return
        self._shown = now
        speed = done / max(now - self.started, 1e-6)
        left = duration((self.total - done) / speed if done else 0)
        line = f"{self.what} {done}/{self.total} {self.unit}, {speed:.2g}/s, ETA {left}"
        start, end = (
            ("\r" if terminal else ""),
            ("\n" if done >= self.total or not terminal else ""),
        )
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)


def names_list(text: str) -> list[str]:
    """The names in 'a, b'; none in ''. One with a comma stands in double quotes."""
    return [name for part in split_outside_quotes(text, ",") if (name := unquoted(part))]
