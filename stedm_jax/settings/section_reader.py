"""Sections from nested mappings, key by key; what is wrong is collected, not raised at once."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import expand_home
from stedm_jax.common.text import nearest
from stedm_jax.settings.flat import to_dict
from stedm_jax.settings.key import Key, known

T = TypeVar("T")
type_hints = functools.cache(get_type_hints)
START = "start from configs.base.get_base()"


class Reader:
    """Reads sections; `problems` is full key -> what is wrong with it, which keeps its default.

    Args:
      lenient: unknown and missing keys are no problem.
    """

    def __init__(self, lenient: bool = False):
        self.lenient = lenient
        self.problems: dict[str, str] = {}

    def section(self, base: T, given: Any, where: str, entry: bool = False) -> T:
        """A section of the class of `base`, which has the defaults; `where` is its full key, and
        `entry` says that the user names it, so that no default configuration has it."""
        if is_dataclass(given):
            given = to_dict(given)
        if not isinstance(given, Mapping | ConfigDict):
            return self._wrong(where, given, "it holds several keys", base)
        declared = {field.name: field for field in fields(base)}  # pyright: ignore
        values = {}
        for name in given:
            at = f"{where}.{name}"
            if name in declared:
                values[name] = self._field(declared[name], base, given[name], at)
            elif not self.lenient:
                self.problems[at] = f"{at} is an unknown key.{nearest(name, declared)}"
        for name, field in declared.items():
            at = f"{where}.{name}"
            if name not in given and known(field).terse:
                values[name] = field.default
            elif name not in given and not self.lenient:
                advice = f"give it, such as {name}={getattr(base, name)!r}" if entry else START
                self.problems[at] = f"{at} is missing; {advice}."
        return replace(base, **values)  # pyright: ignore

    def _field(self, field: Field[Any], base: Any, given: Any, at: str) -> Any:
        kind, about = type_hints(type(base))[field.name], known(field)
        if get_origin(kind) is not Mapping:
            return self._value(kind, about, getattr(base, field.name), given, at)
        defaults = field.default_factory()  # pyright: ignore
        if not isinstance(given, Mapping | ConfigDict):
            return self._wrong(at, given, "it holds several keys", defaults)
        if about.some and not given:
            return self._wrong(at, dict(given), about.limits, defaults)
        kind = get_args(kind)[1]
        like = next(iter(defaults.values()), None) or kind()
        return {
            name: self._value(kind, about, like, each, f"{at}.{name}", entry=True)
            for name, each in sorted(given.items())
        }

    def _value(
        self, kind: Any, about: Key, default: Any, given: Any, at: str, entry: bool = False
    ) -> Any:
        if is_dataclass(kind):
            return self.section(default, given, at, entry)
        try:
            made = convert(kind, given)
        except TypeError:
            return self._wrong(at, given, f"its type is {type_name(kind)}", default)
        except ValueError as error:
            return self._wrong(at, given, str(error), default)
        return made if about.allows(made) else self._wrong(at, made, about.limits, default)

    def _wrong(self, at: str, value: Any, text: str, default: T) -> T:
        self.problems[at] = f"{at} is {value!r}; {text}."
        return default


def convert(kind: Any, value: Any) -> Any:
    """A value as its type, where it fits: a tuple from a list, a float from an int, a path in the
    home folder from "~/path".

    Raises:
      TypeError: it does not fit.
      ValueError: a number that is not finite; the message says so.
    """
    if kind is Any:
        return tuple(convert(Any, each) for each in value) if _is_list(value) else value
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not _is_list(value) or (kinds[-1] is not ... and len(kinds) != len(value)):
            raise TypeError
        each = [kinds[0]] * len(value) if kinds[-1] is ... else kinds
        return tuple(map(convert, each, value))
    if kind in (int, float):
        return _number(kind, value)
    if not isinstance(value, kind):
        raise TypeError
    return expand_home(value) if kind is str else value


def _number(kind: Any, value: Any) -> Any:
    """An int or a float; see `convert`."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError
    if not abs(value) < math.inf:
        raise ValueError("give a finite number")
    if kind is int and value != int(value):
        raise TypeError
    return kind(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple | list)


def type_name(kind: Any) -> str:
    """The type of a key as users read it."""
    inner = get_args(kind)
    if get_origin(kind) is Mapping:
        return f"dict of {type_name(inner[1])}"
    if get_origin(kind) is not tuple:
        return "value" if kind is Any else kind.__name__
    if inner[-1] is ...:
        return f"tuple of {type_name(inner[0])}"
    return f"({', '.join(map(type_name, inner))})"


def check(section: Any, where: str) -> Iterator[str]:
    """What the `problems` of a section and of those within it say."""
    if hasattr(section, "problems"):
        yield from section.problems(where)
    for field in fields(section):
        if is_dataclass(value := getattr(section, field.name)):
            yield from check(value, f"{where}.{field.name}")


def read_section(base: T, given: Any, where: str) -> T:
    """A section by itself.

    Raises:
      UserError: lists all that is wrong with it.
    """
    if isinstance(given, type(base)):
        return given
    reader = Reader()
    made = reader.section(base, given, where)
    refuse(reader.problems.values() or check(made, where))
    return made


def changed(
    section: T, where: str, changes: Iterable[tuple[str, Any]], who: str, same: Iterable[str]
) -> T:
    """A section with (key, value) changes.

    Args:
      where: its key, as "segmentation". who: for the message: "arm 'ldm'".
      same: first parts of keys that may not be changed.

    Raises:
      UserError: it has no such key, or a value that cannot be.
    """
    if not (changes := tuple(changes)):
        return section
    given = to_dict(section)
    for key, value in changes:
        *parents, leaf = key.split(".")
        node: Any = given
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            raise UserError(f"The {who} changes '{key}', which config.{where} does not have.")
        if key.split(".")[0] in same:
            raise UserError(f"The {who} changes '{key}', which is the same for all.")
        node[leaf] = value
    reader = Reader()
    made = reader.section(section, given, f"config.{where}")
    refuse(f"The {who} makes a wrong change: {text}" for text in reader.problems.values())
    return made


def refuse(problems: Iterable[str]) -> None:
    """Raises a UserError that lists what is wrong, if anything is."""
    found = list(dict.fromkeys(problems))
    if len(found) == 1:
        raise UserError(found[0])
    if found:
        lines = "".join(f"\n  {text}" for text in found)
        raise UserError(f"The configuration has {len(found)} mistakes:{lines}")
