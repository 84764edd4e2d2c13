"""A closed reader of pickles: it can build containers, numbers, text and tensors, and nothing else.

`pickletools.genops` splits the file into opcodes without executing any. The machine here gives the
opcodes their usual
meaning, except that it has no way to import or to call: what is named becomes a `Name` if names.py
  admits it, and what
is made by calling a name becomes a dict, a `Tensor` or an `Inert` that stands for an object left
out.
Work and depth are bounded, whatever the file says: keys of dicts are scalars or short tuples of
  scalars (hashing
a deep one would take for ever or overflow the stack), and nothing here or later walks the whole of
what was built.
"""

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.convert.admitted_names import DTYPES, Name, admit, short

WORK = 1_000_000
"""Most opcodes and copied items of a file; a large checkpoint with its optimiser has under
300,000."""
AXES, SIZE = 16, 1 << 40
SLACK = 1 << 20
"""A tensor may have more elements than its storage (stride 0) only up to this many."""

_CONSTANTS = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
}
_VALUES: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


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
    Malformed,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,
    struct.error,
)


class Machine:
    """Runs one pickle.

    Args:
      stream: at the beginning of the pickle; left behind its end.
      where: what the file is called in an error.
      storage: makes a storage of what the pickle says about it.
      most: bytes that the pickle may have.
    """

    def __init__(self, stream: Any, where: str, storage: Callable[[Any], Any], most: int = 1 << 28):
        self.stream, self.where, self.storage, self.most = stream, where, storage, most
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.work = 0
        self.operations: dict[str, Callable[[Any], None]] = {
            name.removeprefix("_op_").upper(): getattr(self, name)
            for name in dir(self)
            if name.startswith("_op_")
        }

    def run(self) -> Any:
        """What the pickle describes.

        Raises:
          UserError: it names what is not admitted, is damaged, or would take too much.
        """
        start = self.stream.tell()
        try:
            for opcode, argument, _ in pickletools.genops(self.stream):
                self._spend(1)
                if self.stream.tell() - start > self.most:
                    raise self._too_much()
                self._step(opcode.name, argument)
            if len(self.stack) != 1 or self.outer:
                raise Malformed("it leaves no single value")
            return self.stack[0]
        except _BROKEN as error:
            raise UserError(
                f"{self.where} is damaged or no file of weights ({type(error).__name__}: {short(str(error))}). "
                "Download it again and compare its size."
            ) from error

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(argument)
        elif name in _VALUES:
            self.stack.append(_VALUES[name])
        elif name in self.operations:
            self.operations[name](argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise Malformed(f"opcode {name}, which weights are not stored with")

    def _spend(self, work: int) -> None:
        self.work += work
        if self.work > WORK:
            raise self._too_much()

    def _too_much(self) -> UserError:
        return UserError(
            f"{self.where} takes more work to read than any weights do (over {WORK:,} steps, or {self.most:,} bytes "
            "beside the tensors); it is refused. Save the state dict alone, or as safetensors."
        )

    def _marked(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    # Stack and memo

    def _op_mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def _op_pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._marked()

    def _op_pop_mark(self, _: Any) -> None:
        self._marked()

    def _op_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _op_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _op_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _op_binput = _op_long_binput = _op_put
    _op_binget = _op_long_binget = _op_get

    # Containers

    def _op_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _op_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _op_empty_set(self, _: Any) -> None:
        self.stack.append(set())

    def _op_list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _op_tuple(self, _: Any) -> None:
        items = tuple(self._marked())
        self.stack.append(items)

    def _op_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _op_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _op_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _op_dict(self, _: Any) -> None:
        items, made = self._marked(), {}
        self._fill(made, items)
        self.stack.append(made)

    def _op_frozenset(self, _: Any) -> None:
        items = frozenset(_key(item) for item in self._marked())
        self.stack.append(items)

    def _op_append(self, _: Any) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _op_appends(self, _: Any) -> None:
        items = self._marked()
        self._extend(items)

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise Malformed("items for what is no list")

    def _op_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(self.stack[-1], [key, value])

    def _op_setitems(self, _: Any) -> None:
        items = self._marked()
        self._fill(self.stack[-1], items)

    def _op_additems(self, _: Any) -> None:
        items, target = self._marked(), self.stack[-1]
        if isinstance(target, set):
            target.update(_key(item) for item in items)
        elif not isinstance(target, Inert):
            raise Malformed("items for what is no set")

    def _fill(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2 or not isinstance(target, dict | Inert):
            raise Malformed("items for what is no dict")
        if isinstance(target, dict):
            target.update(
                (_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)
            )

    # Names and what is made by calling them

    def _op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(admit(module, name, self.where))

    def _op_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Malformed("a name that is no text")
        self.stack.append(admit(module, name, self.where))

    def _op_inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        made = self._make(admit(module, name, self.where), tuple(self._marked()))
        self.stack.append(made)

    def _op_obj(self, _: Any) -> None:
        name, *arguments = self._marked()
        self.stack.append(self._make(name, tuple(arguments)))

    def _op_reduce(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        self.stack.append(self._make(name, arguments))

    _op_newobj = _op_reduce

    def _op_newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._op_reduce(None)

    def _op_build(self, _: Any) -> None:
        self.stack.pop()  # the state of an object that is left out, or the metadata of a state dict
        if not self.stack:
            raise Malformed("a state without an object")

    def _op_binpersid(self, _: Any) -> None:
        self.stack.append(self.storage(self.stack.pop()))

    def _make(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise Malformed("a call of what is no name")
        function = f"{name.module}.{name.name}"
        if function in (
            "collections.OrderedDict",
            "collections.defaultdict",
            "collections.Counter",
            "builtins.dict",
        ):
            return self._pairs(arguments)
        if function == "torch.Size":
            self._spend(len(arguments[0]))
            return tuple(arguments[0])
        if function in ("builtins.set", "__builtin__.set"):
            self._spend(len(arguments[0]) if arguments else 0)
            return {_key(item) for item in (arguments[0] if arguments else ())}
        if function in (
            "torch._utils._rebuild_parameter",
            "torch._utils._rebuild_parameter_with_state",
        ):
            return arguments[0]
        if function == "torch._tensor._rebuild_from_type_v2":
            return self._make(arguments[0], arguments[2])
        if name.module == "torch._utils":
            if len(arguments) < 4:
                raise Malformed("a tensor without storage, shape or strides")
            return tensor(
                *arguments[:4], DTYPES[arguments[6].name] if name.name.endswith("v3") else ""
            )
        return Inert(str(name))

    def _pairs(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        pairs = arguments[0] if arguments and isinstance(arguments[0], list | dict) else []
        self._spend(len(pairs))
        return {
            _key(key): value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)
        }


def _key(value: Any) -> Any:
    flat = (
        isinstance(value, tuple) and len(value) <= AXES and all(_is_scalar(item) for item in value)
    )
    if not flat and not _is_scalar(value):
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
    if (
        not isinstance(storage, Storage)
        or not isinstance(shape, tuple)
        or not isinstance(strides, tuple)
    ):
        raise Malformed("a tensor without storage, shape or strides")
    if len(shape) != len(strides) or len(shape) > AXES:
        raise Malformed(f"a tensor with {len(shape)} axes and {len(strides)} strides")
    numbers = (offset, *shape, *strides)
    if not all(type(number) is int and 0 <= number <= SIZE for number in numbers):
        raise Malformed("a tensor with a negative or huge offset, size or stride")
    dtype = dtype or storage.dtype
    if not dtype or (storage.dtype and storage.dtype != dtype):
        raise Malformed("a tensor of another data type than its storage")
    size = 1
    for length in shape:
        size *= length
    last = offset + sum(
        (length - 1) * stride for length, stride in zip(shape, strides, strict=True)
    )
    # An untyped storage counts bytes; that its elements fit too is checked when they are read.
    if size and last >= storage.count:
        raise Malformed(f"a tensor that reaches to element {last} of a storage of {storage.count}")
    if size > max(storage.count, SLACK):
        raise Malformed(f"a tensor of {size} elements over a storage of {storage.count}")
    return Tensor(storage, dtype, offset, shape, strides)
