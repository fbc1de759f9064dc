"""What `deltaspace ensemble` computes: of every target and draw of its few rows scores of the sources, weights, starts, tuned solutions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self
from urllib.parse import quote

import jax.numpy as jnp
import numpy as np

import deltas
import subspace
from deltas import Attached, Backbone, Bank, Reading, Solution, Task, Training
from deltas.evaluation import Exam, evaluate_each
from deltas.tasks import chance
from deltas.training import attached_from
from deltas.tuning import Job, Outcome, tune
from deltas.verbalizer import can_answer
from subspace import ensembling
from subspace.rows import Rows
from subspace.sources import Sources

from .ensemble import Ensemble
from .experiment import Experiment
from .options import parse_type


@dataclass(frozen=True, eq=False, kw_only=True)
class Ensembling:
    """The settings with what they name: the backbone with its delta, the sources' solutions, the targets."""

    settings: Ensemble
    made: Experiment
    attached: Attached
    bank: Bank
    few: Bank
    """What was tuned on few rows from θ0: the reference of kl and weight_cosine."""
    sources: Sources
    tasks: Mapping[str, Task]
    targets: tuple[str, ...]
    reading: Reading
    jobs: dict[tuple[str, int], Job] = field(default_factory=dict)
    """Those that were drawn: one task object a draw, for what is remembered by it."""

    @classmethod
    def of(cls, settings: Ensemble, backbone: Backbone, sources: Sequence[Task], others: Sequence[Task], reading: Reading, label: str) -> Self:
        """Open the bank, or train it."""
        made, names = Experiment(settings.out, "ensemble", settings), [task.name for task in sources]
        can_answer(backbone, [*sources, *others], reading)
        if settings.bank is None:
            config = parse_type(settings.type)
            rows = len(sources) * settings.source_steps
            with made.bars.stage("sources", rows) as bar:
                bank = deltas.train(
                    backbone, sources, [config], out=settings.out / "bank", reading=reading, test_rows=settings.test_rows, seed=settings.draw,
                    training=replace(_training(settings), steps=settings.source_steps), on_progress=bar.listener())
        else:
            bank = Bank(settings.bank)
        attached = attached_from(bank, backbone, label)
        few = Bank(settings.out / "few", create=True)
        few.add_start(attached)
        pairs = {task: min(seed for name, seed in bank.pairs([label]) if name == task) for task in names}
        gathered = subspace.gather(bank, [label], list(pairs.items()))
        return cls(settings=settings, made=made, attached=attached, bank=bank, few=few, sources=gathered,
                   tasks={task.name: task for task in (*sources, *others)}, targets=settings.targets or tuple(names), reading=reading)

    @property
    def label(self) -> str:
        return self.attached.label

    @property
    def rows(self) -> Rows:
        """θ − θ0 of all sources."""
        return self.sources.rows[self.label]

    @cached_property
    def names(self) -> list[str]:
        """The sources' tasks."""
        return [task for task, _ in self.sources.pairs]

    @cached_property
    def categories(self) -> dict[str, str]:
        return {name: self.settings.categories.get(name) or task.category for name, task in self.tasks.items()
                if self.settings.categories.get(name) or task.category}

    def without(self, *left: str) -> tuple[list[str], Rows]:
        """The sources but for some, and their rows."""
        kept = [n for n, name in enumerate(self.names) if name not in left]
        return [self.names[n] for n in kept], self.rows.take(kept)

    def key(self, target: str, seed: int, *more: Any, left: Sequence[str] = ()) -> list[Any]:
        """All that a result of sources on few rows of a target depends on."""
        return [*self.about(target, seed), [[name, self.marks[name]] for name in self.without(target, *left)[0]], *more]

    def about(self, target: str, seed: int) -> list[Any]:
        """What a result on few rows of a target depends on beside sources."""
        few = self.job(target, seed).task.fingerprint
        return [asdict(self.reading), self.attached.backbone.fingerprint, self.attached.theta0_fingerprint, few, seed]

    @cached_property
    def marks(self) -> dict[str, str]:
        """Checksums of the sources' files."""
        return {task: self.bank.rows(self.label, [(task, seed)])[0].checksum or "" for task, seed in self.sources.pairs}

    def job(self, target: str, seed: int) -> Job:
        """Few-shot training on a draw of the target's rows."""
        if (target, seed) not in self.jobs:
            task = subspace.few_shot(self.tasks[target], self.settings.shots, seed, dev=True)
            self.jobs[target, seed] = Job(replace(task, dev=task.dev[: self.settings.dev_rows]), seed)
        return self.jobs[target, seed]

    def dev(self, target: str, seed: int) -> Exam:
        """The dev rows of a draw."""
        return Exam.of(self.attached.backbone, self.job(target, seed).task, "dev", self.reading)

    def kept(self, stage: str, target: str, seed: int, key: Any, make: Any) -> Any:
        """As `Experiment.kept`, named by stage, target and draw."""
        return self.made.kept(f"{quote(target, safe='')}.{seed}.{stage}", key, make)


