"""A closed reader of pickles: it can build containers, numbers, text and tensors, and nothing else.

`pickletools.genops` splits the file into opcodes without executing any. The machine here gives the
opcodes their usual meaning, except that it has no way to import or to call: what is named becomes a
`Name` if admitted_names.py admits it, and what is made by calling a name becomes a dict, a `Tensor`
or an `Inert` that stands for an object left out.

Work and depth are bounded, whatever the file says: keys of dicts are scalars or short tuples of
scalars (hashing a deep one would never end, or overflow the stack), and nothing here or later walks
the whole of what was built.
"""

import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.convert.admitted_names import DTYPES, Name, admit, short

WORK = 1_000_000
"""Most opcodes and copied items of a file; a large checkpoint with its optimizer has under
300,000."""
BYTES = 1 << 28
"""Most bytes of a pickle, which are those beside the tensors."""
AXES, SIZE = 16, 1 << 40
SLACK = 1 << 20
"""A tensor may have more elements than its storage (stride 0) only up to this many."""

_CONSTANTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
"""Opcodes whose argument is the value itself."""
_VALUES: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = ("PROTO", "FRAME", "STOP")


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """Where elements lie: a key of the file, a data type ("" where only bytes are counted), how
    many there are."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A view of a storage, in elements; checked to lie inside of it."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Inert:
    """Stands for an object that was not made."""

    of: str


class Malformed(Exception):
    """The pickle is not one that a pickler writes."""


# RuntimeError: nested deeper than Python goes.
_BROKEN = (
    *(Malformed, ValueError, LookupError, TypeError, AttributeError, OverflowError, RuntimeError),
    struct.error,
)


class Machine:
    """Runs one pickle.

    Args:
      stream: at the beginning of the pickle; left behind its end.
      where: what the file is called in an error.
      storage: makes a storage of what the pickle says about it.
    """

    def __init__(self, stream: Any, where: str, storage: Callable[[Any], Any]):
        self.stream, self.where, self.storage = stream, where, storage
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.work = 0

    def run(self) -> Any:
        """What the pickle describes.

        Raises:
          UserError: it names what is not admitted, is damaged, or would take too much.
        """
        start = self.stream.tell()
        try:
            for opcode, argument, _ in pickletools.genops(self.stream):
                self._spend(1)
                if self.stream.tell() - start > BYTES:
                    raise self._too_much()
                self._step(opcode.name, argument)
            if len(self.stack) != 1 or self.outer:
                raise Malformed("it leaves no single value")
            return self.stack[0]
        except _BROKEN as error:
            raise UserError(
                f"{self.where} is damaged or no file of weights ({type(error).__name__}: "
                f"{short(str(error))}). Download it again and compare its size."
            ) from error

    def _spend(self, work: int) -> None:
        self.work += work
        if self.work > WORK:
            raise self._too_much()

    def _too_much(self) -> UserError:
        return UserError(
            f"{self.where} takes more work to read than any weights do (over {WORK:,} steps, or "
            f"{BYTES:,} bytes beside the tensors); it is refused. Save the state dict alone, or as "
            "safetensors."
        )

    def _step(self, opcode: str, argument: Any) -> None:
        if opcode in _CONSTANTS:
            self._push(argument)
        elif opcode in _VALUES:
            self._push(_VALUES[opcode])
        elif opcode in _CONTAINERS:
            self._push(_CONTAINERS[opcode]())
        elif opcode in _TUPLES:
            items = [self._pop() for _ in range(_TUPLES[opcode])]
            self._push(tuple(reversed(items)))
        elif opcode not in _NOTHING:
            self._move(opcode, argument)

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self) -> Any:
        return self.stack.pop()

    def _marked(self) -> list[Any]:
        """The items since the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def _move(self, opcode: str, argument: Any) -> None:
        """Stack and memo."""
        match opcode:
            case "MARK":
                self.outer.append(self.stack)
                self.stack = []
            case "POP" if self.stack:
                self._pop()
            case "POP" | "POP_MARK":
                self._marked()
            case "DUP":
                self._push(self.stack[-1])
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self._push(self.memo[argument])
            case "BINPERSID":
                self._push(self.storage(self._pop()))
            case _:
                self._fill(opcode, argument)

    def _fill(self, opcode: str, argument: Any) -> None:
        """Containers."""
        match opcode:
            case "LIST":
                self._push(self._marked())
            case "TUPLE":
                self._push(tuple(self._marked()))
            case "DICT":
                self._push(_pairs(self._marked()))
            case "FROZENSET":
                self._push(frozenset(map(_key, self._marked())))
            case "APPEND":
                self._add(list, [self._pop()])
            case "APPENDS":
                self._add(list, self._marked())
            case "ADDITEMS":
                self._add(set, self._marked())
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._add(dict, [key, value])
            case "SETITEMS":
                self._add(dict, self._marked())
            case _:
                self._call(opcode, argument)

    def _add(self, kind: type, items: list[Any]) -> None:
        """Adds items to the container on top of the stack; one that was not made drops them."""
        target = self.stack[-1]
        if isinstance(target, Inert):
            return
        if not isinstance(target, kind):
            raise Malformed(f"items for what is no {kind.__name__}")
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(map(_key, items))
        else:
            target.update(_pairs(items))

    def _call(self, opcode: str, argument: Any) -> None:
        """Names, and what is made by calling them."""
        match opcode:
            case "GLOBAL":
                self._push(self._named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = self._pop(), self._pop()
                self._push(self._named(module, name))
            case "INST":
                name = self._named(*argument.split(" ", 1))
                self._push(self._make(name, tuple(self._marked())))
            case "OBJ":
                name, *arguments = self._marked()
                self._push(self._make(name, tuple(arguments)))
            case "REDUCE" | "NEWOBJ":
                arguments, name = self._pop(), self._pop()
                self._push(self._make(name, arguments))
            case "NEWOBJ_EX":
                self._pop()
                self._call("REDUCE", None)
            case "BUILD":  # the state of an object left out, or the metadata of a state dict
                self._pop()
                if not self.stack:
                    raise Malformed("a state without an object")
            case _:
                raise Malformed(f"opcode {opcode}, which weights are not stored with")

    def _named(self, module: Any, name: Any) -> Name:
        if not isinstance(name, str) or not isinstance(module, str):
            raise Malformed("a name that is no text")
        return admit(module, name, self.where)

    def _make(self, name: Any, arguments: Any) -> Any:
        """What a call gives: of a few names a container or a tensor, of all others nothing."""
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise Malformed("a call of what is no name")
        match name.module, name.name:
            case ("collections", "OrderedDict" | "defaultdict" | "Counter") | ("builtins", "dict"):
                return self._dict(*arguments[:1])
            case "torch", "Size":
                self._spend(len(arguments[0]))
                return tuple(arguments[0])
            case "builtins" | "__builtin__", "set":
                items = arguments[0] if arguments else ()
                self._spend(len(items))
                return set(map(_key, items))
            case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return arguments[0]
            case "torch._tensor", "_rebuild_from_type_v2":
                return self._make(arguments[0], arguments[2])
            case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
                return tensor(*arguments[:4])
            case "torch._utils", "_rebuild_tensor_v3":
                return tensor(*arguments[:4], dtype=DTYPES[arguments[6].name])
        return Inert(str(name))

    def _dict(self, given: Any = ()) -> dict[Any, Any]:
        """A dict of pairs; of another argument, such as the type of a defaultdict, an empty one."""
        if not isinstance(given, list | dict):
            return {}
        self._spend(len(given))
        pairs = given.items() if isinstance(given, dict) else given
        return {_key(key): value for key, value in pairs}


def _pairs(items: list[Any]) -> dict[Any, Any]:
    """A dict of keys and values in turn."""
    return dict(zip(map(_key, items[::2]), items[1::2], strict=True))


def _key(value: Any) -> Any:
    parts = value if isinstance(value, tuple) and len(value) <= AXES else (value,)
    if not all(map(_is_scalar, parts)):
        raise Malformed(f"a {type(value).__name__} as a key")
    return value


def _is_scalar(value: Any) -> bool:
    if isinstance(value, int):
        return value.bit_length() <= 64
    return isinstance(value, str | float | bytes | Name | Inert | None)


def tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str = "") -> Tensor:
    """A checked view of a storage.

    Raises:
      Malformed: numbers that are none, or a view that reaches out of the storage or is far larger
        than it.
    """
    made = isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
    if not made or len(shape) != len(strides) or len(shape) > AXES:
        raise Malformed("a tensor without a storage, or with shape and strides that none can have")
    numbers = (offset, *shape, *strides)
    if not all(type(number) is int and 0 <= number <= SIZE for number in numbers):
        raise Malformed("a tensor with a negative or huge offset, size or stride")
    dtype = dtype or storage.dtype
    if not dtype or (storage.dtype and storage.dtype != dtype):
        raise Malformed("a tensor of another data type than its storage")
    size = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    # An untyped storage counts bytes; that its elements fit too is checked when they are read.
    if size and last >= storage.count:
        raise Malformed(f"a tensor that reaches to element {last} of a storage of {storage.count}")
    if size > max(storage.count, SLACK):
        raise Malformed(f"a tensor of {size} elements over a storage of {storage.count}")
    return Tensor(storage, dtype, offset, shape, strides)
