"""`python -m deltaspace.bench.ensemble_cost --backbone FOLDER --tasks FOLDER --task NAME --out FILE`: the cost of judging many sources.

The sources are drawn, not trained: time and memory depend on no value of theirs. They lie in the files of a bank, from which judging reads
each for every batch; the forward passes that it is compared with have all of them on the device beforehand.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import deltas
from deltas.bank import versions
from deltas.errors import InputError
from deltas.files import write_json

from ..options import parse_type
from .timing import compared, interleaved, machine, pin_threads

TARGET = 1.5
"""Of the sum of the forward passes alone, at most."""


@dataclass(frozen=True, kw_only=True)
class EnsembleCost:
    """Loss, KL, EL2N and cosine of many sources on one target's rows, beside their forward passes alone, in turn on the same threads."""

    backbone: Path
    """A Hugging Face folder."""
    tasks: Path
    task: str
    """The target."""
    out: Path
    """The JSON that is written."""
    type: str = "lora:rank=8"
    sources: int = 24
    rows: int = 64
    max_input: int = 32
    rounds: int = 5
    threads: int = 1

    def run(self) -> None:
        """Measure and write."""
        if self.rounds < 5 or self.sources < 4:
            raise InputError(f"expected at least 5 rounds and 4 sources, got {self.rounds} and {self.sources}; a median of fewer says little")
        pin_threads(self.threads)
        import jax
        import jax.numpy as jnp

        from deltas.evaluation import Exam
        from subspace.ensembling import batches_of, judge

        task = deltas.load_tasks(self.tasks, [self.task])[0]
        backbone = deltas.load_backbone(self.backbone)
        reading = deltas.Reading(max_input=self.max_input, decode="rank")
        exam = Exam.of(backbone, replace(task, dev=(task.dev + task.train)[: self.rows]), "dev", reading)
        attached = deltas.Attached.of(backbone, parse_type(self.type))
        with tempfile.TemporaryDirectory(prefix="ensemble.") as scratch:
            rows = drawn(attached, Path(scratch), self.sources)
            reference, batches = np.asarray(rows[0]), batches_of(exam)
            thetas, logits = [jnp.asarray(attached.theta0 + np.asarray(row)) for row in rows], jax.jit(attached.logits)
            ways = {
                "judged": lambda: judge(attached, rows, exam, reference=reference),
                "forward passes": lambda: [logits(theta, attached.frozen, batch).block_until_ready() for batch in batches for theta in thetas],
            }  # fmt: skip
            seconds = interleaved(ways, self.rounds)
            del thetas
            held = {str(count): most_held(attached, rows[:count], exam) for count in (self.sources // 4, self.sources)}
        found = compared(seconds, "judged", "forward passes")
        ratios = sorted(ours / theirs for ours, theirs in zip(seconds["judged"], seconds["forward passes"], strict=True))
        cost = {"median": float(np.median(ratios)), "range": [ratios[0], ratios[-1]]}
        write_json(self.out, {
            "cost": cost, "target": TARGET, "met": cost["median"] <= TARGET, "timing": found, "device_bytes_by_sources": held,
            "settings": {"backbone": backbone.name, "type": self.type, "sources": self.sources, "rows": len(exam.examples), "task": self.task,
                         "max_input": self.max_input, "rounds": self.rounds, "threads": self.threads, "size": attached.layout.size},
            "machine": machine(), "versions": versions()})
        print(f"judging {self.sources} sources takes {cost['median']:.2f} of their forward passes [{ratios[0]:.2f}, {ratios[-1]:.2f}]; bytes on "
              f"the device by number of sources: {held}")


def drawn(attached: deltas.Attached, folder: Path, count: int) -> Any:
    """Random solutions in the files of a bank."""
    bank, rng = deltas.Bank(folder, create=True), np.random.default_rng(0)
    bank.add_start(attached)
    for n in range(count):
        vector = 0.02 * rng.standard_normal(attached.layout.size).astype(np.float32)
        bank.add(deltas.Solution(
            task=f"source{n}", seed=0, config=attached.config, layout=attached.layout, vector=vector, theta0=attached.theta0,
            backbone=attached.backbone.fingerprint, theta0_fingerprint=attached.theta0_fingerprint))
    return bank.rows(attached.label, [(f"source{n}", 0) for n in range(count)])


def most_held(attached: deltas.Attached, rows: Any, exam: Any) -> int:
    """Bytes of live arrays on the device at most, whenever a source is read."""
    import jax

    from subspace.ensembling import judge
    from subspace.rows import Stored

    counts = []

    class Watched(Stored):
        def __getitem__(self, n: int) -> Any:
            counts.append(sum(array.nbytes for array in jax.live_arrays()))
            return super().__getitem__(n)

    judge(attached, Watched(rows), exam)
    return max(counts)


if __name__ == "__main__":
    tyro.cli(EnsembleCost).run()
