"""`deltaspace export`: points of a subspace as PEFT adapters."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from subspace import Subspace


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a point of a subspace as a PEFT adapter: of `found.json`, of a source task, or the mean solution where neither is named."""

    space: Annotated[Path, tyro.conf.Positional]
    """A subspace's folder."""
    out: Path
    """The adapter's folder."""
    found: Path | None = None
    """`found.json` of `optimize` or `project`."""
    task: str | None = None
    """Which task's point; without --found, a source's own code."""
    through: str | None = None
    """found: the delta type that the point was tuned through, where there are several points of the task."""
    seed: int = 0
    """Which seed's point."""
    label: str = "lora"
    """The delta type by which it is written."""
    backbone: str | None = None
    """The subspace's backbone, where it was fitted on a bank; one that was fitted on folders of adapters needs none."""
    base_model: str | None = None
    """What the adapter names as its base; that of the sources where not given."""
    rank: int | None = None
    """Write a difference of weights as a LoRA of at most this rank."""
    energy: float | None = None
    """Or of the least rank that keeps this share of its squared norm."""

    def run(self) -> None:
        """Choose the point, write it, and `summary.json` beside it."""
        import numpy as np

        import deltas
        import subspace
        from deltas.bank import versions
        from deltas.files import write_json

        space = subspace.Subspace.load(self.space)
        z, told = self._point(space)
        backbone = None if self.backbone is None else deltas.load_backbone(self.backbone)
        subspace.export(space, np.asarray(z, np.float32), self.out, label=self.label, base_model=self.base_model, backbone=backbone,
                        rank=self.rank, energy=self.energy)
        write_json(self.out / "summary.json", {"space": str(self.space), "point": told, "label": self.label, "z": np.asarray(z).tolist(),
                                               "versions": versions()})
        print(f"{told} as {self.label} in {self.out}")

    def _point(self, space: "Subspace") -> tuple[list[float], str]:
        from deltas.errors import InputError
        from deltas.files import read_json

        if self.found is not None:
            points = [p for p in read_json(self.found) if self.task in (None, p["task"]) and self.through in (None, p["through"])
                      and p["seed"] == self.seed]
            if len(points) != 1:
                raise InputError(f"expected one point in {self.found}, got {len(points)} for task {self.task or 'any'}, through "
                                 f"{self.through or 'any'}, seed {self.seed}; name --task, --through and --seed")
            return points[0]["z"], f"the point found for {points[0]['task']} through {points[0]['through']}"
        if self.task is None:
            return [0.0] * space.k, "the mean solution"
        if (self.task, self.seed) not in space.pairs:
            raise InputError(f"expected a source of the subspace ({', '.join(sorted({t for t, _ in space.pairs}))}), got {self.task}, seed "
                             f"{self.seed}; choose one of them, or a point with --found")
        return space.codes[space.pairs.index((self.task, self.seed))].tolist(), f"the code of {self.task}, seed {self.seed}"
