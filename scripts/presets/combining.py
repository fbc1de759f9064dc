"""The work of the combinability study: solutions of several types, each trained from what the ones before it left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from deltas import Attached, Bank, Reading, Task
    from deltas.combining import Moving

    from .ground import Ground

COLUMNS = ("template", "how", "types", "task", "seed", "metric", "parameters", "dev", "train", "test", "gap", "train_loss", "test_loss")
Way = tuple[str, tuple[str, ...]]
"""(how, types in order): "together", or "in turn"."""


@dataclass(frozen=True, kw_only=True)
class Combined:
    """One combination on one task: its scores on train, dev and test rows."""

    template: str
    how: str
    types: tuple[str, ...]
    task: str
    seed: int
    metric: str
    parameters: int
    dev: float
    train: float
    test: float
    train_loss: float
    test_loss: float

    @property
    def gap(self) -> float:
        """Train − test."""
        return self.train - self.test

    @property
    def name(self) -> str:
        """As it is written: a + b together, a, then b in turn; none."""
        return (" + " if self.how == "together" else ", then ").join(self.types) or "none"

    def row(self) -> dict[str, Any]:
        """Of results.csv."""
        return {**vars(self), "types": self.name, "gap": round(self.gap, 6)}


@dataclass(eq=False)
class Combiner:
    """One template's combinations: their attached types, and the bank that holds their solutions."""

    ground: Ground
    template: str
    reading: Reading
    bank: Bank
    attached: dict[tuple[str, ...], Attached]

    def of(self, types: tuple[str, ...]) -> Attached:
        """The types in that order as one delta, all at the θ0 each has alone; compiled once, whichever of them move."""
        from deltas.combining import joined
        from deltas.functional import Attached
        from deltas.types import Together

        if types not in self.attached:
            if len(types) == 1:
                config = next(one for one in self.ground.types if one.label == types[0])
                text = [example.input for task in self.ground.tasks for example in task.train[:2]]
                self.attached[types] = Attached.of(self.ground.backbone, Together(parts=(config,), label=config.label),
                                                   seed=self.ground.settings.seed, text=text)
            else:
                self.attached[types] = joined(self.ground.backbone, [self.of((one,)) for one in types])
        return self.attached[types]

    def moving(self, way: Way, task: Task, seed: int) -> Moving:
        """What moves, and from where: of types in turn the last alone, from what the ones before it became."""
        import jax.numpy as jnp
        import numpy as np

        from deltas.combining import Moving, put

        how, types = way
        attached, start = self.of(types), self.of(types).theta0
        moved = types if how == "together" else types[-1:]
        if how == "in turn":
            before = self.solved(types[:-1], task, seed)
            last = self.of(types[-1:])
            start = put(attached.layout, [(self.of(types[:-1]).layout, before), (last.layout, last.theta0)])
        layouts = {one: self.of((one,)).layout for one in types}
        rate = put(attached.layout, [(layout, np.full(layout.size, self.rate(one) if one in moved else 0.0)) for one, layout in layouts.items()])
        return Moving(jnp.asarray(start), rate)

    def rate(self, label: str) -> float:
        """The part's learning rate in units of the study's."""
        settings = self.ground.settings
        return settings.learning_rates.get(label, settings.learning_rate) / settings.learning_rate

    def solved(self, types: tuple[str, ...], task: Task, seed: int) -> np.ndarray:
        """θ of what was trained in turn."""
        return self.bank.load(self.label(("in turn", types)), task.name, seed).theta

    def ready(self, way: Way, task: Task, seed: int) -> bool:
        """Whether what a combination begins with is there: it may have failed."""
        how, types = way
        return how == "together" or len(types) < 2 or self.bank.file(self.label((how, types[:-1])), task.name, seed).is_file()

    def label(self, way: Way) -> str:
        """In the bank; one type in turn is that type alone."""
        how, types = way
        how = how if len(types) > 1 else "together"
        return "-".join(types) + ("-in-turn" if how == "in turn" else "")

    def solve(self, way: Way, task: Task, seed: int) -> None:
        """Train one combination on a task and store it with its scores."""
        from dataclasses import replace

        import jax.numpy as jnp
        import numpy as np

        from deltas.bank import Solution
        from deltas.combining import scaled
        from deltas.evaluation import evaluate_each
        from deltas.tuning import Job, tune

        attached, moving = self.of(way[1]), self.moving(way, task, seed)
        training = replace(self.ground.training, learning_rates={})  # of the parts they are in `moving`
        outcome = next(iter(tune(attached, [Job(task, seed)], np.zeros((1, attached.layout.size), np.float32), training, self.reading,
                                 decode=scaled, constants=moving, in_flight=1)))[0]
        label = self.label(way)
        if outcome.failed is not None:
            self.bank.add_failure(label, task.name, seed, outcome.failed)
            return
        theta = np.asarray(scaled(jnp.asarray(outcome.vector), moving))
        scores: dict[str, Any] = {"metric": task.metric, "dev": outcome.score, "dev_loss": outcome.loss}
        for split in ("train", "test"):
            found = evaluate_each(attached, theta[None], [self.ground.exam(task, split, self.reading)], in_flight=1)[0]
            scores |= {split: found.score, f"{split}_loss": found.loss}
        start = self.bank.start(label)
        self.bank.add(Solution(task=task.name, seed=seed, config=start.config, layout=attached.layout, vector=theta - attached.theta0,
                               theta0=attached.theta0, backbone=start.backbone, theta0_fingerprint=attached.theta0_fingerprint, scores=scores,
                               provenance={"step": outcome.step, "history": outcome.history, "task": task.fingerprint}))


