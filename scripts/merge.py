"""`deltaspace merge`: several solutions as one, in the shared space or in their own."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from subspace import Rule


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Merge source solutions of a subspace by their codes, or solutions of a bank by their vectors or products."""

    what: Annotated[Path, tyro.conf.Positional]
    """A subspace's folder: codes are merged, into `found.json` (for `transfer` and `export`). Or a bank's: solutions are merged, into one file
    (for `inspect`, `project` and `convert`)."""
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Tasks of the solutions to merge."""
    out: Path
    """Where the result and `summary.json` are written."""
    rule: Literal["mean", "task_arithmetic", "ties", "dare"] = "mean"
    """How."""
    label: str = "lora"
    """bank: the delta type."""
    seed: int = 0
    """Which seed's solutions."""
    space: Literal["factors", "product"] = "factors"
    """bank: merge θ − θ0, or the products ΔW = AB of LoRAs."""
    rank: int | None = None
    """bank, product: of the merged LoRA, at most; a mean or a sum is exact where not given."""
    density: float = 0.2
    """ties: the share of entries kept of each."""
    drop: float = 0.9
    """dare: the probability with which an entry is dropped."""
    scale: float | None = None
    """task_arithmetic, ties, dare: the factor of the result; each rule's own where not given."""
    draw: int = 0
    """dare: seed of what is dropped."""

    def run(self) -> None:
        """Merge, and write the point or the solution."""
        import deltas
        import subspace
        from deltas.bank import versions
        from deltas.errors import InputError
        from deltas.files import write_json
        from subspace.base import FILE

        pairs, told = [(task, self.seed) for task in self.tasks], {"of": list(self.tasks), "seed": self.seed, "rule": repr(self.rules())}
        if (self.what / FILE).is_file():
            if self.space != "factors" or self.rank is not None:
                raise InputError("expected --space product and --rank for solutions of a bank, got a subspace, whose codes are merged; "
                                 "leave them out")
            found = subspace.merge(subspace.Subspace.load(self.what), pairs, self.rules(), "z")
            assert found.z is not None  # merged in z
            write_json(self.out / "found.json", [{"task": "+".join(self.tasks), "through": "merge", "seed": self.seed, "z": found.z.tolist()}])
        else:
            bank = deltas.Bank(self.what)
            one = subspace.merge_solutions([bank.load(self.label, *pair) for pair in pairs], self.rules(), space=self.space, rank=self.rank,
                                           task="+".join(self.tasks))
            deltas.save_solution(one, self.out / "merged.safetensors")
        write_json(self.out / "summary.json", {"merged": told, "what": str(self.what), "versions": versions()})
        print(f"{self.rule} of {', '.join(self.tasks)} in {self.out}")

    def rules(self) -> "Rule":
        """The rule with its settings."""
        import subspace

        own = 1.0 if self.scale is None else self.scale
        return {"mean": subspace.Mean(), "task_arithmetic": subspace.TaskArithmetic(scale=own),
                "ties": subspace.Ties(density=self.density, scale=own),
                "dare": subspace.Dare(drop=self.drop, scale=self.scale, seed=self.draw)}[self.rule]
