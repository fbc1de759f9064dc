"""Independent solutions: every (task, type, seed) tuned alone on the frozen backbone, into a bank (stage 0)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from deltas.backbones.loading import Backbone
from deltas.bank import Bank, Solution
from deltas.errors import InputError
from deltas.evaluation import Exam, evaluate_each
from deltas.functional import Attached
from deltas.tasks import Reading, Task
from deltas.tuning import Job, Outcome, Training, forget, tune
from deltas.types import DeltaType
from deltas.verbalizer import answers

Progress = Callable[[str, int, int], None]
"""Told (what is being done, steps done so far, steps in all)."""


def attached_from(bank: Bank, backbone: Backbone, label: str) -> Attached:
    """The backbone with a delta type of the bank, at the bank's θ0."""
    start = bank.start(label)
    if start.backbone != backbone.fingerprint:
        raise InputError(f"expected the backbone {start.backbone} of the bank {bank.path}, got {backbone.name} with fingerprint "
                         f"{backbone.fingerprint}; use the backbone it was trained on")
    return Attached.of(backbone, start.config, theta0=start.theta0)


def begin(bank: Bank, backbone: Backbone, config: DeltaType, *, seed: int = 0, text: Sequence[str] = ()) -> Attached:
    """The type's θ0 from the bank, or drawn now and stored there: once per type, whatever is trained later."""
    if config.label in bank.labels():
        if bank.start(config.label).config != config:
            raise InputError(f"expected {config.label} with the settings in the bank {bank.path} ({bank.start(config.label).config}), got "
                             f"{config}; give it a label of its own or use another bank")
        return attached_from(bank, backbone, config.label)
    attached = Attached.of(backbone, config, seed=seed, text=text)
    bank.add_start(attached)
    return attached


def train(
    backbone: Backbone,
    tasks: Sequence[Task],
    types: Sequence[DeltaType],
    *,
    seeds: int | Sequence[int] = 1,
    out: str | Path,
    training: Training | None = None,
    reading: Reading | None = None,
    in_flight: int | None = None,
    test_rows: int | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Bank:
    """Train a solution for every task, type and seed, and return the bank.

    What the bank at `out` has already is kept, what was interrupted goes on; a solution whose loss is no longer finite is marked failed
    with its step, and the others go on.

    Args:
        seeds: how many, or which: they change the order of the data; θ0 is one for all.
        in_flight: how many solutions train at once (None: one a device on a CPU, sixteen on an accelerator).
        test_rows: of the test split to score each solution on (None: all, 0: do not).
        seed: of θ0.
    """
    training, reading, bank = training or Training(), reading or Reading(), Bank(out, create=True)
    names = [task.name for task in tasks]
    for what, given in (("task", names), ("label", [config.label for config in types])):
        twice = sorted({n for n in given if given.count(n) > 1})
        if twice:
            raise InputError(f"expected every {what} once, got {twice[0]!r} twice; remove or rename one")
    if not tasks or not types:
        raise InputError(f"expected at least one task and one delta type, got {len(tasks)} and {len(types)}; name some")
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    jobs = [Job(task, s) for task in tasks for s in seeds]
    text = [example.input for task in tasks for example in task.train[:2]]
    partial, done, total = bank.path / "partial", 0, training.steps * len(jobs) * len(types)
    starts = [begin(bank, backbone, config, seed=seed, text=text) for config in types]  # every refusal before any work
    for attached in starts:
        label = attached.label

        def tell(steps: int, label: str = label) -> None:
            nonlocal done
            done += steps
            if on_progress is not None:
                on_progress(label, done, total)

        def finished(members: Sequence[Job], label: str = label) -> bool:
            return all(bank.has(label, job.task.name, job.seed) for job in members)

        flights = tune(attached, jobs, np.zeros((len(jobs), attached.layout.size), np.float32), training, reading,
                       in_flight=in_flight, checkpoints=partial, skip=finished, on_progress=tell)
        for outcomes in flights:
            store(bank, attached, outcomes, reading, in_flight, test_rows)
            forget(partial, attached, [o.job for o in outcomes], training, reading)
    if partial.is_dir() and not any(partial.iterdir()):
        partial.rmdir()
    return bank


def store(bank: Bank, attached: Attached, outcomes: Sequence[Outcome], reading: Reading, in_flight: int | None,
          test_rows: int | None) -> None:
    """Score a flight's outcomes on their test rows and put them into the bank."""
    good, said = [o for o in outcomes if o.failed is None], answers(attached.backbone, reading)
    scores: list[dict[str, float]] = [{} for _ in good]
    if good and test_rows != 0:
        exams = [Exam.of(attached.backbone, o.job.task, "test", reading, test_rows) for o in good]
        tested = evaluate_each(attached, attached.theta0 + np.stack([o.vector for o in good]), exams, in_flight=in_flight)
        scores = [{"test": s.score, "test_loss": s.loss} for s in tested]
    for outcome in outcomes:
        if outcome.failed is not None:
            bank.add_failure(attached.label, outcome.job.task.name, outcome.job.seed, outcome.failed)
    for outcome, tested in zip(good, scores, strict=True):
        bank.add(Solution(
            task=outcome.job.task.name, seed=outcome.job.seed, config=attached.config, layout=attached.layout, vector=outcome.vector,
            theta0=attached.theta0, backbone=attached.backbone.fingerprint, theta0_fingerprint=attached.theta0_fingerprint,
            scores={"metric": outcome.job.task.metric, "dev": outcome.score, "dev_loss": outcome.loss, **tested},
            provenance={"step": outcome.step, "answers": said, "history": outcome.history, "task": outcome.job.task.fingerprint}))
