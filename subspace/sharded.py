"""Gram matrices and projections over the devices of a mesh, on one machine or on several: the columns of X are shared out.

    K = Σ_p Σ_d X[:, p,d] X[:, p,d]ᵀ        p a process, d one of its devices

Each process reads its share of the columns of every file, block by block, and each of its devices takes a share of a block; partial sums
stay on the devices and are added up once at the end, over devices and then over processes. Combinations C X are found column by column where
the columns were read and laid side by side. Every process ends with the same numbers.

float64 on GPUs and on the several devices that a CPU was split into, whatever `jax_enable_x64` says. A CPU that is one device is left to
numpy, whose BLAS knows that the product is symmetric. XLA has float64 on TPUs only as pairs of float32, of less range and slow: there the
processors of each host do the arithmetic, and the hosts still share the reading.

On several machines (one process each, all running the same lines):

    jax.distributed.initialize(...)
    space = joint_svd(sharded(Bank("bank/")), k=16)
    if jax.process_index() == 0:
        space.save("subspace/")
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Float32, Float64

from deltas.bank import Bank
from deltas.errors import InputError
from deltas.filed import Filed
from deltas.files import sha256
from subspace.arithmetic import OnHost
from subspace.rows import MEMORY, Stored
from subspace.sources import Sources, gather

BAND = 64 * 2**20
"""Bytes of all processes' numbers that are exchanged at a time."""
WITH_FLOAT64 = {"cpu", "gpu", "cuda", "rocm"}
T = TypeVar("T")


def sharded(bank: Bank | Sources, mesh: Mesh | None = None) -> Sources:
    """The same sources, whose Gram matrices and combinations are computed over the devices of a mesh.

    Args:
        bank: or sources that were gathered from one. On several machines all have to be able to read all files; each reads its share.
        mesh: whose devices are used, whatever its axes; None is all devices of all processes.

    Raises:
        InputError: solutions that lie neither in memory nor in files, as those of a product space.

    Example:
        space = joint_svd(sharded(bank), k=16)
    """
    sources, devices = gather(bank), list(jax.devices() if mesh is None else mesh.devices.flat)
    blocks = {}
    for label, block in sources.blocks.items():
        if not isinstance(block.rows, Stored):
            raise InputError(f"expected solutions of {label} in memory or in files to share them out over devices, got "
                             f"{type(block.rows).__name__}; decompose those of one machine, or in the space of factors")
        blocks[label] = replace(block, rows=Sharded.of(block.rows, devices))
    return replace(sources, blocks=blocks)


