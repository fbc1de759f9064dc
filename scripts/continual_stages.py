"""The stages of `deltaspace continual`: what is read and refused, and every run, kept from one start of the command to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

import deltas
from deltas.files import sha256
from subspace import Subspace
from subspace.continual import (
    ClassRows,
    Course,
    Learning,
    Plan,
    Sequence,
    accuracies,
    by_step,
    forgetting,
    in_codes,
    in_order,
    in_theta,
    named_classes,
    part_for,
    rows_of,
    teach,
)

from .continual_runs import CHANCE, IN_SPACE, RATES, RUNS, Run
from .experiment import Experiment
from .options import load_tasks, use_devices

if TYPE_CHECKING:
    from .continual import Continual


@dataclass(frozen=True, eq=False)
class Taken:
    """A sequence with its rows."""

    seed: int
    sequence: Sequence
    train: ClassRows
    test: ClassRows

    @property
    def counts(self) -> np.ndarray:
        """Scored rows by the step of their class."""
        return np.bincount(self.step_of_row, minlength=len(self.sequence.steps))

    @property
    def step_of_row(self) -> np.ndarray:
        """The step of each scored row's class."""
        return self.sequence.step_of[self.test.classes]


class Conduct:
    """All that the runs need, read and checked."""

    def __init__(self, settings: Continual) -> None:
        self.settings = s = settings
        use_devices(s.cpu_devices)
        tasks = load_tasks(s.tasks, s.names)
        self.tasks = tasks if s.names else [task for task in tasks if task.labels]
        self.classes = named_classes(self.tasks, s.min_rows)
        if s.order:
            sequences = {s.first_seed: Sequence(tuple(tuple(step.split("+")) for step in s.order))}
        else:
            sequences = {seed: in_order(list(self.classes), s.classes_per_step, seed) for seed in range(s.first_seed, s.first_seed + s.seeds)}
        self.space = None if s.space is None else Subspace.load(s.space)
        self.backbone = deltas.load_backbone(s.backbone, dtype=s.dtype)
        self.reading = deltas.Reading(max_input=s.max_input)
        if self.space is not None:
            for name in s.types:
                part_for(self.space, self.backbone, self.config(name))  # refuses what is not of this backbone and this form of the type
        self.taken = [Taken(seed, sequence, *(rows_of(self.backbone, self.classes, sequence, split, self.reading, most=most, seed=seed)
                                              for split, most in (("train", s.train_rows), (s.split, s.test_rows))))
                      for seed, sequence in sequences.items()]
        self.attached: dict[tuple[str, bool], deltas.Attached] = {}

    def config(self, name: str, plain: bool = False) -> deltas.DeltaType:
        """LAE's form of a type, or the plain one of the same sizes. An encoder-decoder's decoder is not read."""
        s, exclude = self.settings, ("decoder.*",) if self.backbone.kind == "encoder-decoder" else ()
        if name == "adapter":
            return deltas.Adapter(bottleneck=s.bottleneck, variant="parallel", act="gelu", sites=("attn",), exclude=exclude)
        if name == "lora":
            return (deltas.LoRA(rank=s.rank, alpha=float(s.rank), sites=("k", "v"), exclude=exclude) if plain else
                    deltas.CalibratedLoRA(rank=s.rank, exclude=exclude))
        return deltas.Prefix(length=s.length, exclude=exclude) if plain else deltas.CalibratedPrefix(length=s.length, exclude=exclude)

    def attach(self, name: str, plain: bool = False) -> deltas.Attached:
        """The backbone with a type, once; at the θ0 of the subspace where there is one. Prefixes start from texts without their classes."""
        if (name, plain) not in self.attached:
            config = self.config(name, plain)
            text = [example.input for task in self.tasks for example in task.train[:2]]
            theta0 = None if plain or self.space is None else self.space.part(config.label).theta0
            self.attached[name, plain] = deltas.Attached.of(self.backbone, config, theta0=theta0, text=text)
        return self.attached[name, plain]

    def course(self, run: Run, name: str) -> Course:
        """Where a run goes."""
        attached = self.attach(name, run.where == "plain")
        if run.where in ("codes", "random"):
            assert self.space is not None
            return in_codes(attached, self.space, random=0 if run.where == "random" else None)
        return in_theta(attached)

    def learning(self, run: Run, name: str) -> Learning:
        """How its steps are learned."""
        s, key = self.settings, "codes" if run.where in ("codes", "random") else name
        return Learning(steps=s.steps, batch_size=s.batch_size, rate={**RATES, **s.rates}[key], head_rate=s.head_rate,
                        frozen=s.frozen, decay=s.decay, others=(1.0,) if s.decay != 1.0 else ())

    def wanted(self) -> Iterator[tuple[str, str, Taken]]:
        """(type, run, sequence): all that is to be trained."""
        for run in self.settings.runs:
            for name in self.settings.types:
                if (run in IN_SPACE and self.space is None) or (RUNS[run].where == "plain" and name == "adapter"):
                    continue  # an adapter has nothing to calibrate
                for taken in self.taken:
                    yield name, run, taken

    @cached_property
    def read(self) -> list[Any]:
        """What every result depends on, whichever run it is of."""
        s = self.settings
        return [self.backbone.fingerprint, s.dtype, [task.fingerprint for task in self.tasks], s.min_rows, s.train_rows, s.split, s.test_rows,
                asdict(self.reading)]

    def key(self, name: str, run: str, taken: Taken) -> list[Any]:
        """What one run's results depend on."""
        way = RUNS[run]
        space = None
        if self.space is not None and way.where != "plain":
            part = self.space.part(self.config(name).label)
            space = sha256(part.offset.tobytes(), np.asarray(part.basis).tobytes())
        return [*self.read, taken.seed, taken.sequence.steps, self.config(name, way.where == "plain").to_json(), asdict(way),
                asdict(self.learning(way, name)), space]

    def results(self, name: str, run: str, taken: Taken, tell: Any) -> dict[str, Any]:
        """Run, and judge what is read off it: by method, `judged`."""
        way, learning = RUNS[run], self.learning(RUNS[run], name)
        decays = {"decay": learning.decay, "copy": 1.0}
        follow = tuple(dict.fromkeys(decays[read.offline] for read in way.reads if read.offline is not None))
        taught = teach(self.course(way, name), taken.sequence, taken.train, taken.test, learning, Plan(loss=way.loss, freezing=way.freezing,
                       together=way.together), seed=taken.seed, follow=follow, on_progress=tell)
        steps = len(taken.sequence.steps)
        seen = np.stack([taken.sequence.seen(steps - 1 if way.together else step) for step in range(1 if way.together else steps)])
        found = {}
        for read in way.reads:
            decay = None if read.offline is None else decays[read.offline]
            right = taught.answers(seen, decay, read.alone) == taken.test.classes
            found[read.method] = {"last": float(right.mean())} if way.together else judged(accuracies(right, taken.step_of_row), taken.counts)
        return found | {"": {"losses": taught.losses[:, -1].tolist()}}


