"""The folder of a foreign checkpoint: its configuration and its tensors, none of which is ever passed over."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from deltas.errors import InputError
from deltas.files import read_json, weight_map


def read_config(folder: Path, needs: str | None = None) -> dict[str, Any]:
    """The `adapter_config.json` of a folder, which must hold the key `needs` where one is given."""
    if not folder.is_dir():
        raise InputError(f"expected the folder of an adapter, got {str(folder)!r}, which is no folder; check the path")
    raw = read_json(folder / "adapter_config.json")
    if not isinstance(raw, dict) or (needs is not None and needs not in raw):
        raise InputError(f"expected {needs or 'a table'} in {folder / 'adapter_config.json'}, got none; it is of another library")
    return raw


def read_tensors(folder: Path, safe: str, pickled: str, *, allow_pickle: bool) -> dict[str, np.ndarray]:
    """Every tensor of the folder by name, as float32, which holds the 16-bit floats exactly.

    Args:
        folder: of the adapter.
        safe: the name of its safetensors file; beside it, the name with `.index.json` lists shards.
        pickled: the name of the pickle that the library wrote once, or writes still.
        allow_pickle: read that pickle where there is no safetensors file, weights only, with PyTorch.

    Raises:
        InputError: no such file, a pickle without leave to read it, a damaged file, or a shard outside the folder.
    """
    index = folder / f"{safe}.index.json"
    if (folder / safe).is_file():
        return _safe(folder / safe)
    if index.is_file():
        found: dict[str, np.ndarray] = {}
        for name in sorted(set(weight_map(index).values())):
            found |= _safe(folder / name)
        return found
    if not (folder / pickled).is_file():
        raise InputError(f"expected {safe} in {folder}, got none; give the folder that the adapter was saved to")
    if not allow_pickle:
        raise InputError(f"expected {safe} in {folder}, got the pickle {pickled}, which may run code when read; "
                         "convert it to safetensors, or read its weights alone with allow_pickle=True")
    return _pickled(folder / pickled)


def _safe(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="flax") as file:  # numpy has no bfloat16
            return {name: np.asarray(file.get_tensor(name).astype(jnp.float32)) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"expected a whole safetensors file at {path}, got '{error}'; download it again") from None


class Lying:
    """A tensor that stays in its file: `np.asarray` of it reads it, in the precision it has there.

    A file that is not the one it was is refused; a memory map of it would follow the change, or end the program.
    """

    def __init__(self, path: Path, offset: int, dtype: np.dtype, shape: Sequence[int]) -> None:
        self.path, self.offset, self.dtype, self.shape = path, offset, dtype, tuple(shape)
        self._stamp = _stamp(os.stat(path))

    @property
    def ndim(self) -> int:
        """How many axes."""
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        size = self.dtype.itemsize * math.prod(self.shape)
        try:
            with open(self.path, "rb") as file:
                whole = _stamp(os.fstat(file.fileno())) == self._stamp
                file.seek(self.offset)
                found = np.frombuffer(bytearray(file.read(size)), np.uint8)
        except OSError as error:
            raise self._changed(error.strerror or str(error)) from None
        if not whole or len(found) != size:
            raise self._changed("another one")
        return found.view(self.dtype).reshape(self.shape).astype(self.dtype if dtype is None else dtype, copy=False)

    def _changed(self, what: str) -> InputError:
        return InputError(f"expected the file {self.path} that was there when reading began, got {what}; leave the adapters as they are while "
                          "they are read, and run again")


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ino


Tensor = np.ndarray | Lying
"""In memory or in its file."""


def find_tensors(folder: Path, safe: str, pickled: str, *, allow_pickle: bool) -> tuple[Mapping[str, Tensor], list[Path]]:
    """Every tensor of the folder by name, still in its file, and the files that they lie in.

    A pickle is read into memory. Arguments and errors are those of `read_tensors`.
    """
    index = folder / f"{safe}.index.json"
    if (folder / safe).is_file():
        files = [folder / safe]
    elif index.is_file():
        files = [folder / name for name in sorted(set(weight_map(index).values()))]
    else:
        return read_tensors(folder, safe, pickled, allow_pickle=allow_pickle), [folder / pickled]
    found: dict[str, Tensor] = {}
    for path in files:
        found |= _lying(path)
    return found, files


def _lying(path: Path) -> dict[str, Lying]:
    """The tensors of a safetensors file without reading them: eight bytes of the header's length, the header as JSON, the numbers."""
    from safetensors import SafetensorError, safe_open

    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
    try:
        with safe_open(path, framework="numpy"):  # which checks every offset and length
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"expected a whole safetensors file at {path}, got '{error}'; download it again") from None
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in kinds:
            raise InputError(f"expected tensors of {', '.join(kinds)} in {path}, got {name} of {entry['dtype']}; save it unquantised")
        found[name] = Lying(path, 8 + length + entry["data_offsets"][0], np.dtype(kinds[entry["dtype"]]), entry["shape"])
    return found


def _pickled(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise InputError(f"expected PyTorch, to read {path}, got an installation without it; install deltaspace[parity]") from None
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): value.to(torch.float32).numpy() for name, value in values.items()}
    except Exception as error:  # the unpickler raises many kinds, and its messages are pages long
        raise InputError(f"expected a pickle of tensors alone at {path}, got one that cannot be read so ({type(error).__name__}); "
                         "convert it to safetensors where it was made") from None


class Tensors:
    """The tensors of a checkpoint as they are taken; in the end one error tells of all that is missing, misshapen or left over."""

    def __init__(self, values: Mapping[str, Any], where: Path) -> None:
        """`values` are arrays, or tensors that lie in their files (`Lying`)."""
        self.values, self.where = values, where
        self.taken: set[str] = set()
        self.faults: list[str] = []

    def take(self, name: str, shape: tuple[int, ...]) -> Any:
        """The tensor `name`; zeros, and a fault, where it is not there in this shape."""
        self.taken.add(name)
        value = self.values.get(name)
        if value is None:
            self.faults.append(f"no {name}")
        elif value.shape != shape:
            self.faults.append(f"{name} of shape {value.shape} where {shape} fits")
        else:
            return value
        return np.zeros(shape, np.float32)

    def done(self, remedy: str = "use the backbone it was trained on, and the whole checkpoint") -> None:
        """Refuse the checkpoint where anything is missing, misshapen or left over.

        Raises:
            InputError: naming every such tensor.
        """
        surplus = sorted(set(self.values) - self.taken)
        faults = self.faults + [f"{name}, which has no place" for name in surplus]
        if faults:
            raise InputError(f"expected the tensors that {self.where / 'adapter_config.json'} describes, got "
                             f"{', '.join(faults)}; {remedy}")
