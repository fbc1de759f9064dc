"""Honest timings: both ways in one run, in turn, threads pinned, the median of several rounds."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from deltas.errors import InputError

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def pin_threads(count: int) -> None:
    """Keep the whole process on `count` processors and every thread pool at `count` threads.

    To be called before JAX computes and before PyTorch is imported: JAX sizes its pool by the processors it may use, PyTorch by the
    environment. A BLAS that is loaded already is told through threadpoolctl, and threads that it has started are moved too.

    Raises:
        InputError: fewer processors than that.
    """
    from threadpoolctl import threadpool_limits

    ours = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if not 1 <= count <= len(ours):
        raise InputError(f"expected between 1 and {len(ours)} threads, the processors there are, got {count}; choose another number")
    if hasattr(os, "sched_setaffinity"):
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), ours[:count])
    os.environ.update(dict.fromkeys(POOLS, str(count)))
    threadpool_limits(count)


def interleaved(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way: one untimed call, then `rounds` rounds of every way, so that a slow moment of the machine hits all.

    Every other round runs backwards, so that none profits from its place.
    """
    for run in ways.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            start = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def compared(seconds: Mapping[str, list[float]], ours: str, theirs: str, *, per: int = 1) -> dict[str, Any]:
    """Median seconds and their range, and the median and range of the rounds' ratios theirs / ours: above 1 we are faster.

    Args:
        per: how many steps a timed call made; the seconds are of one.
    """
    ratios = [b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
    scaled = {name: [value / per for value in seconds[name]] for name in (ours, theirs)}
    return {
        "ours": ours, "theirs": theirs, "rounds": len(ratios), "ratio": _short(median(ratios)),
        "ratio_range": [_short(min(ratios)), _short(max(ratios))],
        "seconds": {name: _short(median(values)) for name, values in scaled.items()},
        "seconds_range": {name: [_short(min(values)), _short(max(values))] for name, values in scaled.items()},
    }  # fmt: skip


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def machine() -> dict[str, Any]:
    """What the timings were made on."""
    import jax

    model = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    return {"system": platform.system(), "architecture": platform.machine(), "python": platform.python_version(), "processor": model,
            "processors": os.cpu_count(), "device": jax.devices()[0].device_kind, "devices": jax.device_count()}
