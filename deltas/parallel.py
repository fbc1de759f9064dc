"""Many solutions at once over one backbone: the axis of solutions is split over the devices, and mapped on each.

No device talks to another, so the results do not depend on the number of devices. Beside it, what keeps one process within its machine's
means: compiled programs that are forgotten in time, and threads that are not started for little.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from threadpoolctl import ThreadpoolController

SMALL = 2**20
"""Numbers of a matrix that is decomposed by one thread."""


def flight(in_flight: int | None) -> int:
    """How many solutions run at once: a multiple of the devices; None is one a device on a CPU and sixteen on an accelerator."""
    devices = jax.device_count()
    wanted = in_flight or devices * (1 if jax.default_backend() == "cpu" else 16)
    return -(-wanted // devices) * devices


def forget_programs(share: float = 0.5) -> bool:
    """Forget all compiled programs where they hold more than `share` of the memory maps that the system allows; whether it did so.

    On a processor XLA keeps hundreds of memory maps a program (about 570 for the evaluation of a T5-small), and Linux allows a process
    65,530: a long job of many shapes would die of "Cannot allocate memory" with most of the memory free. What is needed again is compiled
    again, or read from JAX's compilation cache where there is one.
    """
    maps, most = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
    if jax.default_backend() != "cpu" or not maps.is_file() or not most.is_file():
        return False
    if maps.read_bytes().count(b"\n") <= share * int(most.read_text()):
        return False
    jax.clear_caches()
    return True


def threads_for(numbers: int) -> AbstractContextManager:
    """A context in which a matrix of that many numbers is decomposed by one BLAS thread, if it is small.

    Below a million numbers several are hardly faster, and where other work keeps the cores busy a hundred times slower: they wait for each
    other at every one of a decomposition's many small products.
    """
    return _blas().limit(limits=1 if numbers < SMALL else None, user_api="blas")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def over_solutions(fn: Callable[..., Any], mapped: Sequence[bool]) -> Callable[..., Any]:
    """fn over the leading axis of the arguments where `mapped`; the others are the same for all.

    Every mapped argument and every result has the same leading axis, a multiple of the number of devices. Jitted; on each device the
    solutions are vmapped, or run as they are where there is only one (a batch axis of one costs time on a CPU).
    """
    axes = tuple(0 if m else None for m in mapped)

    def local(*args: Any) -> Any:
        size = next(jax.tree.leaves(a)[0].shape[0] for a, m in zip(args, mapped, strict=True) if m)
        if size > 1:
            return jax.vmap(fn, in_axes=axes)(*args)
        single = [jax.tree.map(lambda x: x[0], a) if m else a for a, m in zip(args, mapped, strict=True)]
        return jax.tree.map(lambda x: x[None], fn(*single))

    if jax.device_count() == 1:
        return jax.jit(local)
    mesh = Mesh(np.asarray(jax.devices()), ("solutions",))
    specs = tuple(PartitionSpec("solutions") if m else PartitionSpec() for m in mapped)
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("solutions"), check_vma=False))
