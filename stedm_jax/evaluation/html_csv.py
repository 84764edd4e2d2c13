"""A table of the page as CSV, so that what can be read can be downloaded."""

import csv
import io
import re
from html.parser import HTMLParser
from urllib.parse import quote

DASH = "\N{EN DASH}"
"""How the page writes an undefined number."""
MINUS = re.compile("\N{MINUS SIGN}(?=\\d)")
"""How it writes the sign of a negative one."""


class _Cells(HTMLParser):
    """The texts of the cells, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def csv_of(rows: str) -> str:
    """The rows of an HTML table as CSV; a dash for an undefined number is an empty field."""
    cells = _Cells()
    cells.feed(rows)
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerows([_plain(cell) for cell in row] for row in cells.rows)
    return text.getvalue()


def csv_url(rows: str) -> str:
    """The same as a data URL."""
    return "data:text/csv;charset=utf-8," + quote(csv_of(rows))


def _plain(cell: str) -> str:
    """What programs read; dashes within names stay."""
    cell = cell.strip()
    return "" if cell == DASH else MINUS.sub("-", cell)
