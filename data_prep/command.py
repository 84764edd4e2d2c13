"""What every data_prep command shares: errors without a traceback, and a progress line with an
ETA."""

import argparse
import difflib
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from data_prep.engine.executors import leave_with
from stedm_jax.common.errors import PARENT, UserError


def run_command(main: Callable[[], int]) -> None:
    """Runs a command and exits with its status; a UserError becomes one paragraph on stderr and
    status 2."""
    if parent := os.environ.get(PARENT):
        leave_with(int(parent))
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted; nothing half-written was left under the final name", file=sys.stderr)
        status = 130
    except OSError as error:
        if error.errno is None:
            raise
        print(f"error: {error.strerror}: {error.filename or 'while writing'}", file=sys.stderr)
        status = 2
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a sentence, which names the option that was probably meant, and not
    the whole usage."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See ArgumentParser; keeps what was given, for the message."""
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """See ArgumentParser.

        Raises:
          UserError: always.
        """
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for name in (text.partition("=")[0] for text in self._given):
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                near = difflib.get_close_matches(name, known, 1, 0.6)
                message = f"There is no option {name}" + (f"; is {near[0]} meant?" if near else ".")
                break
        else:
            message = message[:1].upper() + message[1:].rstrip(".") + "."
        raise UserError(f"{message} `{self.prog} --help` lists all.")


class Progress:
    """A line such as "phantom 7/22 slides, 0.8/s, ETA 0:18"; rewritten on a terminal, else now and
    then."""

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
        left = round((self.total - done) / speed) if done else 0
        line = f"{self.what} {done}/{self.total} {self.unit}, {speed:.2g}/s, ETA {left // 60}:{left % 60:02d}"
        end = "\n" if done >= self.total or not terminal else ""
        print(f"{chr(13) if terminal else ''}{line}", end=end, file=sys.stderr, flush=True)


def names_list(text: str) -> list[str]:
    """The names in "a, b"; none in ""."""
    return [name.strip() for name in text.split(",") if name.strip()]


def identifier(name: str) -> str:
    """A data set's name made from a folder's: letters, digits and underscores only."""
    clean = re.sub(r"\W", "_", name)
    return clean if clean.isidentifier() else f"tiles_{clean}"
