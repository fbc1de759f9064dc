"""`deltaspace arbitrary`: deltas of any structure at any number of parameters; how few are enough, and whether structure matters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import Answering

if TYPE_CHECKING:
    from .arbitrary_runs import Ground


@dataclass(frozen=True, kw_only=True)
class Arbitrary:
    """Train deltas whose structure is drawn by a key, at several budgets, on several backbones: P_low, P_high, and the effect of structure.

    What may differ between backbones is one value for all or one a backbone, in their order. Run again, it goes on where it stopped.
    """

    out: Path
    """Where the table, the figure and the report are written"""
    backbones: tuple[str, ...] = ("tiny",)
    """Hugging Face folders or hub ids, or "tiny" """
    tasks: tuple[str, ...] = ("gym",)
    """A folder of tasks, or "gym" (one for all, or one a backbone)"""
    names: tuple[str, ...] = ("middle.last.kind",)
    """The tasks of a backbone, joined by + (one for all, or one a backbone)"""
    decode: tuple[Answering, ...] = ("rank",)
    """Answers by greedy generation, or by ranking the labels (one for all, or one a backbone)"""
    exclude: tuple[str, ...] = ("",)
    """Patterns of sites, joined by +, that no delta touches, full fine-tuning neither (one for all, or one a backbone)"""
    budgets: int = 6
    """How many, evenly apart in their logarithm"""
    least: tuple[int, ...] = ()
    """The smallest budget; the smallest group where not given (one for all, or one a backbone)"""
    most: tuple[int, ...] = ()
    """The largest budget; all groups together where not given (one for all, or one a backbone)"""
    structures: tuple[int, ...] = (3,)
    """How many keys structures are drawn by (one for all, or one a backbone)"""
    first_structure: int = 0
    """The first of the keys"""
    seeds: int = 1
    """Trainings of each structure on each task"""
    noise_seeds: int = 2
    """Trainings of the first structure, and of full fine-tuning: what is noise and not structure"""
    steps: tuple[int, ...] = (60,)
    """Updates of each training (one for all, or one a backbone)"""
    batch_size: int = 8
    """Rows an update"""
    rates: tuple[str, ...] = ("0.003",)
    """Peak learning rate, one for all budgets or one a budget joined by + (one for all, or one a backbone)"""
    full_rate: tuple[float, ...] = (0.001,)
    """Peak learning rate of full fine-tuning (one for all, or one a backbone)"""
    share: float = 0.5
    """The part of a budget that is for groups of deltas; the rest is for tensors of the backbone"""
    max_input: int = 32
    """Tokens kept of an input; all are padded to it, so that a structure compiles once"""
    max_target: int = 8
    """Tokens kept of an answer"""
    dev_rows: int = 64
    """Dev rows on which the best step is kept"""
    test_rows: int | None = None
    """Test rows; all where not given"""
    tolerance: float = 0.05
    """ε: P_low is above chance + ε, P_high at or above full − ε"""

    def run(self) -> None:
        """Check everything, train, draw, write."""
        from .options import use_devices

        use_devices(None)
        from .arbitrary_page import write
        from .experiment import Experiment

        grounds = self.grounds()
        made = Experiment(self.out, "arbitrary", self)
        rows: list[dict[str, Any]] = []
        with made.bars.stage("train", sum(ground.work for ground in grounds)) as bar:
            for ground in grounds:
                rows += ground.run(made, bar)
        write(made, grounds, rows)

    def grounds(self) -> list[Ground]:
        """The backbones, each with its tasks, budgets and learning rates: everything is checked before any work.

        Raises:
            InputError: any setting that is out of range, or has neither one value nor one a backbone.
        """
        from deltas.errors import InputError

        from .arbitrary_runs import Ground
        from .trials import counted

        names = ("budgets", "seeds", "noise_seeds", "batch_size", "dev_rows")
        counted({"backbones": len(self.backbones), "steps": min(self.steps, default=0), "structures": min(self.structures, default=0),
                 **{name: getattr(self, name) for name in names},
                 "test_rows": 1 if self.test_rows is None else self.test_rows})
        if not 0 <= self.tolerance < 1:
            raise InputError(f"expected a tolerance from 0 to 1, got {self.tolerance}; choose another")
        if twice := {name for name in self.backbones if self.backbones.count(name) > 1}:
            raise InputError(f"expected every backbone once, got {min(twice)} twice; remove one")
        return [Ground.of(self, number) for number in range(len(self.backbones))]
