"""Names that people and programs write: which are one name in two spellings, which stand for a
missing value, and lists of them in an option."""

import re
import unicodedata
from collections.abc import Iterable

_MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "nat", "none", "null", "nil", "-", "--", "---"}
_MISSING |= {".", "?", "??", "unknown", "missing", "not available", "#value!", "#ref!", "#null!"}


def nfc(text: str) -> str:
    """A text with accents composed (Unicode NFC), as Linux and Windows write file names and macOS
    does not."""
    return unicodedata.normalize("NFC", text)


def one_blank(text: str) -> str:
    """A name in NFC, without blanks at its ends and with single ones within."""
    return nfc(" ".join(text.split()))


def without_case(name: str) -> str:
    """What is equal for names that differ in case, blanks or kind of letters only."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def as_number(name: str) -> str:
    """What is equal for patients who are likely to be one: also of 007, 7 and 7.0, which
    spreadsheets make of each other."""
    key = re.sub(r"^(\d+)[.,]0+$", r"\1", without_case(name))
    return re.sub(r"(?<![\d.,])0+(?=\d)", "", key)


def is_missing(name: str) -> bool:
    """Whether a name is what programs and people write for a missing value."""
    return name.strip().casefold() in _MISSING


def split_outside_quotes(text: str, mark: str) -> list[str]:
    """The parts of a text between marks that stand in no double quotes; without blanks at their
    ends, and with their quotes."""
    inner = re.escape(mark)
    return [part.strip() for part in re.split(rf'{inner}(?=(?:[^"]*"[^"]*")*[^"]*$)', text)]


def unquoted(name: str) -> str:
    """A name as it is compared, without the quotes around it."""
    quoted = len(name) > 1 and name[0] == name[-1] == '"'
    return one_blank(name[1:-1] if quoted else name)


def base_stem(name: str) -> str:
    """The file name of a path, without its ending, in NFC."""
    return stem(name.replace("\\", "/").rsplit("/", 1)[-1])


def stem(name: str) -> str:
    """A file name in NFC without its last suffix, if what follows the last point looks like one,
    and without the ".ome" before that of an OME-TIFF."""
    base, _, suffix = nfc(name).rpartition(".")
    is_suffix = len(suffix) <= 8 and suffix.isalnum() and not suffix.isdigit()
    if not base or not is_suffix:
        return nfc(name)
    return base[:-4] if re.fullmatch(r".+\.ome", base, re.IGNORECASE) else base


def spellings(name: str) -> list[str]:
    """What files that belong to a file may be named after: its name in NFC, that without its
    ending, and its stem."""
    return list(dict.fromkeys([nfc(name), nfc(name).rpartition(".")[0] or name, stem(name)]))


def listed(names: Iterable[str]) -> str:
    """Names for a message, as they can stand in an option: those with a comma in quotes."""
    return ", ".join(f'"{name}"' if re.search("[,|=]", name) else name for name in names)
