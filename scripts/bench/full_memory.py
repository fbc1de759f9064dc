"""`python -m deltaspace.bench.full_memory --backbone FOLDER --out FILE`: full fine-tuning as a delta type, and the memory that it takes.

The solutions are synthetic, of the true layout (D is the number of the backbone's weights): memory and time depend on no value of theirs.
x_n = mean + Σ_j c_nj m_j + noise with `rank` directions; so the energy that is found is known beforehand.
"""

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import deltas
from deltas import Bank
from deltas.bank import Solution, versions
from deltas.files import write_json

from .timing import machine

SCALE = 1e-3
"""Of a change of a weight."""


@dataclass(frozen=True, kw_only=True)
class FullMemory:
    """Make a bank, decompose it, save, load, decode, encode, and run the backbone at a decoded point, watching the peak of resident memory."""

    backbone: Path
    """A Hugging Face folder."""
    out: Path
    """The JSON that is written."""
    scratch: Path | None = None
    """Where bank and subspace lie while it runs; the system's temporary folder where not given."""
    solutions: int = 12
    k: int = 8
    rank: int = 4
    noise: float = 0.3
    seed: int = 0

    def run(self) -> None:
        """Measure and write."""
        import jax.numpy as jnp

        import subspace
        from subspace.base import FILE, Subspace

        stages: dict[str, dict[str, float]] = {}
        started = [time.perf_counter()]

        def done(stage: str) -> None:
            now = time.perf_counter()
            stages[stage] = {"seconds": round(now - started[0], 2), "peak_gb": round(peak(), 3)}
            started[0] = now
            print(stage, stages[stage], flush=True)

        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="full.") as scratch:
            backbone = deltas.load_backbone(self.backbone)
            attached = deltas.Attached.of(backbone, deltas.Full())
            done("load_backbone")
            bank = self.bank(attached, Path(scratch) / "bank")
            done("make_bank")
            space = subspace.joint_svd(bank, self.k)
            done("decompose")
            space.save(Path(scratch) / "space")
            size = (Path(scratch) / "space" / FILE).stat().st_size
            done("save")
            energy = space.energy["full"]
            del space
            space = Subspace.load(Path(scratch) / "space", bank)
            theta = space.decode("full", space.codes[0])
            done("load_and_decode")
            away = float(np.abs(space.encode("full", theta) - space.codes[0]).max())
            done("encode")
            task, seed = space.pairs[0]
            ids = jnp.asarray(np.random.default_rng(self.seed).integers(5, backbone.config.vocab_size, (2, 16)))
            batch = {"input_ids": ids, "attention_mask": jnp.ones_like(ids)}
            if backbone.kind == "encoder-decoder":
                batch["decoder_input_ids"] = ids[:, :4]
            part = space.part("full")
            found = Solution(task=task, seed=seed, config=part.config, layout=part.layout, vector=theta - part.theta0, theta0=part.theta0,
                             backbone=space.backbone, theta0_fingerprint=part.theta0_fingerprint)
            logits, plain = backbone.logits(batch, found), backbone.logits(batch)
            moved = float(jnp.max(jnp.abs(logits - plain)))
            done("forward")
        if not np.isfinite(moved) or moved == 0.0 or away > 1e-3:
            raise RuntimeError(f"the decoded point does not run as it should: logits moved by {moved}, its code by {away}")
        write_json(self.out, {
            "backbone": self.backbone.name, "size": attached.layout.size, "solutions": self.solutions, "k": self.k, "synthetic": True,
            "energy": energy, "energy_planted": self.planted_energy(), "subspace_file_gb": round(size / 2**30, 3), "stages": stages,
            "peak_gb": round(peak(), 3), "machine": machine(), "versions": versions()})

    def bank(self, attached: Any, path: Path) -> Bank:
        """Solutions made one at a time: a direction is drawn again from its seed whenever it is needed."""
        bank, size = Bank(path, create=True), attached.layout.size
        bank.add_start(attached)
        codes = np.random.default_rng([self.seed, 0]).standard_normal((self.solutions, self.rank), np.float32)
        for n, code in enumerate(codes):
            x = self.noise * np.random.default_rng([self.seed, 2, n]).standard_normal(size, np.float32)
            for j, c in enumerate((1.0, *code)):
                x += np.float32(c) * np.random.default_rng([self.seed, 1, j]).standard_normal(size, np.float32)
            bank.add(Solution(task=f"task{n}", seed=0, config=attached.config, layout=attached.layout, vector=np.float32(SCALE) * x,
                              theta0=attached.theta0, backbone=attached.backbone.fingerprint,
                              theta0_fingerprint=attached.theta0_fingerprint))
        return bank

    def planted_energy(self) -> float:
        """What the k leading directions hold: all of the planted ones, and of the noise its share of the other dimensions of N centred rows."""
        codes = np.random.default_rng([self.seed, 0]).standard_normal((self.solutions, self.rank), np.float32)
        signal, noise, rows = float(np.sum((codes - codes.mean(0)) ** 2)), self.noise**2, self.solutions - 1
        return (signal + min(self.k, rows) * noise) / (signal + rows * noise)


def peak() -> float:
    """GiB of resident memory at most so far."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**30 if sys.platform == "darwin" else used / 2**20


if __name__ == "__main__":
    tyro.cli(FullMemory).run()
