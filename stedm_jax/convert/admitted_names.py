"""What a pickle of weights may name: a short list. Everything else is refused before anything is
made of it.

A pickle is a program that calls what it names. Our reader (unpickle.py) never imports or calls
anything, so that nothing could be executed anyway; but a file that names `os.system` is hostile and
should be known as such, and one that holds a whole module instead of its weights should be told
apart.
"""

import re
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

DTYPES = {
    name: name
    for name in (*STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
    if name
}
DTYPES |= {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
}
"""`torch.<name>` -> numpy's or ml_dtypes' name."""

# Functions and other names in small letters that the state of a training is stored with.
_EXACT = {
    "torch._utils": (
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
    ),
    "torch._tensor": ("_rebuild_from_type_v2",),
    "torch": ("device", "Size", "dtype", "strided", "memory_format", "contiguous_format", *DTYPES),
    "torch.serialization": ("_get_layout",),
    "numpy": (
        "dtype",
        "ndarray",
        "bool_",
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
    ),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
    "collections": ("OrderedDict", "defaultdict", "deque", "Counter"),
    "_codecs": ("encode",),
    "copyreg": ("_reconstructor",),
    "copy_reg": ("_reconstructor",),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    "datetime": ("datetime", "timedelta", "date"),
    "argparse": ("Namespace",),
    "typing": ("Any", "Union", "Optional", "List", "Dict", "Tuple"),
}
_PLAIN = (
    "dict",
    "list",
    "tuple",
    "set",
    "frozenset",
    "int",
    "float",
    "bool",
    "str",
    "bytes",
    "bytearray",
    "complex",
    "object",
)
_EXACT |= {"builtins": _PLAIN, "__builtin__": (*_PLAIN, "long", "unicode")}

# Of these packages classes may be named; the objects are dropped.
_PACKAGES = {
    "torch",
    "numpy",
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "omegaconf",
}
_CLASS = re.compile(r"_?[A-Z][A-Za-z0-9_]*(\.[A-Z][A-Za-z0-9_]*)*")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
# Modules by which programs run or files change: no part of a path, as in torch.os, may be one.
_NEVER = {
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "runpy",
    "importlib",
    "ctypes",
    "shutil",
    "webbrowser",
    "socket",
    "pty",
    "pickle",
    "_pickle",
    "marshal",
    "multiprocessing",
    "urllib",
    "requests",
    "builtins",
    "__builtin__",
    "cpp_extension",
    "codecs",
}
# Nor may the first part be one of these.
_DANGEROUS = _NEVER | {
    "posixpath",
    "ntpath",
    "imp",
    "platform",
    "code",
    "codeop",
    "commands",
    "pdb",
    "bdb",
    "timeit",
    "cProfile",
    "profile",
    "trace",
    "threading",
    "asyncio",
    "signal",
    "pip",
    "shelve",
    "dill",
    "joblib",
    "cloudpickle",
    "http",
    "ftplib",
    "smtplib",
    "tempfile",
    "glob",
    "io",
    "_io",
    "operator",
    "functools",
    "types",
    "inspect",
    "ast",
    "distutils",
    "setuptools",
    "site",
    "venv",
    "gc",
    "_codecs",
    "linecache",
    "logging",
    "concurrent",
    "select",
    "telnetlib",
    "zipfile",
    "tarfile",
    "zipimport",
    "pkgutil",
}


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
    parts = module.split(".")
    if name in _EXACT.get(module, ()) or (parts[0] == "torch" and _is_storage(module, name)):
        return Name(module, name)
    dangerous = parts[0] in _DANGEROUS or any(part in _NEVER for part in (*parts, *name.split(".")))
    known = parts[0] in _PACKAGES and _MODULE.fullmatch(module) and _CLASS.fullmatch(name)
    if known and not dangerous:
        return Name(module, name)
    what = short(f"{module}.{name}")
    if dangerous or parts[0] in _PACKAGES or module in _EXACT:
        raise UserError(
            f"{where} names {what}, which no weights need and by which a file can do harm where torch or pickle opens "
            "it. "
            "Nothing of it was executed, and it is refused. Do not open it with anything else; get the weights from "
            "their publisher, as safetensors where there is a choice."
        )
    raise UserError(
        f"{where} names {what}, an object of a package that weights are not stored with; it was not made, and the file "
        "is refused. If it comes from its publisher, let them or yourself save the weights alone, "
        "torch.save(model.state_dict(), FILE), or as safetensors."
    )


def _is_storage(module: str, name: str) -> bool:
    return module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES
