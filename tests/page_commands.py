"""The code on a page, as its readers copy it: blocks, commands, and the output that is promised."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SHELL = ("sh", "bash", "")
"""Languages of blocks that hold commands; "" stands for blocks without one, and indented ones."""


@dataclass(frozen=True)
class Block:
    """A block of code; `language` is "" for none, `line` that of its first line, from 1."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Commands of the shell: continued lines in one, a here-document with its command, comments
        and blank lines left out."""
        found, lines = [], iter(self.text.splitlines())
        for line in lines:
            while line.endswith("\\"):
                line = line[:-1].rstrip() + " " + next(lines).strip()
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            found.append(line)
            end = re.search(r"<<\s*['\"]?(\w+)", line)
            while end and line != end[1]:
                line = next(lines)
                found[-1] += f"\n{line}"
        return found


def blocks(page: Path) -> list[Block]:
    """All blocks of a page in their order, fenced and indented ones."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        fence = re.match(r"( *)(```+)\s*(\w*)", lines[number])
        if fence:
            start, (indent, mark, language) = number + 1, fence.groups()
            number = next(n for n in range(start, len(lines)) if lines[n].strip() == mark)
        elif lines[number].startswith(" " * 4) and (number == 0 or not lines[number - 1].strip()):
            start, indent, language = number, " " * 4, ""
            while number < len(lines) and lines[number].startswith(indent):
                number += 1
        else:
            number += 1
            continue
        text = "\n".join(line.removeprefix(indent) for line in lines[start:number]) + "\n"
        found.append(Block(page, start + 1, language, text))
        number += 1
    return found


def shell_blocks(page: Path) -> list[Block]:
    """The blocks that hold commands."""
    return [block for block in blocks(page) if block.language in SHELL]


def python_commands(page: Path) -> Iterator[tuple[Block, list[str]]]:
    """Each `python -m MODULE ...` of a page, split into words from MODULE on, with its block. Of
    `A && B` and pipes, every part counts."""
    for block in shell_blocks(page):
        for command in block.commands:
            words = shlex.split(command.splitlines()[0], comments=True)
            for part in _parts(words):
                if part[:2] == ["python", "-m"]:
                    yield block, part[2:]


def _parts(words: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word in ("&&", "||", "|", ";", ">", ">>", "&"):
            yield part
            part = []
        else:
            part.append(word)
    yield part


def promised(page: Path) -> list[tuple[Block, str]]:
    """Blocks of commands, each with the `text` block that follows it before the next: the output
    that the page promises ("" where it promises nothing)."""
    found: list[tuple[Block, str]] = []
    for block in blocks(page):
        if block.language in SHELL:
            found.append((block, ""))
        elif block.language == "text" and found and not found[-1][1]:
            found[-1] = (found[-1][0], block.text)
    return found


def missing_line(promise: str, output: str) -> str | None:
    """The first promised line that the output does not have, behind those before it; None if it has
    all. Numbers, and how far words stand apart, may differ; "..." stands for anything."""
    lines = iter(output.splitlines())
    for wanted in filter(str.strip, promise.splitlines()):
        pattern = _pattern(wanted)
        if wanted.strip() != "..." and not any(pattern.fullmatch(line.strip()) for line in lines):
            return wanted
    return None


NUMBER = r"\d+(?:[.:,]\d+)*"


def _pattern(line: str) -> re.Pattern[str]:
    """What a promised line allows."""
    text = ""
    for piece in re.findall(rf"\.\.\.|{NUMBER}|\s+|.", line.strip()):
        if piece == "...":
            text += ".*"
        elif piece.isspace():
            text += r"\s+"
        else:
            text += NUMBER if piece[0].isdigit() else re.escape(piece)
    return re.compile(text)
