"""Files of torch.save without torch: the zip format of torch 1.6 and later, and the one before it.

The file is mapped into memory, not read: a tensor becomes an array over the mapped bytes when it is
asked for, so a checkpoint of gigabytes costs what is taken from it. What is refused: compressed
entries (torch.save never compresses, a zip bomb must), entries that overlap or reach out of the
file, names given twice, tensors outside of their storage (see unpickle.py), big-endian files,
TorchScript programs.
"""

import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  declares bfloat16 and float8 to numpy
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.convert.admitted_names import STORAGES, Name, short
from stedm_jax.convert.unpickle import SIZE, Machine, Malformed, Storage, Tensor

ENTRIES = 200_000
_MAGIC = 0x1950A86A20F9469CFC6C  # begins the format before torch 1.6
_PROTOCOL = 1001
_SAVE_ANEW = "Load it with the torch that wrote it and save the state dict anew, or as safetensors."


class TorchFile:
    """A file of torch.save.

    Attributes:
      content: what was saved, with a `Tensor` for each tensor; `array` reads one.

    Raises:
      UserError: the file is hostile, damaged or of another kind; it names the file and what to do.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}).") from error
        self._spans: dict[str, tuple[int, int, int]] = {}  # storage -> begin, end, checksum or 0
        self._checked: set[str] = set()
        self.content = self._zip() if self._map[:2] == b"PK" else self._legacy()

    def array(self, tensor: Tensor) -> np.ndarray:
        """The values of a tensor, over the mapped file: read-only, strided as saved.

        Raises:
          UserError: they are not in the file or not as they were written.
        """
        dtype = np.dtype(tensor.dtype)
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, dtype)
        begin, end = self._sound(tensor.storage)
        try:
            strides = [stride * dtype.itemsize for stride in tensor.strides]
            view = np.frombuffer(self._map, np.uint8, end - begin, begin)
            plain = np.dtype(np.uint8) if dtype == np.bool_ else dtype
            # numpy checks the bounds itself, once more.
            found = np.ndarray(tensor.shape, plain, view, tensor.offset * dtype.itemsize, strides)
        except (ValueError, TypeError) as error:
            raise self._damaged(f"a tensor reaches out of its storage ({error})") from error
        return found != 0 if dtype == np.bool_ else found

    def _sound(self, storage: Storage) -> tuple[int, int]:
        """Begin and end of a storage that is in the file as it was written."""
        name = f"the storage {short(storage.key)}"
        if storage.key not in self._spans:
            raise self._damaged(f"it has no data for {name}")
        begin, end, checksum = self._spans[storage.key]
        needed = _bytes_of(storage)
        if needed > end - begin:
            raise self._damaged(f"{name} needs {needed:,} bytes and has {end - begin:,}")
        if storage.key not in self._checked:
            self._compare(memoryview(self._map)[begin:end], checksum, name)
            self._checked.add(storage.key)
        return begin, end

    def _compare(self, data: memoryview | bytes, checksum: int, what: str) -> None:
        if checksum and zlib.crc32(data) != checksum:
            raise self._damaged(f"the checksum of {what} is another")

    def _unpickle(self, stream: Any, storage: Callable[[Any], Any] | None = None) -> Any:
        return Machine(stream, str(self.path), storage or self._storage).run()

    def _storage(self, said: Any) -> Storage:
        """Of ("storage", class, key, device, count), which the pickle says of each."""
        match said:
            case ("storage", Name(name=kind), str(key), _, int(count), *rest):
                if kind not in STORAGES or type(count) is not int or not 0 <= count <= SIZE:
                    raise Malformed(f"a storage of {count} elements of the kind {short(kind)}")
            case _:
                raise Malformed("a storage without a description")
        if rest and rest[0] is not None:
            raise UserError(
                f"{self.path} holds views of storages as torch before 0.4 wrote them. {_SAVE_ANEW}"
            )
        return Storage(key, STORAGES[kind], count)

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"{self.path} is damaged or cut off: {what}. Download it again and compare its size."
        )

    def _big_endian(self) -> UserError:
        return UserError(
            f"{self.path} was written on a big-endian machine, which is not supported. {_SAVE_ANEW}"
        )

    # The zip format

    def _zip(self) -> Any:
        try:
            with zipfile.ZipFile(self.path) as archive:
                entries = self._entries(archive.infolist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self._damaged(str(error)) from error
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise UserError(
                f"{self.path} is a zip archive, but not one of torch.save. Unpack it; name the "
                "file in it."
            )
        root = pickles[0].removesuffix("data.pkl")
        order = entries.get(f"{root}byteorder")
        if order and self._read(order).strip() != b"little":
            raise self._big_endian()
        data = f"{root}data/"
        for name, entry in entries.items():
            if name.startswith(data):
                self._spans[name.removeprefix(data)] = self._place(entry)
        return self._unpickle(io.BytesIO(self._read(entries[pickles[0]])))

    def _entries(self, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        """The entries of the archive by name."""
        if len(infos) > ENTRIES:
            raise UserError(
                f"{self.path} has {len(infos):,} entries, more than any weights; it is refused."
            )
        entries = {info.filename: info for info in infos}
        if any(name.endswith("/constants.pkl") for name in entries):
            raise UserError(
                f"{self.path} is a TorchScript program, not weights; save those: "
                "torch.save(torch.jit.load(FILE).state_dict(), OTHER)."
            )
        for info in infos:
            packed = info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1
            if packed or info.file_size != info.compress_size:
                raise UserError(
                    f"{self.path} is compressed or encrypted inside ({short(info.filename)}: "
                    f"{info.file_size:,} bytes out of {info.compress_size:,}). torch.save does "
                    f"neither, a zip bomb does; refused. {_SAVE_ANEW}"
                )
        if len(entries) != len(infos) or sum(info.file_size for info in infos) > len(self._map):
            raise UserError(
                f"{self.path} has entries that overlap or share a name, as torch never writes; it "
                "is refused."
            )
        return entries

    def _read(self, entry: zipfile.ZipInfo) -> bytes:
        begin, end, checksum = self._place(entry)
        data = self._map[begin:end]
        self._compare(data, checksum, short(entry.filename))
        return data

    def _place(self, entry: zipfile.ZipInfo) -> tuple[int, int, int]:
        """Begin and end of an entry's bytes, and its checksum (0 where torch was asked to write
        none)."""
        begin = entry.header_offset
        header = self._map[begin : begin + 30]
        if len(header) == 30 and header[:4] == b"PK\x03\x04":
            name, extra = struct.unpack("<HH", header[26:30])
            begin += 30 + name + extra
            if begin + entry.file_size <= len(self._map):
                return begin, begin + entry.file_size, entry.CRC
        raise self._damaged(f"{short(entry.filename)} is not where it should be")

    # The format before torch 1.6: pickles one after the other, then the storages

    def _legacy(self) -> Any:
        stream = self._map
        stream.seek(0)
        if stream[:1] != b"\x80":
            raise UserError(
                f"{self.path} is no file of torch.save, or one of before torch 0.1.10. {_SAVE_ANEW}"
            )
        if self._unpickle(stream) != _MAGIC or self._unpickle(stream) != _PROTOCOL:
            raise UserError(f"{self.path} is a pickle, but not one of torch.save. {_SAVE_ANEW}")
        system = self._unpickle(stream)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise self._big_endian()
        used: dict[str, Storage] = {}

        def kept(said: Any) -> Any:
            match said:
                case ("module", Name() as name, _, _):
                    return name  # a class of modules, which this format stores with its source
            storage = self._storage(said)
            return used.setdefault(storage.key, storage)

        content, keys = self._unpickle(stream, kept), self._unpickle(stream)
        if not isinstance(keys, list) or not all(isinstance(k, str) and k in used for k in keys):
            raise self._damaged("it does not say where its storages are")
        position = stream.tell()
        for key in keys:
            begin, size = position + 8, _bytes_of(used[key])
            if stream[position:begin] != struct.pack("<q", used[key].count):
                raise self._damaged(f"the storage {short(key)} has another length than it says")
            position = begin + size
            self._spans[key] = begin, position, 0
        if position > len(stream):
            raise self._damaged(f"{position - len(stream):,} bytes are missing")
        return content


def _bytes_of(storage: Storage) -> int:
    return storage.count * np.dtype(storage.dtype or "uint8").itemsize