class Sharded(Stored):
    """Rows whose columns are shared out over devices, of this process and of others."""

    def __init__(
        self, rows: Sequence[np.ndarray] | Sequence[Filed], ranges: Sequence[slice] | None = None, *, state: str | Path | None = None,
        devices: Sequence[Any],
    ) -> None:
        """`devices` of all processes; each process keeps a state of its own."""
        own = f".{jax.process_index()}of{jax.process_count()}" if jax.process_count() > 1 else ""
        super().__init__(rows, ranges, state=None if state is None else f"{state}{own}")
        self._devices = list(devices)
        self.on = arithmetic(tuple(device for device in self._devices if device.process_index == jax.process_index()))

    @classmethod
    def of(cls, rows: Stored, devices: Sequence[Any]) -> Self:
        """The same rows over devices."""
        return cls(rows._rows, rows._ranges, state=rows._state, devices=devices)

    def gram(self, memory: int = MEMORY) -> Float64[np.ndarray, "N N"]:
        """X Xᵀ, exact to float64."""
        self._agree()
        return _summed(_alike(lambda: super(Sharded, self).gram(memory // 4)))  # blocks lie here, and twice on the devices

    def combine(self, coefficients: Float[np.ndarray, "m N"], memory: int = MEMORY) -> Float32[np.ndarray, "m D"]:
        """C X, of the first process's coefficients."""
        first = _gathered(np.asarray(coefficients, np.float64))[0]
        return _side_by_side(_alike(lambda: super(Sharded, self).combine(first, memory // 4)), self._shares)

    def products(self, directions: Float[np.ndarray, "m D"], memory: int = MEMORY) -> Float64[np.ndarray, "N m"]:
        """X Uᵀ."""
        return _summed(_alike(lambda: super(Sharded, self).products(directions, memory // 4)))

    def unexplained(self, mean: np.ndarray, codes: np.ndarray, basis: np.ndarray, memory: int = MEMORY) -> tuple[float, float]:
        """What codes and basis leave, and all there is."""
        left, total = _summed(np.array(_alike(lambda: super(Sharded, self).unexplained(mean, codes, basis, memory))))
        return float(left), float(total)

    # ------------------------------------------------------------ shares
    @cached_property
    def _shares(self) -> list[slice]:
        """By process, its columns: as many as it has devices."""
        count = [sum(device.process_index == process for device in self._devices) for process in range(jax.process_count())]
        ends = [self.size * sum(count[: process + 1]) // sum(count) for process in range(len(count))]
        return [slice(start, end) for start, end in zip([0, *ends], ends)]

    @property
    def _part(self) -> slice:
        return self._shares[jax.process_index()]

    def _verify(self) -> None:
        """A process that reads some columns only sees no checksum on the way: each reads some files once more for theirs."""
        for row in self._rows[jax.process_index() :: jax.process_count()]:
            if isinstance(row, Filed):
                row.verify()

    def _agree(self) -> None:
        """Refuse to add up what processes read of different files."""
        if jax.process_count() == 1:
            return
        known = (f"{row.path.name} {row.size} {row.checksum}" if isinstance(row, Filed) else row.tobytes() for row in self._rows)
        own = np.frombuffer(sha256(*known, str(self._ranges)).encode(), np.uint32)
        for process, other in enumerate(_gathered(own)):
            if (other != own).any():
                raise InputError(f"expected the same solutions in every process, got others in process {process} than in "
                                 f"{jax.process_index()}; let all read the same bank")

    def _like(self, rows: Sequence[Any], ranges: Sequence[slice], **changes: Any) -> Self:
        return type(self)(rows, ranges, devices=self._devices, **changes)


class OnDevices(OnHost):
    """The arithmetic in float64 on devices of this process, each with a share of a block's columns and a sum of its own."""

    dtype = np.float32  # half as much to move; exact, since the files hold no more

    def __init__(self, devices: Sequence[Any]) -> None:
        mesh = Mesh(np.asarray(devices), ("columns",))
        self.count, across, apart = len(devices), PartitionSpec(None, "columns"), PartitionSpec("columns")
        self._across, self._apart = NamedSharding(mesh, across), NamedSharding(mesh, apart)
        self._all = NamedSharding(mesh, PartitionSpec())

        def over(fn: Callable[..., Any], specs: tuple[PartitionSpec, ...], out: PartitionSpec, *, donate: tuple[int, ...] = ()) -> Any:
            return jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False), donate_argnums=donate)

        self._gram = over(_add_gram, (apart, across), apart, donate=(0,))
        self._products = over(_add_products, (apart, across, across), apart, donate=(0,))
        self._combine = over(_combined, (PartitionSpec(), across), across)

    def start(self, rows: int, columns: int, found: np.ndarray | None = None) -> jax.Array:
        """A sum a device [devices, rows, columns]; what was found goes to the first."""
        zeros = np.zeros((1, rows, columns))
        first = zeros if found is None else found[None]
        with jax.enable_x64(True):
            return jax.make_array_from_callback((self.count, rows, columns), self._apart, lambda at: zeros if at and at[0].start else first)

    def value(self, total: jax.Array) -> np.ndarray:
        """The devices' sums added up, in their order."""
        parts = sorted(total.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.sum([np.asarray(shard.data)[0] for shard in parts], axis=0)

    def gram(self, total: jax.Array, block: np.ndarray) -> jax.Array:
        """The sum and B Bᵀ."""
        with jax.enable_x64(True):
            return self._gram(total, self._put(block)).block_until_ready()  # the block's memory is wanted again

    def products(self, total: jax.Array, block: np.ndarray, directions: np.ndarray) -> jax.Array:
        """The sum and B Uᵀ."""
        with jax.enable_x64(True):
            return self._products(total, self._put(block), self._put(directions)).block_until_ready()

    def combine(self, coefficients: np.ndarray, block: np.ndarray) -> np.ndarray:
        """C B, rounded to float32."""
        with jax.enable_x64(True):
            return np.asarray(self._combine(jax.device_put(coefficients, self._all), self._put(block)))[:, : block.shape[1]]

    def _put(self, block: np.ndarray) -> jax.Array:
        """A share of the columns to every device; zeros where they are not enough."""
        lacking = -block.shape[1] % self.count
        return jax.device_put(np.pad(block, ((0, 0), (0, lacking))) if lacking else block, self._across)


@cache  # the same programs for all rows
def arithmetic(devices: tuple[Any, ...]) -> OnHost:
    """Where a process with these devices multiplies: on them, where that is the quickest way to float64."""
    kinds = {device.platform for device in devices}
    alone = kinds == {"cpu"} and len(devices) == 1
    return OnDevices(devices) if kinds and kinds <= WITH_FLOAT64 and not alone else OnHost()


def _add_gram(total: jax.Array, block: jax.Array) -> jax.Array:
    exact = block.astype(jnp.float64)
    return total + (exact @ exact.T)[None]


def _add_products(total: jax.Array, block: jax.Array, directions: jax.Array) -> jax.Array:
    return total + (block.astype(jnp.float64) @ directions.astype(jnp.float64).T)[None]


def _combined(coefficients: jax.Array, block: jax.Array) -> jax.Array:
    return (coefficients @ block.astype(jnp.float64)).astype(jnp.float32)


# ------------------------------------------------------------------ between processes
def _gathered(own: np.ndarray) -> np.ndarray:
    """All processes' arrays of one shape, one after the other [P, ...], bit by bit: as float64 they would arrive in float32."""
    if jax.process_count() == 1:
        return own[None]
    from jax.experimental.multihost_utils import process_allgather

    words = np.ascontiguousarray(own).reshape(-1).view(np.uint32)
    return np.asarray(process_allgather(words)).view(own.dtype).reshape(jax.process_count(), *own.shape)


def _summed(own: np.ndarray) -> np.ndarray:
    """The sum over processes, the same to the last bit in each."""
    flat, band = own.reshape(-1), max(1, BAND // (own.itemsize * jax.process_count()))
    return np.concatenate([_gathered(flat[i : i + band]).sum(axis=0) for i in range(0, flat.size, band)]).reshape(own.shape)


def _side_by_side(own: np.ndarray, shares: Sequence[slice]) -> np.ndarray:
    """All columns, of which each process has its share."""
    if len(shares) == 1:
        return own
    most, share = max(part.stop - part.start for part in shares), shares[jax.process_index()]
    band = max(1, BAND // (own.itemsize * len(own) * len(shares)))
    for start in range(0, most, band):
        piece = np.zeros((len(own), min(band, most - start)), own.dtype)
        mine = own[:, share][:, start : start + band]
        piece[:, : mine.shape[1]] = mine
        for part, theirs in zip(shares, _gathered(piece), strict=True):
            there = own[:, part][:, start : start + band]
            there[...] = theirs[:, : there.shape[1]]
    return own


def _alike(work: Callable[[], T]) -> T:
    """The same refusal in every process where one refuses, which would otherwise leave the others waiting for its numbers."""
    if jax.process_count() == 1:
        return work()
    found, problem = None, b""
    try:
        found = work()
    except InputError as error:
        problem = str(error).encode()[:1024]
    said = _gathered(np.frombuffer(problem.ljust(1024), np.uint32))
    for each in said:
        if text := each.tobytes().rstrip():
            raise InputError(text.decode(errors="ignore"))
    return found  # type: ignore[return-value]
