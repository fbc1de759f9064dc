"""`deltaspace decompose`: a bank's solutions into one shared subspace."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .options import OnTasks, pairs_of

if TYPE_CHECKING:
    from deltas import Bank
    from subspace import Subspace

    from .progress import Bar


@dataclass(frozen=True, kw_only=True)
class Decompose(OnTasks):
    """Decompose the solutions of a bank jointly. The autoencoder alone runs the backbone on the tasks; the others read only the bank."""

    bank: Annotated[Path, tyro.conf.Positional]
    """The bank's folder."""
    out: Path
    """Where the subspace is written."""
    k: int
    """Dimension of the subspace, at most the number of (task, seed) pairs minus one (the autoencoder from a random start: any)."""
    method: Literal["joint_svd", "autoencoder", "mean_only", "random_basis", "shuffled"] = "joint_svd"
    """A decomposition, or a control."""
    labels: tuple[str, ...] = ()
    """Delta types by label; all of the bank where none is named."""
    setting: Literal["single", "multi"] = "multi"
    """autoencoder: one task, or many with their own mix of the types an example."""
    start: Literal["joint_svd", "random"] = "joint_svd"
    """autoencoder: where the projections start."""
    simplex: Literal["dirichlet", "stick_breaking"] = "dirichlet"
    """autoencoder: how a mix of the types is drawn."""
    reconstruction: Literal["norm", "mean_square"] = "norm"
    """autoencoder: how the distance to a solution counts."""
    alpha: float | None = None
    """autoencoder: weight of the reconstruction; that of the setting where not given."""
    learning_rate: float = 1e-4
    """autoencoder: of Adafactor, constant."""
    steps: int = 400
    """autoencoder: updates."""
    seed: int = 0
    """Of the controls' and the autoencoder's draws."""

    def run(self) -> None:
        """Fit, save, and say how much of the solutions the subspace holds."""
        from deltas import Bank
        from deltas.bank import versions
        from deltas.files import write_json

        from .progress import Bars

        bank, bars = Bank(self.bank), Bars()
        labels = list(self.labels) or bank.labels()
        with bars.stage("decompose", self.steps if self.method == "autoencoder" else 1) as bar:
            space = self._space(bank, labels, bar)
            space.save(self.out)
        self._state.unlink(missing_ok=True)
        write_json(self.out / "summary.json", {**space.describe(), "seconds": bars.seconds, "versions": versions()})
        print(f"{self.method} of {len(space.pairs)} solutions × {len(labels)} types, k = {self.k}, in {self.out}")

    @property
    def _state(self) -> Path:
        """Where an interrupted autoencoder goes on from."""
        return self.out / "state.safetensors"

    def _space(self, bank: "Bank", labels: list[str], bar: "Bar") -> "Subspace":
        import subspace

        pairs = pairs_of(bank, labels, self.names)
        if self.method != "autoencoder":
            seeded: dict[str, Any] = {"seed": self.seed} if self.method in ("random_basis", "shuffled") else {}
            return getattr(subspace, self.method)(bank, self.k, labels=labels, pairs=pairs, **seeded)
        backbone, tasks, reading = self.load()
        import deltas

        settings = subspace.Autoencoder(setting=self.setting, start=self.start, simplex=self.simplex, reconstruction=self.reconstruction,
                                        alpha=self.alpha, learning_rate=self.learning_rate, steps=self.steps, seed=self.seed)
        attached = {label: deltas.attached_from(bank, backbone, label) for label in labels}
        return subspace.autoencoder(bank, self.k, attached=attached, tasks=tasks, reading=reading, settings=settings, labels=labels,
                                    pairs=pairs, checkpoint=self._state, on_step=lambda step, log: bar.to(step))
