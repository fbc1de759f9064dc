"""`deltaspace continual`: classes learned step by step with LAE, against its ablations, comparators and controls (Gao et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .continual_runs import RATES, RUNS

TYPES = ("lora", "adapter", "prefix")


@dataclass(frozen=True, kw_only=True)
class Continual:
    """Learn the classes of classification tasks step by step, keeping no row of an earlier step, and report what was remembered."""

    out: Path
    """Where results, figures and the report are written; a run that was killed goes on from there."""
    backbone: str = "tiny"
    """A Hugging Face folder, a hub id, or "tiny" (the small T5 that comes with the package)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and computation."""
    tasks: str = "gym"
    """A folder with one folder a task (<task>_{train,dev,test}.tsv), or "gym" (the built-in tasks)."""
    names: tuple[str, ...] = ()
    """Classification tasks whose classes are mixed; none named: all of the folder that have labels."""
    order: tuple[str, ...] = ()
    """The classes of each step, as class+class+…, instead of an order drawn by every seed."""
    types: tuple[Literal["lora", "adapter", "prefix"], ...] = TYPES
    """Delta types, in LAE's form: LoRA on k and v, adapters beside attention, prefixes."""
    rank: int = 5
    """Of the LoRA."""
    bottleneck: int = 5
    """Of the adapter."""
    length: int = 10
    """Of the prefix, in rows a layer."""
    runs: tuple[str, ...] = tuple(RUNS)
    """What is trained, by name; the last three only where a space is given."""
    classes_per_step: int = 4
    """New classes a step."""
    min_rows: int = 20
    """Training rows that a class has at least; rarer ones are left out."""
    train_rows: int = 40
    """Training rows a class, at most."""
    split: Literal["test", "dev"] = "test"
    """Rows that are scored: dev to choose settings by."""
    test_rows: int = 20
    """Scored rows a class, at most."""
    seeds: int = 3
    """Sequences: a seed sets the order of the classes, the rows and their order."""
    first_seed: int = 1
    """The first of the seeds; settings are best chosen on another, by dev rows."""
    steps: int = 50
    """Updates a step of the sequence."""
    batch_size: int = 8
    """Rows an update."""
    rates: dict[str, float] = field(default_factory=dict)
    """Learning rates of Adam by type, and of codes."""
    head_rate: float = 1e-2
    """Learning rate of the head."""
    frozen: float = 0.6
    """Share of each step's updates, from the second step on, during which the head alone learns."""
    decay: float = 0.9999
    """Of the offline delta, an update. The paper's is for thousands of updates a step; few updates want a smaller one."""
    space: Path | None = None
    """A folder with a subspace of these types (of `deltaspace decompose`), decomposed from other tasks."""
    max_input: int = 24
    """Tokens kept of a text."""
    cpu_devices: int | None = None
    """Split the processor into this many devices."""

    def run(self) -> None:
        """Check, learn every sequence in every way, draw and report."""
        from .continual_stages import conduct

        self.check()
        conduct(self)

    def check(self) -> None:
        """Refuse settings that can be seen to be wrong without reading anything."""
        from deltas.errors import InputError, at_least_one
        from subspace.continual import Learning

        at_least_one(self, "continual's", "rank", "bottleneck", "length", "classes_per_step", "min_rows", "train_rows", "test_rows", "seeds",
                     "steps", "batch_size")
        for what, given, known in (("type", self.types, TYPES), ("run", self.runs, tuple(RUNS))):
            if not given or len(set(given)) < len(given) or not set(given) <= set(known):
                raise InputError(f"expected each {what} once, among {', '.join(known)}, got {', '.join(given) or 'none'}; mend it")
        for key, rate in self.rates.items():
            if key not in RATES or not rate > 0:
                raise InputError(f"expected rates above 0 of {', '.join(RATES)}, got {key} = {rate}; mend it")
        if self.order and self.seeds > 1:
            raise InputError(f"expected one seed for one given order of classes, got {self.seeds}; set seeds to 1, or leave the order out")
        Learning(steps=self.steps, batch_size=self.batch_size, head_rate=self.head_rate, frozen=self.frozen, decay=self.decay)
