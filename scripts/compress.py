"""`deltaspace compress`: a bank as bases and codes, and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .options import OnTasks


@dataclass(frozen=True, kw_only=True)
class Compress(OnTasks):
    """Write a bank's solutions as bases and codes at a tolerance, or with --back a compressed bank as a bank again."""

    bank: Annotated[Path, tyro.conf.Positional]
    """A bank's folder; with --back the folder of a compressed one."""
    out: Path
    """Where the result and `summary.json` are written."""
    tolerance: float = 0.05
    """Of each type's solutions together: the norm of what is lost over their norm."""
    width: Literal["float32", "float16", "int8"] = "float16"
    """Of the bases' numbers."""
    labels: tuple[str, ...] = ()
    """Delta types by label; all where none is named."""
    back: bool = False
    """Write the solutions that a compressed bank gives back as a bank."""
    score: bool = False
    """Score every solution of the named tasks as it was and as it is given back."""
    test_rows: int | None = None
    """score: test rows; all where not given."""

    def run(self) -> None:
        """Compress, say how small it is, score if wanted; or restore."""
        import subspace
        from deltas import Bank
        from deltas.bank import versions
        from deltas.errors import InputError
        from deltas.files import write_json

        from .progress import Bars

        if self.back:
            if self.score:
                raise InputError("expected --score where a bank is compressed, got it with --back; leave one of them out")
            bank = subspace.decompress(self.bank, self.out)
            print(f"{sum(len(bank.pairs([label])) for label in bank.labels())} solutions in {self.out}")
            return
        bank, bars = Bank(self.bank), Bars()
        loaded = self.load() if self.score else None  # refuses before any work
        with bars.stage("compress", 1) as bar:
            small = subspace.compress(bank, self.tolerance, self.out, dtype=self.width, labels=list(self.labels) or None)
            bar()
        print(small)
        summary = {"bytes_before": small.bytes_before, "bytes_after": small.bytes_after, "ratio": small.ratio, "width": self.width,
                   "tolerance": self.tolerance, "types": {label: vars(share) for label, share in small.shares.items()}}
        if loaded is not None:
            backbone, tasks, reading = loaded
            with bars.stage("score", 1) as bar:
                summary["scores"] = subspace.scores_kept(small, bank, backbone, tasks, reading=reading, rows=self.test_rows)
                bar()
            for one in summary["scores"]:
                print(f"{one['label']} {one['task']}, seed {one['seed']}: {one['original']:.3f} → {one['reconstructed']:.3f}")
        write_json(self.out / "summary.json", {**summary, "seconds": bars.seconds, "versions": versions()})
