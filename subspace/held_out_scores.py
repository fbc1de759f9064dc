"""Scores of held-out tasks: what a k is worth to the backbone, within a type and from type to type.

All solutions of a task are held out together and mean and bases are fitted on the rest, as in `subspace.validation`. For a held-out task with
a solution x_s of type s

    z = (x_s − μ_s) U_s⁺        score(s → t) = the task's metric at θ0_t + μ_t + z U_t

with k = 0 the mean of the other tasks, whatever x_s was. Scores are on dev rows, since a k is chosen by them, and are normalised as
`subspace.scores` does: 0 is chance and 1 the task's own solution of type t. What is decoded is a combination of the training rows, so no
basis is formed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deltas.backbones import Backbone
from deltas.bank import Bank
from deltas.errors import InputError
from deltas.evaluation import Exam, evaluate_each
from deltas.files import read_json, sha256, write_json
from deltas.functional import Attached
from deltas.tasks import Reading, Task, chance
from subspace import scores
from subspace.gram import combine, gram
from subspace.remembered import common, remembered
from subspace.rows import MEMORY
from subspace.scores import Row
from subspace.sources import Sources
from subspace.validation import DualFit, Fitted, encoded, fit, joint_dual, trained, training_rows

Point = tuple[str, int]
"""The type that a held-out solution was encoded through, and k."""
Fits = tuple[dict[str, Fitted], dict[str, np.ndarray]]
"""By type the fit, and the codes [k, held] of the held-out solutions that are encoded through it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HeldOutScores:
    """The scores of held-out tasks by k, source type and target type.

    Args:
        ks: 0, the mean alone, first.
        lines: a score each, as a line of results.csv: source, target, k, task, seed, metric, score; `control` is "full" (the task's own
            solution), "chance", "zero_shot" (θ0), "shuffled" (types paired wrongly in the training part) or empty.
    """

    ks: tuple[int, ...]
    labels: tuple[str, ...]
    lines: tuple[Row, ...]
    seed: int = 0

    @cached_property
    def apart(self) -> list[str]:
        """The tasks of which a type's own solutions are hardly above chance; in no mean."""
        dev: dict[str, dict[str, float]] = {}
        for task in {line["task"] for line in self.lines}:
            own = [line for line in self.lines if line["task"] == task]
            dev[task] = {label: float(np.mean([line["score"] for line in own if (line["control"], line["target"]) == ("full", label)]))
                         for label in self.labels} | {"chance": next(line["score"] for line in own if line["control"] == "chance")}
        return scores.apart(dev)

    @cached_property
    def scaled(self) -> list[dict[str, Any]]:
        """The lines with `relative` and `normalised`; None for the tasks apart."""
        return scores.scaled(self.lines, undefined=self.apart)

    def of(self, k: int, *, across: bool, control: str = "") -> list[dict[str, Any]]:
        """The scaled lines of one k: from type to type, or within the types; the mean alone is both."""
        return [line for line in self.scaled if line["control"] == control and line["k"] == k
                and (k == 0 or (line["source"] != line["target"]) == across)]

    def mean(self, k: int, *, across: bool, control: str = "") -> dict[str, Any]:
        """{relative, normalised, and their intervals} over tasks: `scores.entry`."""
        return scores.entry(self.of(k, across=across, control=control), self.seed)

    def alone(self, control: str) -> dict[str, Any]:
        """The same of what no subspace has a part in: zero_shot or chance."""
        return scores.entry((line for line in self.scaled if line["control"] == control), self.seed)

    def rows(self, control: str = "") -> list[dict[str, Any]]:
        """As a table: source, target, k, and the normalised score as share, low, high."""
        found = []
        for source in self.labels:
            for target in self.labels:
                for k in self.ks:
                    own = [line for line in self.of(k, across=source != target, control=control)
                           if line["target"] == target and (k == 0 or line["source"] == source)]
                    value, interval = scores.mean(own, "normalised", self.seed)
                    if value is not None:
                        low, high = interval or (value, value)
                        found.append({"source": source, "target": target, "k": k, "share": value, "low": low, "high": high})
        return found

    @property
    def across(self) -> bool:
        """Whether there is a second type to go to."""
        return len(self.labels) > 1

    @cached_property
    def recommended(self) -> int | None:
        """The smallest k, from type to type or else within the type, that cannot be told from the best one; None where no task counts.

        The 95 % interval, over tasks, of the difference of normalised scores to those of the best k reaches 0; k is 0 where none is better than
        the mean.
        """
        means = {k: self.mean(k, across=self.across)["normalised"] for k in self.ks}
        known = [k for k in self.ks if means[k] is not None]
        if not known:
            return None
        best = self.of(max(known, key=lambda k: means[k]), across=self.across)
        behind = {k: scores.difference(best, self.of(k, across=self.across), self.seed)[1] for k in known}
        return next(k for k, interval in behind.items() if interval is None or interval[0] <= 0)


