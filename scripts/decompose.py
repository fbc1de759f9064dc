"""`deltaspace decompose`: a bank's solutions into one shared subspace."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Decompose:
    """Decompose the solutions of a bank jointly; needs no backbone."""

    bank: Annotated[Path, tyro.conf.Positional]
    """The bank's folder."""
    out: Path
    """Where the subspace is written."""
    k: int
    """Dimension of the subspace, at most the number of (task, seed) pairs minus one."""
    method: Literal["joint_svd", "mean_only", "random_basis", "shuffled"] = "joint_svd"
    """The decomposition, or a control. The learned autoencoder needs backbone and tasks: it runs in a study."""
    labels: tuple[str, ...] = ()
    """Delta types by label; all of the bank where none is named."""
    tasks: tuple[str, ...] = ()
    """Tasks to decompose; all that every type has where none is named."""
    seed: int = 0
    """Of the controls' draws."""

    def run(self) -> None:
        """Fit, save, and say how much of the solutions the subspace holds."""
        import subspace
        from deltas import Bank
        from deltas.bank import versions
        from deltas.files import write_json

        from .options import pairs_of
        from .progress import Bars

        bank, bars = Bank(self.bank), Bars()
        labels = list(self.labels) or bank.labels()
        seeded = {"seed": self.seed} if self.method in ("random_basis", "shuffled") else {}
        with bars.stage("decompose", 1):
            space = getattr(subspace, self.method)(bank, self.k, labels=labels, pairs=pairs_of(bank, labels, self.tasks), **seeded)
            space.save(self.out)
        write_json(self.out / "summary.json", {**space.describe(), "seconds": bars.seconds, "versions": versions()})
        print(f"{self.method} of {len(space.pairs)} solutions × {len(labels)} types, k = {self.k}, in {self.out}")