def judged(table: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """The numbers of one course, as JSON: nothing stands above the diagonal."""
    steps = by_step(table, counts)
    return {"last": float(steps[-1]), "average": float(steps.mean()), "forgetting": forgetting(table), "by_step": steps.tolist(),
            "matrix": [[None if np.isnan(cell) else float(cell) for cell in row] for row in table]}


def chance(taken: Taken) -> dict[str, Any]:
    """Always the most common class of those seen: of the scored rows, so that no guess does better."""
    steps, numbers = len(taken.sequence.steps), np.bincount(taken.test.classes, minlength=len(taken.sequence.classes))
    shares = [float(numbers[seen].max() / numbers[seen].sum()) for seen in map(taken.sequence.seen, range(steps))]
    return {"last": shares[-1], "average": float(np.mean(shares)), "by_step": shares}


def conduct(settings: Continual) -> dict[str, Any]:
    """Everything of the command after its settings were checked; returns the summary."""
    from .continual_page import report

    work, made = Conduct(settings), Experiment(settings.out, "continual", settings)
    wanted = list(work.wanted())
    found: list[dict[str, Any]] = []
    with made.bars.stage("learn", len(wanted) * settings.steps * max(len(taken.sequence.steps) for taken in work.taken)) as bar:
        for name, run, taken in wanted:
            def tell(steps: int, what: str = f"{name} {run} {taken.seed}") -> None:
                bar(steps, what)

            judged_by_method = made.kept(f"{name}-{run}-{taken.seed}", work.key(name, run, taken),
                                         lambda: work.results(name, run, taken, tell))  # noqa: B023 - called at once
            found += [{"type": name, "method": method, "seed": taken.seed, **numbers} for method, numbers in judged_by_method.items() if method]
    found += [{"type": name, "method": CHANCE, "seed": taken.seed, **chance(taken)} for name in settings.types for taken in work.taken]
    return report(made, work, found)