def cross_validated_scores(
    bank: Bank | Sources, ks: Sequence[int], *, backbone: Backbone, tasks: Sequence[Task], method: DualFit = joint_dual, nested: bool = True,
    folds: int | Literal["leave_one_task_out"] = "leave_one_task_out", split: str = "dev", rows: int | None = None,
    reading: Reading | None = None, in_flight: int | None = None, seed: int = 0, kept: str | Path | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> HeldOutScores:  # fmt: skip
    """The scores of held-out tasks within a type and from type to type, for each k.

    Args:
        bank: or sources, of factors; those that some type lacks are left out.
        ks: dimensions of the shared space; the mean alone (0) is scored beside them.
        backbone: of the solutions.
        tasks: those that are scored, of the sources'; the others are trained on all the same.
        method, nested, folds, seed: as of `subspace.cross_validated`.
        split, rows: what is answered: the first `rows` rows (None: all).
        kept: a folder where every part's scores are kept; the same job goes on from there.
        on_progress: called with "scores", how many solutions are done, and of how many.

    Raises:
        InputError: solutions in product space or of another backbone, no task of theirs, and what `cross_validated` refuses.

    Example:
        found = subspace.cross_validated_scores(bank, (2, 4, 8), backbone=backbone, tasks=tasks)
    """
    reading = reading or Reading()
    sources, exams = answerable(bank, backbone, tasks, reading, split=split, rows=rows)
    ks, parts = trained(sources, ks, folds, seed)
    job = _Job(sources, backbone, exams, ks, method, nested, seed, in_flight)
    chances = {task.name: (chance(task, split, rows), task.metric) for task in tasks if task.name in exams}
    about = [sources.stamp, sources.pairs, ks, f"{method.__module__}.{method.__qualname__}", folds, split, rows, reading, seed,
             sorted((task.name, task.fingerprint) for task in tasks if task.name in exams)]
    lines: list[Row] = []
    done, total = 0, sum(name in exams for name, _ in sources.pairs)
    for held in parts:
        chosen = [int(i) for i in held if sources.pairs[i][0] in exams]
        file = Path(kept) / f"scores.{sha256(repr((about, chosen)))[:16]}.json" if kept is not None and chosen else None
        if file is not None and file.is_file():
            found = read_json(file)
        else:
            found = job.part(held, chosen) if chosen else []
            if file is not None:
                write_json(file, found)
        done += len(chosen)
        if on_progress is not None:
            on_progress("scores", done, total)
        lines += [{"stage": "held_out", "method": "", "metric": chances[line["task"]][1], **line} for line in found]
    lines += [{"stage": "held_out", "method": "", "k": "", "source": "", "target": "", "task": task, "seed": "", "control": "chance",
               "metric": metric, "score": value} for task, (value, metric) in chances.items()]
    return HeldOutScores(ks=(0, *ks), labels=tuple(sorted(sources.labels)), lines=tuple(lines), seed=seed)


def answerable(bank: Bank | Sources, backbone: Backbone, tasks: Sequence[Task], reading: Reading, *, split: str = "dev",
               rows: int | None = None) -> tuple[Sources, dict[str, Exam]]:
    """The sources that every type has, and what each of their tasks asks; what `cross_validated_scores` refuses of them, before any work."""
    sources = common(remembered(bank), 3)
    if sources.space != "factors":
        raise InputError(f"expected solutions in factors to score what they give, got those of {sources.name} in {sources.space} space; gather "
                         "them in factors")
    if sources.backbone != backbone.fingerprint:
        raise InputError(f"expected solutions of the backbone {backbone.fingerprint}, got {sources.name} of {sources.backbone or '(unknown)'}; "
                         "load that one")
    known = {name for name, _ in sources.pairs}
    exams = {task.name: Exam.of(backbone, task, split, reading, rows) for task in tasks if task.name in known}
    if not exams:
        raise InputError(f"expected tasks of the solutions ({', '.join(sorted(known)[:5])}), got "
                         f"{', '.join(task.name for task in tasks) or 'none'}; name some of them")
    return sources, exams


class _Job:
    """What every training part asks of the backbone."""

    def __init__(self, sources: Sources, backbone: Backbone, exams: dict[str, Exam], ks: Sequence[int], method: DualFit, nested: bool, seed: int,
                 in_flight: int | None) -> None:
        self.sources, self.exams, self.ks, self.method, self.nested = sources, exams, ks, method, nested
        self.seed, self.in_flight = seed, in_flight
        self.names = sorted(sources.labels)
        self.grams = {label: gram(sources.rows[label]) for label in self.names}
        self.attached = {label: Attached.of(backbone, sources.blocks[label].config, theta0=sources.blocks[label].theta0) for label in self.names}

    def part(self, held: np.ndarray, chosen: Sequence[int]) -> list[dict[str, Any]]:
        """The scores of the chosen ones among the held-out sources."""
        ways = []
        for control in ("", "shuffled")[: len(self.names)]:
            orders = training_rows(self.sources, held, self.names, self.seed if control else None)
            ways.append((control, orders, self._fits(held, orders)))
        lines: list[dict[str, Any]] = []
        for target in self.names:
            asked: list[tuple[dict[str, Any], np.ndarray]] = []
            for i in chosen:
                task, seed = self.sources.pairs[i]
                place = int(np.flatnonzero(held == i)[0])
                about = {"task": task, "seed": seed, "source": target, "target": target, "k": "", "control": "full"}
                asked.append((about, np.eye(len(self.sources.pairs))[i]))
                if target == self.names[0]:
                    asked.append(({**about, "source": "", "target": "", "control": "zero_shot"}, np.zeros(len(self.sources.pairs))))
                for control, orders, fits in ways:
                    points: list[Point] = [] if control else [(target, 0)]
                    points += [(source, k) for source in self.names for k in self.ks if not control or source != target]
                    asked += [({**about, "source": source, "k": k, "control": control},
                               self._combination(fits[k or self.ks[-1]], orders[target], source, target, k, place))
                              for source, k in points]
            lines += [{**about, "score": value} for (about, _), value in zip(asked, self._scores(target, asked), strict=True)]
        return lines

    def _fits(self, held: np.ndarray, orders: dict[str, np.ndarray]) -> dict[int, Fits]:
        """For each k the types' fits, and by source type the codes [k, held] of the held-out solutions."""
        found: dict[int, Fits] = {}
        for ks in (self.ks,) if self.nested else [(k,) for k in self.ks]:
            fitted = fit(self.grams, orders, held, ks[-1], self.method)
            codes = {source: encoded(own.metric, own.projected, ks) for source, own in fitted.items()}
            found |= {k: (fitted, {source: each[i] for source, each in codes.items()}) for i, k in enumerate(ks)}
        return found

    def _combination(self, fits: Fits, order: np.ndarray, source: str, target: str, k: int, place: int) -> np.ndarray:
        """μ_t + z U_t of a held-out solution, as coefficients over all rows."""
        fitted, codes = fits
        own = fitted[target].coefficients[0]
        if k:
            own = own + codes[source][:, place] @ fitted[target].coefficients[1 : k + 1]
        found = np.zeros(len(self.sources.pairs))
        found[order] = own
        return found

    def _scores(self, label: str, asked: Sequence[tuple[dict[str, Any], np.ndarray]]) -> list[float]:
        """The score of every combination on its line's task."""
        block, attached, found = self.sources.blocks[label], self.attached[label], []
        at_once = max(1, MEMORY // (4 * block.rows.size))
        for first in range(0, len(asked), at_once):
            part = asked[first : first + at_once]
            thetas = block.theta0 + combine(np.stack([coefficients for _, coefficients in part]), block.rows)
            exams = [self.exams[about["task"]] for about, _ in part]
            found += [score.score for score in evaluate_each(attached, thetas, exams, in_flight=self.in_flight)]
        return found