def _training(settings: Ensemble) -> Training:
    return Training(steps=settings.steps, batch_size=settings.batch_size, learning_rate=settings.learning_rate,
                    evaluate_every=settings.evaluate_every, dev_rows=settings.shots)


def measure(setup: Ensembling) -> list[dict[str, Any]]:
    """One line a target, draw, method and space."""
    settings, rows = setup.settings, []
    todo = [(seed, target) for seed in range(settings.seeds) for target in setup.targets]
    with setup.made.bars.stage("targets", len(todo)) as bar:
        for seed, target in todo:
            rows += _of_target(setup, target, seed)
            bar(1, f"{target} {seed}")
    return rows


def _of_target(setup: Ensembling, target: str, seed: int) -> list[dict[str, Any]]:
    settings, rows = setup.settings, [_random(setup, target, seed)]
    for method in settings.methods:
        weights = weigh(setup, target, seed, method)
        for space in dict.fromkeys((settings.space, *(("product",) if method in settings.products else ()))):
            rows.append(_from_start(setup, target, seed, method, space, weights))
    about = {"target": target, "seed": seed, "chance": _chance(setup, target), "full": _full(setup, target)}
    return [row | about for row in rows]


def weigh(setup: Ensembling, target: str, seed: int, method: str) -> dict[str, Any]:
    """{"weights": {source: w}, "tau": τ or None} of a method."""
    names, _ = setup.without(target)
    equal = dict.fromkeys(names, 1 / len(names))
    if method == "uniform":
        return {"weights": equal, "tau": None}
    if method == "category":
        return {"weights": dict(zip(names, ensembling.of_category(target, names, setup.categories).tolist(), strict=True)), "tau": None}
    if method == "learned":
        return {"weights": _learned(setup, target, seed), "tau": None}
    scored = "loss" if method in ("nearest", "code") else method
    found = scores(setup, target, seed, scored)
    if method == "nearest":
        first = min(names, key=found.__getitem__)
        return {"weights": {name: float(name == first) for name in names}, "tau": None}
    tau = temperature(setup, target, scored)
    values = ensembling.softmax(np.array([found[name] for name in names]), tau, larger_is_nearer=scored in ensembling.LARGER_IS_NEARER)
    return {"weights": dict(zip(names, values.tolist(), strict=True)), "tau": tau}


# ------------------------------------------------------------ scores of the sources
def scores(setup: Ensembling, target: str, seed: int, method: str) -> dict[str, float]:
    """Source → its score on the few dev rows of the target."""
    if method in ("drift", "dev_gain"):
        return _probed(setup, target, seed)[method]
    if method == "weight_cosine":
        return _cosines(setup, target, seed)
    return judged(setup, target, seed)[method]


def judged(setup: Ensembling, target: str, seed: int) -> dict[str, dict[str, float]]:
    """loss, kl, el2n, cosine and grand by source; "block …" and "hidden …" of every block."""
    settings, (names, rows) = setup.settings, setup.without(target)

    def make() -> dict[str, dict[str, float]]:
        exam, reference = setup.dev(target, seed), _reference(setup, target, seed)
        found = ensembling.judge(setup.attached, rows, exam, reference=reference, gradients=settings.grand_batches,
                                 gradient_rows=settings.batch_size)
        table = dict(found.scores)
        if found.grand is not None and found.blocks is not None:
            table |= {"grand": found.grand, **{f"block {name}": value for name, value in found.blocks.items()}}
        hidden = ensembling.hidden_cosines(setup.attached, rows, reference, ensembling.batches_of(exam))
        table |= {f"hidden {name}": value for name, value in hidden.items()}
        return {name: dict(zip(names, map(float, values), strict=True)) for name, values in table.items()}

    return setup.kept("judged", target, seed, setup.key(target, seed, settings.grand_batches, asdict(_training(settings))), make)


