"""What the presets share: their settings, and the checked backbone, tasks and bank that they work with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import OnTasks, parse_type, use_devices

if TYPE_CHECKING:  # the command line answers --help without JAX
    from deltas import Attached, Backbone, Bank, DeltaType, Reading, Task, Training
    from deltas.evaluation import Exam

    from ..experiment import Experiment

MARK = "made.json"
"""In a bank: the settings its solutions were made with."""


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
                               learning_rates=self.learning_rates, evaluate_every=self.evaluate_every, dev_rows=self.dev_rows)

    def begin(self, experiment: Experiment) -> Ground:
        """All that the settings name, loaded and checked.

        Raises:
            InputError: settings, types, tasks or a bank that cannot work; nothing is trained or written before.
        """
        import deltas
        from deltas.errors import at_least_one

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


@dataclass(eq=False)
class Ground:
    """What a preset works with."""

    experiment: Experiment
    settings: Preset
    backbone: Backbone
    tasks: list[Task]
    reading: Reading
    training: Training
    types: list[DeltaType]

    @property
    def labels(self) -> list[str]:
        """Of the types, in order."""
        return [one.label for one in self.types]

    @property
    def folder(self) -> Path:
        """The bank's."""
        return self.settings.bank or self.settings.out / "bank"

    @cached_property
    def parameters(self) -> int:
        """Numbers in the backbone's weights."""
        import jax
        from flax import nnx

        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.backbone.module, nnx.Param)))

    def check(self) -> None:
        """Refuse tasks that the backbone cannot answer, and a bank that was made otherwise."""
        from deltas import InputError

        encoder = self.backbone.kind == "encoder"
        if encoder and self.reading.decode != "rank":
            raise InputError(f"expected decode = \"rank\" for the encoder {self.backbone.name}, got {self.reading.decode!r}; an encoder can "
                             "only choose among labels")
        for task in self.tasks if self.reading.decode == "rank" else ():
            if not task.labels:
                raise InputError(f"expected label words to rank for task {task.name}, got a task without; leave it out of names")
        self.check_bank(self.folder, self.reading)

    def check_bank(self, folder: Path, reading: Reading) -> None:
        """Refuse a bank whose solutions were made with other settings: they would be mixed without a word."""
        from deltas import InputError
        from deltas.files import read_json

        mark, made = folder / MARK, self.made(reading)
        if mark.is_file() and (before := read_json(mark)) != made:
            odd = next(key for key in made if before.get(key) != made[key])
            raise InputError(f"expected the {odd} that the solutions in {folder} were trained with ({_short(before.get(odd))}), got "
                             f"{_short(made[odd])}; give the study a new --out")

    def mark(self, folder: Path, reading: Reading) -> None:
        """Write into a bank what its solutions are made with."""
        from deltas.files import write_json

        write_json(folder / MARK, self.made(reading))

    def made(self, reading: Reading) -> dict[str, Any]:
        """All that a solution of the bank depends on, beside its type, task and seed."""
        tasks = {task.name: task.fingerprint for task in self.tasks}
        told = {"backbone": self.backbone.fingerprint, "training": asdict(self.training), "reading": asdict(reading), "tasks": tasks,
                "test_rows": self.settings.test_rows, "seed": self.settings.seed}
        return json.loads(json.dumps(told))

    def train(self) -> Bank:
        """The solutions of every task, type and seed."""
        import deltas

        self.mark(self.folder, self.reading)
        settings = self.settings
        with self.experiment.bars.stage("train", self.training.steps * len(self.tasks) * settings.seeds * len(self.types)) as bar:
            done = 0

            def tell(what: str, now: int, total: int) -> None:
                nonlocal done
                bar(now - done, what)
                done = now

            return deltas.train(self.backbone, self.tasks, self.types, seeds=settings.seeds, out=self.folder, training=self.training,
                                reading=self.reading, in_flight=settings.in_flight, test_rows=settings.test_rows, seed=settings.seed,
                                on_progress=tell)

    def scored(self, bank: Bank, label: str) -> dict[str, list[float]]:
        """Task → the test scores of its seeds; those that failed are left out."""
        return {task.name: [bank.scores(label, task.name, seed)["test"] for seed in range(self.settings.seeds)
                            if bank.file(label, task.name, seed).is_file()] for task in self.tasks}

    def exam(self, task: Task, split: str = "test", reading: Reading | None = None) -> Exam:
        """The rows of a split that are scored."""
        from deltas.evaluation import Exam

        rows = {"test": self.settings.test_rows, "dev": self.settings.dev_rows, "train": None}[split]
        return Exam.of(self.backbone, task, split, reading or self.reading, rows)

    def controls(self, attached: Attached, splits: Sequence[str] = ("test",)) -> dict[str, dict[str, dict[str, float]]]:
        """Split → task → {zero_shot: the backbone alone, zero_shot_loss: its loss, chance: the most frequent training answer}."""
        import numpy as np

        from deltas.evaluation import evaluate_each
        from subspace.transfer import bare

        found: dict[str, dict[str, dict[str, float]]] = {split: {} for split in splits}
        nothing = bare(attached)
        with self.experiment.bars.stage("controls", len(self.tasks) * len(splits)) as bar:
            for split in splits:
                for task in self.tasks:
                    def alone(task: Task = task, split: str = split) -> dict[str, float]:
                        exam = self.exam(task, split)
                        alone = evaluate_each(nothing, np.zeros((1, 0), np.float32), [exam])[0]
                        return {"zero_shot": alone.score, "zero_shot_loss": alone.loss, "chance": majority(exam)}

                    found[split][task.name] = self.experiment.kept(f"controls.{split}.{task.name}", self.key(task, split), alone)
                    bar()
        return found

    def key(self, task: Task, split: str) -> list[Any]:
        """What a score on a task's rows depends on, beside the delta."""
        rows = {"test": self.settings.test_rows, "dev": self.settings.dev_rows, "train": None}[split]
        return [self.backbone.fingerprint, asdict(self.reading), task.fingerprint, split, rows]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else f"{text[:200]} …"


def majority(exam: Exam) -> float:
    """The score on the exam's rows of always giving the most frequent training answer."""
    from deltas.tasks import chance

    task = dataclasses.replace(exam.task, test=exam.examples)
    return chance(task, "test")


def categories_of(settings: Mapping[str, str], tasks: Sequence[Task]) -> dict[str, str]:
    """Task → category, of the settings where it is given there, else the task's own.

    Raises:
        InputError: a category of a task that is not studied, or a task without.
    """
    from deltas import InputError

    names = [task.name for task in tasks]
    if stray := sorted(set(settings) - set(names)):
        raise InputError(f"expected categories of the tasks {', '.join(names)}, got one of {stray[0]}; take it out or name the task")
    found = {task.name: str(settings.get(task.name) or task.category) for task in tasks}
    if bare := [name for name, kind in found.items() if not kind]:
        raise InputError(f"expected a category of every task, got none for {bare[0]}; give it in categories")
    return found
