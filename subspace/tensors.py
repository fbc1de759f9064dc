"""Arrays by name in one file, written piece by piece and read memory-mapped: a basis may be larger than the memory.

The format is that of safetensors: eight bytes of the header's length, the header as JSON, the numbers. Values of our metadata are JSON; its
`checksum` covers names and numbers.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deltas.files import DIGITS, replacing

PIECE = 2**24
"""Bytes that are handled at a time."""
KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U32": "<u4", "U8": "|u1",
         "BOOL": "|b1"}
CODES = {np.dtype(kind): code for code, kind in KINDS.items()}


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """One file, whole or not at all.

    Args:
        tensors: by name; an array that is itself mapped from a file is copied piece by piece.
        header: values that JSON has.
    """
    arrays = {name: np.ascontiguousarray(value).reshape(np.shape(value)) for name, value in tensors.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # so that all lie at multiples of their size
    entries: dict[str, Any] = {"__metadata__": {name: json.dumps(value) for name, value in sorted(header.items())}}
    place = 0
    for name in order:
        array = arrays[name]
        entries[name] = {"dtype": CODES[array.dtype], "shape": list(array.shape), "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            _in_pieces(arrays[name], file.write)


def open_tensors(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Our metadata, and every array by name: read-only, and mapped from the file instead of read into memory.

    Raises:
        ValueError: a file that is no such file, is not whole, or whose numbers are not those of its checksum.
        OSError: one that cannot be read.
    """
    with open(path, "rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ValueError("it is not as long as its header says")
        try:
            entries = json.loads(file.read(length))
            header = {name: json.loads(value) for name, value in (entries.pop("__metadata__", None) or {}).items()}
            kinds = {name: (np.dtype(KINDS[entry["dtype"]]), tuple(entry["shape"])) for name, entry in entries.items()}
            places = {name: (8 + length + entry["data_offsets"][0], 8 + length + entry["data_offsets"][1]) for name, entry in entries.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its header cannot be read: {error}") from None
        end = 8 + length
        for name in sorted(places, key=places.__getitem__):
            kind, shape = kinds[name]
            if places[name] != (end, end + kind.itemsize * math.prod(shape)):
                raise ValueError("its header does not describe its contents")
            end = places[name][1]
        if end != size:
            raise ValueError("it is not as long as its header says")
        if "checksum" in header and _digest(file, places) != header["checksum"]:
            raise ValueError("its checksum differs")
        whole = np.asarray(np.memmap(file, np.uint8, "r"))
    return header, {name: whole[slice(*places[name])].view(kind).reshape(shape) for name, (kind, shape) in kinds.items()}


def checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """Over names and numbers, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        _in_pieces(np.ascontiguousarray(tensors[name]), digest.update)
    return digest.hexdigest()[:DIGITS]


def _digest(file: Any, places: Mapping[str, tuple[int, int]]) -> str:
    """`checksum` of what lies from byte to byte of a file, read and not mapped, so that no page of it stays with the process."""
    digest = hashlib.sha256()
    for name in sorted(places):
        digest.update(name.encode())
        first, last = places[name]
        file.seek(first)
        left = last - first
        while left:
            piece = file.read(min(PIECE, left))
            if not piece:
                raise ValueError("it became shorter while it was read")
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()[:DIGITS]


def _in_pieces(array: np.ndarray, take: Callable[[memoryview], Any]) -> None:
    flat = array.reshape(-1).view(np.uint8)
    for first in range(0, len(flat), PIECE):
        take(flat[first : first + PIECE].data)