def _reference(setup: Ensembling, target: str, seed: int) -> np.ndarray:
    """θ − θ0 tuned on the few rows from θ0, which `_random` stored."""
    _random(setup, target, seed)
    return np.array(setup.few.load(setup.label, target, seed).vector)


def _cosines(setup: Ensembling, target: str, seed: int) -> dict[str, float]:
    names, rows = setup.without(target)
    reference = _reference(setup, target, seed)
    lengths = np.array([np.linalg.norm(rows[n]) for n in range(len(rows))])
    values = ensembling.cosine(rows.products(reference[None])[:, 0], lengths, float(np.linalg.norm(reference)))
    return dict(zip(names, values.tolist(), strict=True))


def _probed(setup: Ensembling, target: str, seed: int) -> dict[str, dict[str, float]]:
    """How far some steps on the target move every source, and by how much the dev loss falls."""
    settings, (names, rows) = setup.settings, setup.without(target)
    short = replace(_training(settings), steps=settings.probe_steps, evaluate_every=settings.probe_steps)

    def make() -> dict[str, dict[str, float]]:
        before = ensembling.judge(setup.attached, rows, setup.dev(target, seed))
        losses = before.scores["loss"] / max(before.tokens, 1)
        starts, jobs = np.stack([rows[n] for n in range(len(rows))]), [setup.job(target, seed)] * len(names)
        ends = [one for flight in tune(setup.attached, jobs, starts, short, setup.reading) for one in flight]
        return {"drift": {name: float(np.linalg.norm(end.vector - start)) for name, end, start in zip(names, ends, starts, strict=True)},
                "dev_gain": {name: float(loss - end.loss) for name, end, loss in zip(names, ends, losses, strict=True)}}

    return setup.kept("probed", target, seed, setup.key(target, seed, asdict(short)), make)


def _learned(setup: Ensembling, target: str, seed: int) -> dict[str, float]:
    settings, (names, rows) = setup.settings, setup.without(target)
    training = replace(_training(settings), steps=settings.learned_steps, learning_rate=0.1, warmup=0, clip=0.0)

    def make() -> dict[str, float]:
        weights = ensembling.learn_weights(setup.attached, rows, setup.job(target, seed), training, setup.reading, settings.learned)
        return dict(zip(names, weights.tolist(), strict=True))

    return setup.kept("learned", target, seed, setup.key(target, seed, asdict(training), settings.learned), make)


# ------------------------------------------------------------ τ
def temperature(setup: Ensembling, target: str, method: str) -> float:
    """The temperature that was given, or the one that is best where other sources are the target in turn; the target takes no part."""
    settings = setup.settings
    if settings.tau is not None:
        return settings.tau
    names = setup.without(target)[0]
    turning = [name for name in names if name in setup.targets]
    names = turning if len(turning) >= settings.tau_sources else names
    order = np.random.default_rng([settings.draw, setup.names.index(target) if target in setup.names else len(setup.names)])
    turns = [names[n] for n in order.permutation(len(names))[: settings.tau_sources] if len(names) > 2]
    if not turns:
        return 1.0
    losses = [_losses_at(setup, turn, target, method) for turn in turns]
    return ensembling.best_tau({tau: [one[str(tau)] for one in losses] for tau in settings.taus})


def _losses_at(setup: Ensembling, turn: str, left: str, method: str) -> dict[str, float]:
    """τ → the dev loss of the start for the source `turn`, made of the sources without it and without `left`."""
    settings, (names, rows) = setup.settings, setup.without(turn, left)
    found = scores(setup, turn, 0, method)

    def make() -> dict[str, float]:
        values, larger = np.array([found[name] for name in names]), method in ensembling.LARGER_IS_NEARER
        starts = [_start(setup, rows, ensembling.softmax(values, tau, larger_is_nearer=larger), settings.space) for tau in settings.taus]
        judged = ensembling.judge(setup.attached, starts, setup.dev(turn, 0))
        return {str(tau): float(loss / max(judged.tokens, 1)) for tau, loss in zip(settings.taus, judged.scores["loss"], strict=True)}

    key = setup.key(turn, 0, sorted(found.items()), settings.taus, settings.space, left=(left,))
    return setup.kept(f"tau.{method}.{quote(left, safe='')}", turn, 0, key, make)


