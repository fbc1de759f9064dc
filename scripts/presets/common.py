"""What the presets share: their settings, checked before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import OnTasks, parse_type, use_devices

if TYPE_CHECKING:  # the command line answers --help without JAX
    from deltas import Backbone, Reading, Task, Training

    from ..experiment import Experiment
    from .ground import Ground


@dataclass(frozen=True, kw_only=True)
class Preset(OnTasks):
    """A backbone, tasks, delta types, and how a solution is trained."""

    out: Path
    """The study's folder."""
    types: tuple[str, ...] = ("lora", "adapter", "prefix")
    """Delta types, each with settings if wanted: lora:rank=4."""
    seeds: int = 2
    """Solutions a task and type; seeds change the order of the data alone."""
    steps: int = 60
    """Updates of each solution."""
    batch_size: int = 8
    """Rows an update."""
    learning_rate: float = 3e-3
    """Peak learning rate."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Peak learning rates of single types, by label."""
    evaluate_every: int = 20
    """Steps between two looks at the dev rows; the best is kept."""
    segment: int = 10
    """Steps that are run at a stretch, on rows of one length; looks at the dev rows come at the end of one."""
    dev_rows: int = 64
    """Dev rows looked at."""
    test_rows: int | None = None
    """Test rows that are scored; all where not given."""
    train_rows: int | None = None
    """Train rows that are trained on, the first ones; all where not given."""
    buckets: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    """Lengths in tokens that texts are padded to: few of them are few programs to compile."""
    in_flight: int | None = None
    """Solutions trained at once; one a device on a processor, sixteen on an accelerator where not given."""
    seed: int = 0
    """Of the types' initial parameters."""
    bank: Path | None = None
    """Where the solutions are; presets of the same settings may share it. bank/ in the study's folder where not given."""

    def load(self) -> tuple[Backbone, list[Task], Reading]:
        """The backbone, the tasks, the reading."""
        use_devices(self.cpu_devices)
        import deltas

        from ..options import load_tasks

        reading = deltas.Reading(max_input=self.max_input, max_target=self.max_target, decode=self.decode, verbalizer=self.verbalizer,
                                 buckets=self.buckets)
        tasks = [dataclasses.replace(task, train=task.train[: self.train_rows]) for task in load_tasks(self.tasks, self.names)]
        return deltas.load_backbone(self.backbone, dtype=self.dtype), tasks, reading

    def training(self, labels: Sequence[str]) -> Training:
        """How a solution is trained; a learning rate that is not above 0, or of a label that is not trained, is refused."""
        import deltas

        for label, rate in self.learning_rates.items():
            if label not in labels or isinstance(rate, bool) or not isinstance(rate, int | float) or rate <= 0:
                raise deltas.InputError(f"expected learning_rates with labels among {', '.join(labels)} and rates above 0, got {label} = "
                                        f"{rate!r}; change it in the study file")
        return deltas.Training(steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate,
                               learning_rates=self.learning_rates, evaluate_every=self.evaluate_every, dev_rows=self.dev_rows,
                               segment=self.segment)

    def begin(self, experiment: Experiment) -> Ground:
        """All that the settings name, loaded and checked.

        Raises:
            InputError: settings, types, tasks or a bank that cannot work; nothing is trained or written before.
        """
        import deltas
        from deltas.errors import at_least_one

        from .ground import Ground

        at_least_one(self, "the study's", "seeds", "test_rows", "train_rows", "in_flight")
        if not self.types:
            raise deltas.InputError("expected at least one type, got none; name some, such as lora")
        types = [parse_type(text) for text in self.types]
        labels = [one.label for one in types]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise deltas.InputError(f"expected types with labels that differ, got {twice[0]} twice; give one a label of its own, as "
                                    f"{twice[0]}:label=another")
        training = self.training(labels)
        ground = Ground(experiment, self, *self.load(), training, types)
        ground.check()
        return ground
