"""Bytes of a tf.train.Example, laid down directly.

Building the message first and then serialising it copies each image twice and takes several times
as long. What is written is what the message's own deterministic serialisation gives: fields by
name, in the wire format of Protocol Buffers (https://protobuf.dev/programming-guides/encoding/),

    Example.features = 1;  Features.feature = 1, entries of key = 1 and value = 2;
    Feature.bytes_list = 1, float_list = 2, int64_list = 3;  value = 1 of each, numbers packed.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache

SHORT = 256
"""Most bytes of a value whose field is remembered."""

_FIRST, _SECOND, _THIRD = b"\x0a", b"\x12", b"\x1a"
"""Tags of fields 1 to 3 that have a length."""


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as 64 bits."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _content(value: bytes | float | int) -> tuple[bytes, bytes]:
    """The tag of the list that holds a value, and the bytes of the value."""
    if isinstance(value, bytes):
        return _FIRST, value
    return (
        (_SECOND, struct.pack("<f", value))
        if isinstance(value, float)
        else (_THIRD, _varint(value))
    )


def _head(name: str, tag: bytes, size: int) -> bytes:
    """What stands before the bytes of a value."""
    key = name.encode()
    inner = _FIRST + _varint(size)
    listed = tag + _varint(len(inner) + size)
    feature = _SECOND + _varint(len(listed) + len(inner) + size)
    entry = _FIRST + _varint(len(key)) + key + feature + listed + inner
    return _FIRST + _varint(len(entry) + size) + entry


@lru_cache(maxsize=1024)
def _short(name: str, tag: bytes, data: bytes) -> bytes:
    """A whole field; most are the same in all tiles of a slide."""
    return _head(name, tag, len(data)) + data


def encode_example(values: Mapping[str, bytes | float | int]) -> bytes:
    """The message that has one value in each field: bytes, a float (rounded to 32 bits) or an int
    (of 64 bits)."""
    parts = [b"", b""]
    for name in sorted(values):
        tag, data = _content(values[name])
        if len(data) > SHORT:
            parts += _head(name, tag, len(data)), data
        else:
            parts.append(_short(name, tag, data))
    parts[:2] = _FIRST, _varint(sum(map(len, parts)))
    return b"".join(parts)
