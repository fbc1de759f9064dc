"""`python -m deltaspace.bench.decomposition_size`: joint_svd of thousands of solutions on the disk: time, memory, and what was planted.

In each round, in turn: every file read once from end to end; the float64 product X Xᵀ alone, of a block that lies in memory; the whole
decomposition in a process of its own, from the folder of solutions to the subspace on the disk. The bound is twice the larger of the first
two. What is read is asked out of the page cache before (`posix_fadvise`), where the system knows how.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from deltas.bank import Bank, Solution, versions
from deltas.files import replacing, sha256, write_json
from deltas.layout import Layout
from deltas.types import LoRA

from .timing import machine, pin_threads

RANK, NOISE, BATCH = 16, 0.01, 40
LABEL = LoRA().label
BOUND, MEMORY, ANGLE = 2.0, 3 * 10**9, 1e-3
"""The targets: times the larger of reading and multiplying, bytes resident, and radians between what was planted and what was found."""


@dataclass(frozen=True, kw_only=True)
class DecompositionSize:
    """Write a bank of planted solutions, decompose more and more of them, compare; summary.json and cost.png in `out`."""

    out: Path
    solutions: tuple[int, ...] = (500, 1000, 2000)
    """How many are decomposed; as many as the most are written: 4 · size bytes each, left in `out`/bank for another run."""
    size: int = 1_000_000
    """Numbers of a solution."""
    rounds: int = 3
    threads: int = 1
    """Processors and threads that all get; with one, processor seconds say what the work took on a busy machine too."""
    seed: int = 0

    def run(self) -> None:
        """Measure each number of solutions, then the smallest on several devices and processes."""
        pin_threads(self.threads)
        counts = sorted(self.solutions)
        bank = planted_bank(self.out, counts[-1], self.size, self.seed)
        found: dict[str, Any] = {
            "sizes": {}, "size": self.size, "rank": RANK, "noise": NOISE, "targets": {"ratio": BOUND, "bytes": MEMORY, "angle": ANGLE},
            "machine": machine(), "versions": versions(), "threads": self.threads, "seed": self.seed,
            "cache": "read files dropped from the page cache before each way" if hasattr(os, "posix_fadvise") else "as the system keeps it"}
        for count in counts:
            found["sizes"][str(count)] = one = measured(bank, count, self.out, self.rounds)
            print(f"{count} solutions: {one['seconds']['ours']:.1f} s, {one['ratio']:.2f} of the larger, {one['bytes'] / 1e9:.2f} GB, angle "
                  f"{one['angle']:.1e}", flush=True)
            write_json(self.out / "summary.json", found)
        found["predicted"] = predicted(found["sizes"])
        found["shared_out"] = shared_out(bank, counts[0], self.out)
        write_json(self.out / "summary.json", found)
        plot(found, self.out / "cost.png")


# ------------------------------------------------------------------ the bank
def planted_bank(folder: Path, solutions: int, size: int, seed: int = 0) -> Bank:
    """Solutions of rank 16 (amplitudes from 1 down to a half) about a mean, with noise; directions.npy beside the bank has what was planted.

    Files that are there already are not written again.
    """
    rng = np.random.default_rng([seed, size])
    directions, mean = rng.standard_normal((RANK, size), dtype=np.float32), rng.standard_normal(size, dtype=np.float32)
    layout, theta0 = Layout(("theta",), ((size,),)), np.zeros(size, np.float32)
    start = SimpleNamespace(config=LoRA(), label=LABEL, layout=layout, theta0=theta0, backbone=SimpleNamespace(fingerprint="planted"),
                            theta0_fingerprint=sha256(theta0.tobytes(), str(layout.to_json())))
    bank = Bank(folder / "bank", create=True)
    bank.add_start(cast("Any", start))
    with replacing(folder / "directions.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, directions)
    for first in range(0, solutions, BATCH):
        names = [(f"task{n:05d}", 0) for n in range(first, min(first + BATCH, solutions))]
        if all(bank.file(LABEL, *name).is_file() for name in names):
            continue
        rng = np.random.default_rng([seed, size, first])
        codes = rng.standard_normal((BATCH, RANK), dtype=np.float32) * np.geomspace(1, 0.5, RANK, dtype=np.float32)
        for (task, number), code in zip(names, codes):
            vector = code @ directions + mean + np.float32(NOISE) * rng.standard_normal(size, dtype=np.float32)
            bank.add(Solution(task=task, seed=number, config=start.config, layout=layout, vector=vector, theta0=theta0, backbone="planted",
                              theta0_fingerprint=start.theta0_fingerprint))
    return bank


def forget(paths: Sequence[Path]) -> None:
    """Ask the system to drop the files from its page cache."""
    if hasattr(os, "posix_fadvise"):
        for path in paths:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ------------------------------------------------------------------ one number of solutions
def measured(bank: Bank, count: int, out: Path, rounds: int) -> dict[str, Any]:
    """Seconds of each way in each round, and what the decomposition found.

    The parts are processor seconds.
    """
    pairs = bank.pairs()[:count]
    paths = [bank.file(LABEL, *pair) for pair in pairs]
    size = len(bank.theta0(LABEL))
    block = np.random.default_rng(0).standard_normal((count, min(size, 2**28 // (8 * count))))
    runs: list[dict[str, Any]] = []
    ways: dict[str, Callable[[], Any]] = {
        "reading": lambda: read_once(paths), "product": lambda: product_alone(block, size),
        "ours": lambda: runs.append(in_a_process(bank, count, out / "space"))}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    worked: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            forget(paths)
            start, work = time.perf_counter(), time.process_time()
            ways[name]()
            seconds[name].append(time.perf_counter() - start if name != "ours" else runs[-1]["seconds"])
            worked[name].append(time.process_time() - work if name != "ours" else runs[-1]["processor"])
    ratios = [ours / max(reading, product) for reading, product, ours in zip(*(seconds[name] for name in ways))]
    return {"seconds": {name: median(each) for name, each in seconds.items()}, "rounds": seconds,
            "processor_seconds": {name: median(each) for name, each in worked.items()}, "ratio": median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "processor_ratio": median(ours / max(reading, product) for reading, product, ours in zip(*(worked[name] for name in ways))),
            "parts": {name: median(run["parts"][name] for run in runs) for name in runs[0]["parts"]},
            "bytes": max(run["bytes"] for run in runs), "load": os.getloadavg()[0], **recovered(out / "space", out)}


def read_once(paths: Sequence[Path], buffer: int = 2**22) -> None:
    """Every byte of every file, in order, into one buffer."""
    room = bytearray(buffer)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(room):
                pass


def product_alone(block: np.ndarray, size: int) -> np.ndarray:
    """As much float64 arithmetic as X Xᵀ of `size` columns takes, by the symmetric BLAS routine, from memory."""
    total = np.zeros((len(block), len(block)))
    for start in range(0, size, block.shape[1]):
        part = block[:, : size - start]
        total += part @ part.T
    return total


def recovered(space: Path, planted: Path) -> dict[str, Any]:
    """The largest principal angle to what was planted, and how many singular values stand above noise."""
    from scipy.linalg import subspace_angles

    from subspace import Subspace

    found = Subspace.load(space)
    angles = subspace_angles(np.load(planted / "directions.npy").T.astype(np.float64), found.part(LABEL).basis.T.astype(np.float64))
    return {"angle": float(angles.max()), "found_rank": int(np.sum(found.spectrum > found.null))}


# ------------------------------------------------------------------ our side, in processes of its own
def in_a_process(bank: Bank, count: int, out: Path, *, processes: int = 1, devices: int = 0, port: int = 0) -> dict[str, Any]:
    """What `decomposed` of the first process tells."""
    fields = {"bank": str(bank.path), "count": count, "out": str(out), "processes": processes, "devices": devices, "port": port}
    call = "import json, sys; from deltaspace.bench.decomposition_size import decomposed; decomposed(**json.loads(sys.argv[1]))"
    running = [subprocess.Popen([sys.executable, "-c", call, json.dumps(fields | {"process": n})], stdout=subprocess.PIPE, text=True)
               for n in range(processes)]
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"a decomposition ended with {[process.returncode for process in running]}")
    return json.loads(said[0].splitlines()[-1])


def decomposed(bank: str, count: int, out: str, processes: int, devices: int, port: int, process: int) -> None:
    """From the folder of solutions to a subspace on the disk.

    Prints seconds of the clock and of processors, the latter of the parts too, and the peak of resident memory.
    """
    from unittest.mock import patch

    import subspace.joint_svd  # noqa: F401 - by its full name below: the package has a function of that name
    from subspace.sharded import sharded
    from subspace.sources import gather

    if devices:
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
        if processes > 1:
            jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    parts: dict[str, float] = {}
    module = sys.modules["subspace.joint_svd"]
    with ExitStack() as stack:
        for name in ("gather", "grams", "decompose", "null_of", "combine"):
            stack.enter_context(patch.object(module, name, clocked(getattr(module, name), name, parts)))
        start, work = time.perf_counter(), time.process_time()
        pairs = Bank(bank).pairs()[:count]
        space = module.joint_svd(sharded(gather(Bank(bank), None, pairs)) if devices else Bank(bank), k=RANK, pairs=pairs)
        if process == 0:
            clocked(space.save, "save", parts)(out)
        taken = {"seconds": time.perf_counter() - start, "processor": time.process_time() - work}
    print(json.dumps({**taken, "parts": parts, "bytes": peak()}))


def clocked(fn: Callable[..., Any], name: str, parts: dict[str, float]) -> Callable[..., Any]:
    """The same function; the processor seconds of its calls, those of threads included, go to `parts`."""
    def run(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        result = fn(*args, **kwargs)
        parts[name] = parts.get(name, 0.0) + time.process_time() - start
        return result

    return run


def peak() -> int:
    """The most bytes that this process has held in memory."""
    status = Path("/proc/self/status")
    if status.is_file():  # the other figure begins with what the process that started this one held
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def shared_out(bank: Bank, count: int, out: Path) -> dict[str, Any]:
    """The same job on one device, on eight, and as two processes of four: seconds, and how far the subspaces are apart."""
    import socket

    from scipy.linalg import subspace_angles

    from subspace import Subspace

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found, first = {}, None
    for name, setting in {"numpy": {}, "1 device": {"devices": 1}, "8 devices": {"devices": 8},
                          "2 processes of 4 devices": {"devices": 4, "processes": 2, "port": port}}.items():
        run, space = in_a_process(bank, count, out / "shared", **setting), Subspace.load(out / "shared")
        first = first or space
        ours, theirs = (one.part(LABEL).basis.astype(np.float64) for one in (space, first))
        found[name] = {"seconds": run["seconds"], "bytes": run["bytes"], "angle": float(subspace_angles(ours.T, theirs.T).max()),
                       "basis_difference": float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))),
                       "codes_difference": float(np.max(np.abs(space.codes - first.codes)))}
    return {"solutions": count, **found}


# ------------------------------------------------------------------ growth
def predicted(sizes: dict[str, Any]) -> dict[str, Any]:
    """The processor seconds of more solutions from those of the fewest: a N + b N² + c N³.

    b is the product's, c the eigenvalues' (of the solutions' Gram matrix and of noise), a all the rest's. Of one thread processor seconds are
    what the arithmetic took, however busy the machine was; threads that wait for each other count as busy.
    """
    fewest = min(map(int, sizes))
    one = sizes[str(fewest)]
    cubic = one["parts"]["decompose"] + one["parts"]["null_of"]
    square = one["processor_seconds"]["product"]
    linear = max(one["processor_seconds"]["ours"] - cubic - square, 0.0)
    seconds = {name: linear * (int(name) / fewest) + square * (int(name) / fewest) ** 2 + cubic * (int(name) / fewest) ** 3 for name in sizes}
    return {"from": fewest, "seconds": seconds, "a": linear / fewest, "b": square / fewest**2, "c": cubic / fewest**3,
            "measured_over_predicted": {name: sizes[name]["processor_seconds"]["ours"] / value for name, value in seconds.items()}}


def plot(found: dict[str, Any], path: Path) -> Path:
    """Processor seconds against the number of solutions: ours, as predicted, the product's, and twice those."""
    import matplotlib as mpl

    from landscape.style import FAINT, INK, OKABE_ITO, STYLE, sheet, write

    counts = sorted(map(int, found["sizes"]))
    seconds = {name: np.array([found["sizes"][str(n)]["processor_seconds"][name] for n in counts]) for name in ("ours", "product", "reading")}
    at, fit = np.linspace(0, counts[-1], 100), found["predicted"]
    with mpl.rc_context(STYLE):
        figure = sheet(6.4, 3.7)
        ax = figure.add_subplot()
        b = float(seconds["product"][-1]) / counts[-1] ** 2
        ax.fill_between(at, BOUND * b * at**2, BOUND * b * counts[-1] ** 2, color=FAINT, alpha=0.5, linewidth=0,
                        label=f"more than {BOUND:g} times the product")
        ax.plot(at, fit["a"] * at + fit["b"] * at**2 + fit["c"] * at**3, "--", color=INK, linewidth=1,
                label=f"predicted from {fit['from']} solutions")
        for name, words, colour, mark in (("ours", "joint_svd, from the files to the file", OKABE_ITO[0], "o"),
                                          ("product", "the float64 product alone", OKABE_ITO[1], "s"),
                                          ("reading", "reading the files once", OKABE_ITO[2], "^")):
            ax.plot(counts, seconds[name], mark, linestyle="-" if name != "ours" else "", color=colour, label=words)
        ax.set_xticks(counts, [f"{n:,}" for n in counts])
        ax.set_xlim(0, counts[-1] * 1.05)
        ax.set_ylim(0, BOUND * b * counts[-1] ** 2)
        ax.set_xlabel(f"solutions of {found['size']:,} numbers")
        ax.set_ylabel(f"processor seconds, {found['threads']} thread" + "s" * (found["threads"] > 1))
        ax.legend(loc="upper left")
        return write(figure, path)


if __name__ == "__main__":
    import tyro

    tyro.cli(DecompositionSize).run()
