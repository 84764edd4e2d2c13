"""Files of torch.save written by hand, so that tests need no torch; and hostile ones."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

KINDS = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
BF16 = np.dtype(ml_dtypes.bfloat16)


class Named:
    """Pickles as the global `module.name`."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class Call:
    """Pickles as a call of a global, which is what __reduce__ gives."""

    def __init__(self, named: Named, *arguments: Any, state: Any = None):
        self.named, self.arguments, self.state = named, arguments, state


class Stored:
    """Pickles as a tensor over a storage."""

    def __init__(
        self,
        key: str,
        values: np.ndarray,
        offset: int,
        shape: tuple,
        strides: tuple,
        count: int | None = None,
    ):
        self.key, self.values, self.count = key, values, values.size if count is None else count
        self.view = (offset, shape, strides)


class _Writer(pickle._Pickler):  # the one in Python, whose methods can be replaced
    def __init__(self, file: Any, protocol: int = 2):
        super().__init__(file, protocol)
        self.storages: dict[str, np.ndarray] = {}

    def save(self, obj: Any, save_persistent_id: bool = True) -> Any:
        if isinstance(obj, Named):
            return self.write(f"c{obj.module}\n{obj.name}\n".encode())
        if isinstance(obj, Call):
            self.save(obj.named)
            self.save(tuple(obj.arguments))
            self.write(b"R")
            if obj.state is not None:
                self.save(obj.state)
                self.write(b"b")
            return None
        if isinstance(obj, Stored):
            return self._tensor(obj)
        return super().save(obj, save_persistent_id)

    def _tensor(self, stored: Stored) -> None:
        self.storages[stored.key] = stored.values
        self.write(b"ctorch._utils\n_rebuild_tensor_v2\n(")
        kind = Named("torch", KINDS[stored.values.dtype.name])
        self.save(("storage", kind, stored.key, "cpu", stored.count))
        self.write(b"Q")
        offset, shape, strides = stored.view
        for part in (offset, shape, strides, False, OrderedDict()):
            self.save(part)
        self.write(b"tR")


def whole(key: str, values: np.ndarray) -> Stored:
    """A contiguous tensor with a storage of its own."""
    strides = [stride // values.itemsize for stride in values.strides]
    return Stored(key, np.ravel(values), 0, values.shape, tuple(strides))


def pickled(content: Any, protocol: int = 2) -> tuple[bytes, dict[str, np.ndarray]]:
    """The pickle of `content` and the storages that it uses."""
    file = io.BytesIO()
    writer = _Writer(file, protocol)
    writer.dump(content)
    return file.getvalue(), writer.storages


def write_zip(
    path: Path,
    content: Any,
    *,
    extra: dict[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
) -> Path:
    """`content` as torch.save writes it since 1.6; bytes are taken as the pickle itself."""
    data, storages = (content, {}) if isinstance(content, bytes) else pickled(content)
    entries = {"data.pkl": data, "byteorder": b"little"}
    entries |= {f"data/{key}": values.tobytes() for key, values in storages.items()}
    entries |= {"version": b"3\n"} | (extra or {})
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, contents in entries.items():
            archive.writestr(f"archive/{name}", contents)
    return path


class Exploit:
    """Pickles, with the standard pickler, as a call that runs when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments
