"""What a pickle of weights may name: a short list, and classes of packages that can do no harm,
which are dropped. Everything else is refused before anything is made of it.

A pickle is a program that calls what it names. Our reader (unpickle.py) never imports or calls
anything, so nothing could be executed anyway; but a file that names `os.system` is hostile and
should be reported as such, and a file that holds a whole module instead of its weights should be
recognized.
"""

import re
import sys
from dataclasses import dataclass

from stedm_jax.common.errors import UserError

STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "",
}
"""Class of a torch storage -> data type of its elements; an untyped one counts bytes."""

DTYPES = {name: name for name in STORAGES.values() if name}
DTYPES |= {name: name for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")}
DTYPES |= {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
}
"""`torch.<name>` -> name in NumPy or ml_dtypes."""

_PLAIN = "dict list tuple set frozenset int float bool str bytes bytearray complex object"
_EXACT = {
    "torch._utils": (
        "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 "
        "_rebuild_parameter _rebuild_parameter_with_state"
    ),
    "torch._tensor": "_rebuild_from_type_v2",
    "torch": f"device Size dtype strided memory_format contiguous_format {' '.join(DTYPES)}",
    "torch.serialization": "_get_layout",
    "numpy": "dtype ndarray bool_ float16 float32 float64 int8 int16 int32 int64 uint8",
    "numpy.core.multiarray": "scalar _reconstruct",
    "numpy._core.multiarray": "scalar _reconstruct",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "collections": "OrderedDict defaultdict deque Counter",
    "_codecs": "encode",
    "copyreg": "_reconstructor",
    "copy_reg": "_reconstructor",
    "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "datetime": "datetime timedelta date",
    "argparse": "Namespace",
    "typing": "Any Union Optional List Dict Tuple",
    "builtins": _PLAIN,
    "__builtin__": f"{_PLAIN} long unicode",
}
"""Module -> the only names of it, with which the state of a training is stored."""

_PACKAGES = "torch numpy pytorch_lightning lightning lightning_fabric lightning_utilities omegaconf"
"""Of these packages only classes may be named; as of packages unknown here, the objects are
dropped. Checkpoints hold some beside the weights: callbacks, settings of a training."""
_CLASS = re.compile(r"_?[A-Z][A-Za-z0-9_]*(\.[A-Z][A-Za-z0-9_]*)*")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_NEVER = (
    "os posix nt sys subprocess runpy importlib ctypes shutil webbrowser socket pty pickle _pickle "
    "marshal multiprocessing urllib requests builtins __builtin__ cpp_extension codecs"
)
"""By these programs run or files change: no part of a path, as in torch.os, may be one."""
_HARMFUL = "copy_reg imp pip dill joblib cloudpickle distutils setuptools commands"
"""Beside the standard library, packages by which a pickle does harm."""


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """A class or function that a pickle names. Nothing but the two texts: it is never imported and
    never called."""

    module: str
    name: str

    def __str__(self) -> str:
        return short(f"{self.module}.{self.name}")


def short(text: str, most: int = 120) -> str:
    """A text from a stranger as it can be printed: escaped and cut."""
    safe = ascii(text)[1:-1]
    return safe if len(safe) <= most else f"{safe[:most]}..."


def admit(module: str, name: str, where: str) -> Name:
    """The name, if weights are stored with it.

    Raises:
      UserError: it is none of those, and says whether that is hostile or merely unknown.
    """
    found, package = Name(module, name), module.split(".")[0]
    storage = module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES
    if storage or name in _EXACT.get(module, "").split():
        return found
    packages, never = _PACKAGES.split(), _NEVER.split()
    harmful = any(part in never for part in f"{module}.{name}".split("."))
    a_class = _MODULE.fullmatch(module) and _CLASS.fullmatch(name)
    if package in packages and a_class and not harmful:
        return found
    if harmful or package in (*packages, *_HARMFUL.split(), *sys.stdlib_module_names):
        raise UserError(
            f"{where} names {found}, which no weights need and by which a file can do harm where "
            "torch or pickle opens it. Nothing of it was executed, and it is refused. Do not open "
            "it with anything else; get the weights from their publisher, as safetensors where "
            "there is a choice."
        )
    if a_class:
        return found
    raise UserError(
        f"{where} names {found}, an object of a package that weights are not stored with; it was "
        "not made, and the file is refused. If it comes from its publisher, let them or yourself "
        "save the weights alone, torch.save(model.state_dict(), FILE), or as safetensors."
    )
