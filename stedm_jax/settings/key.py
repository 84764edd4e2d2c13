"""How a key is declared: its default, its meaning in one line, and which values it may have."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field
from functools import partial
from typing import Any, TypeVar, dataclass_transform

REQUIRED: Any = MISSING
"""In place of a default: whoever makes the section has to give a value."""
_T = TypeVar("_T")
Ints = tuple[int, ...]
Floats = tuple[float, ...]
Texts = tuple[str, ...]
Pairs = tuple[tuple[str, float], ...]
Changes = tuple[tuple[str, Any], ...]
"""(key, value) pairs."""
Shares = Mapping[str, float]


@dataclass(frozen=True)
class Key:
    """What is known of a key besides its type and its default.

    Attributes:
      meaning: one line; sections have their docstring instead.
      choices: valid values; of a tuple, valid items. Empty: any.
      low, high, above, below: limits of a number, or of the items of a tuple or dict; `above` and
        `below` are not valid themselves.
      length: of a tuple. some: a tuple or dict is not empty.
      changes: False if the key changes no result.
      terse: in entries of a dict (arms, sets): not written where it has its default.
      later: added when there were runs already; at its default it enters no stamp, so that cells
        made before hold.
    """

    meaning: str = ""
    choices: tuple[Any, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    above: int | float | None = None
    below: int | float | None = None
    length: int | None = None
    some: bool = False
    changes: bool = True
    terse: bool = False
    later: bool = False

    @property
    def limits(self) -> str:
        """What a value has to be, in words; empty for anything of the right type."""
        if self.choices:
            return f"valid are {', '.join(str(each) or repr(each) for each in self.choices)}"
        words = {
            f"{self.length} numbers": self.length,
            "at least one": self.some or None,
            f"{self.low} to {self.high}": self.high,
            f"{self.low} or more": self.low if self.high is None else None,
            f"above {self.above}": self.above,
            f"below {self.below}": self.below,
        }
        said = ", ".join(word for word, limit in words.items() if limit is not None)
        return f"give {said}" if said else ""

    def allows(self, value: Any) -> bool:
        """Whether a value of the right type is within the limits."""
        if not isinstance(value, tuple | Mapping):
            return self._allows(value)
        items = value.values() if isinstance(value, Mapping) else value
        fits = self.length in (None, len(value)) and (len(value) > 0 or not self.some)
        return fits and all(map(self._allows, items))

    def _allows(self, item: Any) -> bool:
        return (
            (not self.choices or item in self.choices)
            and (self.low is None or item >= self.low)
            and (self.high is None or item <= self.high)
            and (self.above is None or item > self.above)
            and (self.below is None or item < self.below)
        )


def key(default: Any, meaning: str, **known: Any) -> Any:
    """Declares a field of a `section`; arguments as the attributes of Key."""
    metadata = {"key": Key(meaning, **known)}
    if isinstance(default, dict):
        return field(default_factory=partial(dict, sorted(default.items())), metadata=metadata)
    return field(default=default, metadata=metadata)


positive = partial(key, low=1)
nonnegative = partial(key, low=0)
fraction = partial(key, low=0, high=1)


def known(field: Field[Any]) -> Key:
    """What was declared of a field; little of a section."""
    return field.metadata.get("key", Key())


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(cls: type[_T]) -> type[_T]:
    """Makes a class a frozen dataclass whose fields are keys or other sections.

    A method `problems(where)` may yield what is wrong with keys that do not go together, each a
    sentence with full keys; `where` is the key of the section.
    """
    return dataclass(frozen=True, kw_only=True)(cls)
