"""Reading a configuration, and checking all of it before anything costs time."""

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict

from stedm_jax.common.errors import UserError
from stedm_jax.common.text import nearest
from stedm_jax.settings.flat import flatten, nested, to_dict
from stedm_jax.settings.root import Settings
from stedm_jax.settings.section_reader import (
    Reader,
    convert,
    refuse,
    type_hints,
    type_name,
)
from stedm_jax.settings.together import mistakes

_RENAMED = ("diffusion", "generator")
"""A stage of 0.1, and what it is called now."""


def base_config() -> ConfigDict:
    """The defaults, to be changed by an experiment."""
    return ConfigDict(to_dict(Settings()))


def load_config(spec: str) -> tuple[Any, str, str]:
    """Runs the config file that the user named.

    Args:
      spec: "path/to/file.py" or "path/to/file.py:arm".

    Returns:
      The configuration, the name of the file and the arm.

    Raises:
      UserError: there is no such file, it has no get_config, or it refuses the arm.
    """
    path, arm = _parts(spec)
    file = Path(path)
    if not file.is_file():
        known = sorted(str(each) for each in Path("configs").glob("[!_]*.py"))
        there = ", ".join(each for each in known if Path(each).stem != "base")
        raise UserError(
            f"There is no config file {path}." + (f" There are {there}." if there else "")
        )
    root = str(file.resolve().parent.parent)
    if root not in sys.path:
        sys.path.append(root)  # the file finds its base beside it, wherever the command is run
    module_spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"The config file {path} has no get_config(arm).")
        return _called(module.get_config, arm, path), file.stem, arm
    except SyntaxError as error:
        raise UserError(
            f"The config file {path} does not parse: line {error.lineno}: {error.msg}."
        ) from error
    except (ImportError, NameError) as error:
        raise UserError(f"The config file {path} cannot be read: {error}.") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"The config file {path} sets a key that does not exist, or a value of another type: "
            f"{error}. docs/configuration.md lists the keys."
        ) from error


def _parts(spec: str) -> tuple[str, str]:
    """Path and arm; a path may have colons of its own."""
    path, colon, arm = spec.rpartition(":")
    if not colon or Path(spec).is_file() or "/" in arm or arm.endswith(".py"):
        return spec, ""
    return path, arm


def _called(get_config: Any, arm: str, path: str) -> Any:
    """The configuration; a get_config() without parameters has no arms."""
    if inspect.signature(get_config).parameters:
        return get_config(arm)
    if arm:
        raise UserError(
            f"The config file {path} has no arms: its get_config() takes none. Leave out ':{arm}',"
            " or write get_config(arm)."
        )
    return get_config()


def override(config: Any, assignments: list[str]) -> None:
    """Applies "--config.a.b=value" overrides in place.

    Raises:
      UserError: lists every unknown key (with the nearest known one) and value of another type.
    """
    flat = flatten(config)
    refuse(wrong for each in assignments for wrong in _assign(config, flat, each))


def _assign(config: Any, flat: Mapping[str, Any], assignment: str) -> Iterator[str]:
    """Makes one change, or yields what is wrong with it."""
    key, given, text = assignment.partition("=")
    if key not in flat:
        yield f"The configuration has no key '{key}'.{nearest(key, flat)}"
        return
    if not given:
        yield f"'--config.{key}' needs a value: --config.{key}=VALUE."
        return
    parent, kind, (*parents, leaf) = config, Settings, key.split(".")
    for part in (*parents, leaf):
        kind = type_hints(kind)[part] if is_dataclass(kind) else get_args(kind)[1]
    for part in parents:
        parent = parent[part]
    try:
        parent[leaf] = convert(kind, _parse(kind, text))
    except (KeyError, TypeError, ValueError):
        yield f"config.{key} is of type {type_name(kind)} ({parent[leaf]!r}); '{text}' is not."


def _parse(kind: Any, text: str) -> Any:
    """What a text of the command line says: a tuple may be written as in Python, or as a,b."""
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    if get_origin(kind) is not tuple:
        return kind(text)
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = [item.strip() for item in text.strip("()[] ").split(",") if item.strip()]
    return value if isinstance(value, tuple | list) else (value,)


def read_settings(config: Any) -> Settings:
    """The typed settings of a configuration, all of them checked.

    Raises:
      UserError: lists every key that is unknown, missing or has a value that cannot be, and every
        few that do not go together.
    """
    reader = Reader()
    settings = reader.section(Settings(), config, "config")
    wrong = reader.problems
    old, new = _RENAMED
    if f"'{old}'" in wrong.get("config.stages", ""):
        wrong["config.stages"] += (
            f" The stage '{old}' is now called '{new}', and 'judge' (which learns to judge "
            "synthetic images) and 'quality' (which scores them) are stages of their own."
        )
    # A key that is wrong has its default meanwhile; what is said of it together with others is not.
    known = re.compile("|".join(rf"{re.escape(key)}(?!\w)" for key in wrong) or "(?!)")
    together = (text for text in mistakes(settings) if not known.search(text))
    refuse([*wrong.values(), *together])
    return settings


def from_flat(flat: Mapping[str, Any], source: str = "config.json") -> Settings:
    """Settings from the dotted keys of a saved run; keys that it lacks have the default.

    Args:
      source: for the message.

    Raises:
      UserError: a value that cannot be.
    """
    given = nested(flat)
    old, new = _RENAMED
    stages = given.get("stages", Settings().stages)
    given["stages"] = [new if stage == old else stage for stage in stages]
    reader = Reader(lenient=True)
    settings = reader.section(Settings(), given, source)
    refuse(reader.problems.values())
    return settings