def combine(ground: Ground, template: str, reading: Reading, ways: list[Way], attached: dict[tuple[str, ...], Attached],
            tell: Callable[..., None]) -> list[Combined]:
    """Every combination of every task and seed, trained where the bank has it not; what failed is left out.

    `attached` is filled with what is compiled, for the next template.
    """
    from deltas import Bank

    ground.mark(ground.folder / template, reading)
    work = Combiner(ground, template, reading, Bank(ground.folder / template, create=True), attached)
    found: list[Combined] = []
    for way in ways:
        if not way[1]:
            found += bare(work)
            tell(len(ground.tasks) * ground.settings.seeds, "nothing")
            continue
        start(work, way)
        for task in ground.tasks:
            for seed in range(ground.settings.seeds):
                label = work.label(way)
                if not work.bank.has(label, task.name, seed) and work.ready(way, task, seed):
                    work.solve(way, task, seed)
                if work.bank.file(label, task.name, seed).is_file():
                    scores = {name: value for name, value in work.bank.scores(label, task.name, seed).items() if name != "dev_loss"}
                    found.append(Combined(template=template, how=way[0], types=way[1], task=task.name, seed=seed,
                                          parameters=work.of(way[1]).layout.size, **scores))
                tell(1, f"{template} {label}")
    return found


def start(work: Combiner, way: Way) -> None:
    """θ0 of a combination, in the bank."""
    from dataclasses import replace

    attached = work.of(way[1])
    work.bank.add_start(replace(attached, config=replace(attached.config, label=work.label(way))))


def bare(work: Combiner) -> list[Combined]:
    """The backbone alone."""
    import numpy as np

    from deltas.evaluation import evaluate_each
    from subspace.transfer import bare as detached

    ground, found = work.ground, []
    alone = detached(work.of((ground.labels[0],)))
    for task in ground.tasks:
        def scores(task: Task = task) -> dict[str, float]:
            told: dict[str, float] = {}
            for split in ("dev", "train", "test"):
                one = evaluate_each(alone, np.zeros((1, 0), np.float32), [ground.exam(task, split, work.reading)], in_flight=1)[0]
                told |= {split: one.score} | ({f"{split}_loss": one.loss} if split != "dev" else {})
            return told

        kept = ground.experiment.kept(f"none.{work.template}.{task.name}", [work.reading, *ground.key(task, "test")], scores)
        found.append(Combined(template=work.template, how="together", types=(), task=task.name, seed=0, metric=task.metric, parameters=0,
                              **kept))
    return found