# ------------------------------------------------------------ starts and what is tuned from them
def _start(setup: Ensembling, rows: Rows, weights: np.ndarray, space: str) -> np.ndarray:
    if space == "product":
        attached = setup.attached
        return ensembling.product_start(rows, weights, config=attached.config, layout=attached.layout, theta0=attached.theta0)
    return ensembling.factor_start(rows, weights)


def _from_start(setup: Ensembling, target: str, seed: int, method: str, space: str, told: Mapping[str, Any]) -> dict[str, Any]:
    settings, (names, rows) = setup.settings, setup.without(target)
    weights = np.array([told["weights"][name] for name in names])

    def make() -> dict[str, float]:
        if method == "code":
            pairs = [pair for pair in setup.sources.pairs if pair[0] != target]
            shared = subspace.joint_svd(setup.sources.of(pairs), settings.k)
            vector = ensembling.code_start(shared, setup.label, weights)
        else:
            vector = _start(setup, rows, weights, space)
        return _tuned(setup, target, seed, vector)[0]

    where = "code" if method == "code" else space
    key = setup.key(target, seed, where, settings.k if method == "code" else 0, weights.tolist(), *_how(setup, target))
    found = setup.kept(f"{method}.{where}", target, seed, key, make)
    return {"method": method, "space": where, "weights": dict(told["weights"]), "tau": told["tau"], **found}


def _random(setup: Ensembling, target: str, seed: int) -> dict[str, Any]:
    """From θ0, which a LoRA draws at random; what is found is stored as the target's reference."""

    def make() -> dict[str, Any]:
        attached = setup.attached
        found, end = _tuned(setup, target, seed, np.zeros(attached.layout.size, np.float32))
        setup.few.add(Solution(
            task=target, seed=seed, config=attached.config, layout=attached.layout, vector=end.vector, theta0=attached.theta0,
            backbone=attached.backbone.fingerprint, theta0_fingerprint=attached.theta0_fingerprint,
            scores={"metric": setup.tasks[target].metric, "dev": end.score, "dev_loss": end.loss, "test": found["score"]},
            provenance={"step": end.step, "shots": setup.settings.shots, "task": end.job.task.fingerprint}))
        return found

    found = setup.kept("random", target, seed, [*setup.about(target, seed), *_how(setup, target)], make)
    return {"method": "random", "space": "", "weights": {}, "tau": None, **found}


def _how(setup: Ensembling, target: str) -> list[Any]:
    return [asdict(_training(setup.settings)), setup.tasks[target].fingerprint, setup.settings.test_rows]


def _tuned(setup: Ensembling, target: str, seed: int, vector: np.ndarray) -> tuple[dict[str, float], Outcome]:
    """Test scores of a start and of what is tuned from it, and the latter."""
    job, exam = setup.job(target, seed), _test(setup, target)
    ((end,),) = tune(setup.attached, [job], vector[None], _training(setup.settings), setup.reading, in_flight=1)
    first, last = evaluate_each(setup.attached, setup.attached.theta0 + np.stack([vector, end.vector]), [exam] * 2)
    return {"start": first.score, "start_loss": first.loss, "score": last.score, "loss": last.loss, "dev": end.score, "dev_loss": end.loss,
            "step": end.step}, end


def _test(setup: Ensembling, target: str) -> Exam:
    return Exam.of(setup.attached.backbone, setup.tasks[target], "test", setup.reading, setup.settings.test_rows)


def _chance(setup: Ensembling, target: str) -> float:
    """Of always giving the most frequent answer of all training rows, on the same test rows."""
    return chance(setup.tasks[target], "test", setup.settings.test_rows)


def _full(setup: Ensembling, target: str) -> float | None:
    """The bank's own solution of the target, trained on all its rows, on the same test rows; None for a target outside of the bank."""
    if target not in setup.names:
        return None

    def make() -> float:
        theta = jnp.asarray(setup.attached.theta0 + setup.rows[setup.names.index(target)])[None]
        return evaluate_each(setup.attached, theta, [_test(setup, target)])[0].score

    key = [setup.marks[target], setup.tasks[target].fingerprint, setup.settings.test_rows, asdict(setup.reading)]
    return setup.kept("full", target, 0, key, make)
