"""How a key is declared: its default, its meaning in one line, and which values it may have."""

from dataclasses import MISSING, dataclass, field
from functools import partial
from typing import Any, TypeVar, dataclass_transform

REQUIRED: Any = MISSING
"""In place of a default: whoever makes the section has to give a value."""
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Key:
    """What is known of a key besides its type and its default.

    Attributes:
      meaning: one line.
      choices: valid values; of a tuple, valid items. Empty: any.
      low, high, above, below: limits of a number, or of the items of a tuple or dict; `above` and
        `below` are not valid themselves.
      length: of a tuple.
      changes: False if the key changes no result.
      terse: in entries of a dict (arms, sets): not written where it has its default.
    """

    meaning: str
    choices: tuple[str, ...] | tuple[int, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    above: int | float | None = None
    below: int | float | None = None
    length: int | None = None
    changes: bool = True
    terse: bool = False

    @property
    def limits(self) -> str:
        """What a value has to be, in words; empty for anything of the right type."""
        if self.choices:
            return f"valid are {', '.join(str(each) or repr(each) for each in self.choices)}"
        words = [
            *([f"{self.low:g} or more"] if self.low is not None else []),
            *([f"above {self.above:g}"] if self.above is not None else []),
            *([f"at most {self.high:g}"] if self.high is not None else []),
            *([f"below {self.below:g}"] if self.below is not None else []),
        ]
        if self.low is not None and self.high is not None:
            words = [f"{self.low:g} to {self.high:g}"]
        if self.length:
            words.insert(0, f"{self.length} numbers")
        return f"give {', '.join(words)}" if words else ""

    def allows(self, value: Any) -> bool:
        """Whether a value of the right type is within the limits."""
        items = value.values() if isinstance(value, dict) else value
        if not isinstance(value, (tuple, dict)):
            items = (value,)
        elif self.length is not None and len(value) != self.length:
            return False
        return all(self._allows(item) for item in items)

    def _allows(self, item: Any) -> bool:
        return not (
            (self.choices and item not in self.choices)
            or (self.low is not None and item < self.low)
            or (self.high is not None and item > self.high)
            or (self.above is not None and item <= self.above)
            or (self.below is not None and item >= self.below)
        )


def key(default: Any, meaning: str, **known: Any) -> Any:
    """Declares a field of a `section`; arguments as the attributes of Key."""
    metadata = {"key": Key(meaning=meaning, **known)}
    if isinstance(default, dict):
        return field(default_factory=partial(dict, default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(cls: type[_T]) -> type[_T]:
    """Makes a class a frozen dataclass whose fields are keys.

    A method `problems(where)` may yield what is wrong with keys that do not go together, each a
    sentence that begins with a full key; `where` is the key of the section.
    """
    return dataclass(frozen=True, kw_only=True)(cls)
