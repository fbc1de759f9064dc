"""`study transferability`: every task's solution on every other task's test rows, without training, inside categories and across."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .common import Preset, categories_of
from .performance import SOURCE

if TYPE_CHECKING:
    from deltas import Bank
    from subspace.task_transfer import Sides

    from ..page import Page
    from .common import Ground

COLUMNS = ("type", "source", "target", "seed", "source_category", "target_category", "control", "metric", "score", "gain", "relative")


@dataclass(frozen=True, kw_only=True)
class Transferability(Preset):
    """Task × task."""

    types: tuple[str, ...] = ("lora",)
    """Whose solutions are moved; a map each."""
    categories: dict[str, str] = field(default_factory=dict)
    """Task → category; the built-in tasks have one of their own."""

    def run(self) -> dict[str, Any]:
        """Train, score every pair of tasks; write the table, the maps and the page."""
        from deltas.training import attached_from
        from landscape.transfer_map import transfer_map
        from subspace.task_transfer import gain

        from ..experiment import Experiment

        made = Experiment(self.out, "transferability", self)
        ground = self.begin(made)
        categories = categories_of(self.categories, ground.tasks)
        check_categories(categories)
        bank = ground.train()
        names = [task.name for task in ground.tasks if all(bank.file(label, task.name, seed).is_file() for label in ground.labels
                                                           for seed in range(self.seeds))]
        controls = ground.controls(attached_from(bank, ground.backbone, ground.labels[0]))["test"]
        scores = {label: matrix_of(ground, bank, label, names) for label in ground.labels}
        bare = np.array([controls[name]["zero_shot"] for name in names])
        for label, found in scores.items():
            transfer_map(gain(found, bare).mean(axis=0), names, self.out / "figures" / f"transfer-{label}.png", categories=categories,
                         colour_label="score − zero-shot")
        measured = {label: measure(found, bare, names, categories) for label, found in scores.items()}
        summary = {"tasks": names, "categories": categories, "controls": controls, "failed": bank.failed(),
                   "backbone": ground.backbone.fingerprint, "scores": {label: found.tolist() for label, found in scores.items()},
                   "transfer": {label: one.to_json() for label, one in measured.items()}}
        return made.write(rows_of(ground, scores, controls, names, categories), COLUMNS, summary,
                          page_of(ground, scores, controls, measured, names, categories))


@dataclass(frozen=True)
class Measured:
    """One type's transfer: gains inside categories and across (in points of score), and as a share of what the own deltas gain."""

    gain: Sides
    relative: Sides
    inside: tuple[float, list[float] | None]
    across: tuple[float, list[float] | None]
    own: tuple[float, list[float] | None]

    def to_json(self) -> dict[str, Any]:
        """Every number."""
        return {"gain": self.gain.to_json(), "relative": self.relative.to_json(), "share_inside": list(self.inside),
                "share_across": list(self.across), "own_gain": list(self.own)}


def check_categories(categories: dict[str, str]) -> None:
    """Refuse categories that leave nothing to compare."""
    from deltas import InputError

    kinds = list(categories.values())
    if len(set(kinds)) < 2 or all(kinds.count(kind) < 2 for kind in kinds):
        raise InputError(f"expected at least two categories and two tasks in one of them, got {len(kinds)} tasks in {len(set(kinds))}; "
                         "change names or categories")


def matrix_of(ground: Ground, bank: Bank, label: str, names: list[str]) -> np.ndarray:
    """Scores [seeds, sources, targets], kept source by source."""
    from deltas.evaluation import evaluate_each
    from deltas.training import attached_from

    attached, settings = attached_from(bank, ground.backbone, label), ground.settings
    tasks = {task.name: task for task in ground.tasks}
    exams = {name: ground.exam(tasks[name]) for name in names}
    rows = []
    with ground.experiment.bars.stage(f"transfer {label}", len(names)) as bar:
        for source in names:
            def scored(source: str = source) -> list[list[float]]:
                thetas = np.stack([bank.load(label, source, seed).theta for seed in range(settings.seeds)])
                return [[one.score for one in evaluate_each(attached, thetas, [exam] * len(thetas), in_flight=settings.in_flight)]
                        for exam in exams.values()]

            key = [ground.made(ground.reading), attached.config.to_json(), attached.theta0_fingerprint, settings.seeds, names]
            rows.append(ground.experiment.kept(f"transfer.{label}.{source}", key, scored))
            bar(1, source)
    return np.array(rows).transpose(2, 0, 1)


def measure(scores: np.ndarray, bare: np.ndarray, names: list[str], categories: dict[str, str]) -> Measured:
    """The numbers of one type."""
    from subspace.scores import interval
    from subspace.task_transfer import gain, inside_and_across, relative, same_category, share

    own = same_category(names, categories)
    gained = gain(scores, bare)
    diagonal = {name: gained[:, t, t].tolist() for t, name in enumerate(names)}
    return Measured(inside_and_across(gained, names, categories), inside_and_across(np.nan_to_num(relative(scores)), names, categories),
                    share(scores, bare, own, names), share(scores, bare, ~own & ~np.eye(len(names), dtype=bool), names),
                    (float(np.mean([np.mean(v) for v in diagonal.values()])), interval(diagonal)))


def rows_of(ground: Ground, scores: dict[str, np.ndarray], controls: Any, names: list[str], categories: dict[str, str]) -> list[dict[str, Any]]:
    """A row a pair of tasks and seed, and the controls."""
    metrics = {task.name: task.metric for task in ground.tasks}
    rows = [{"target": name, "target_category": categories[name], "control": control, "metric": metrics[name], "score": controls[name][control]}
            for name in names for control in ("zero_shot", "chance")]
    for label, found in scores.items():
        for (seed, s, t), score in np.ndenumerate(found):
            own = float(found[seed, t, t])
            rows.append({"type": label, "source": names[s], "target": names[t], "seed": seed, "source_category": categories[names[s]],
                         "target_category": categories[names[t]], "metric": metrics[names[t]], "score": float(score),
                         "gain": round(float(score) - controls[names[t]]["zero_shot"], 6), "relative": float(score) / own if own else None})
    return rows


def page_of(ground: Ground, scores: dict[str, np.ndarray], controls: Any, measured: dict[str, Measured], names: list[str],
            categories: dict[str, str]) -> Page:
    """The tables and what they say."""
    from ..page import Main, Page, Section, number, plain

    rows: list[list[object]] = []
    for label, one in measured.items():
        for what, value, relative, part in (("inside a category", (one.gain.inside, one.gain.inside_interval), one.relative.inside, one.inside),
                                            ("across categories", (one.gain.across, one.gain.across_interval), one.relative.across, one.across),
                                            ("own task", one.own, 1.0, (1.0, None))):
            rows.append([label, what, number(*value), number(relative), number(*part)])
        rows.append([label, "inside − across", number(one.gain.difference, one.gain.difference_interval), number(one.relative.difference), ""])
    kinds = sorted(set(categories[name] for name in names))
    sections = [Section(title=f"Task by task: {label}", figures={f"transfer-{label}": "Gain over zero-shot in hundredths, mean over seeds. Row: the task "
                                                                 "a solution was trained on; column: the task it is run on, untrained. Framed: on its own."})
                for label in scores]
    sections.append(Section(title="By category", tables=[plain(["type", "trained on", *kinds], blocks(scores, controls, names, categories, kinds),
                                                               "Mean gain over zero-shot of other tasks' solutions, by category trained on (rows) and "
                                                               "run on (columns); a task's own solution is left out.", words=2)]))
    target = [[name, categories[name], float(controls[name]["chance"]), float(controls[name]["zero_shot"]),
               *(float(found[:, t, t].mean()) for found in scores.values())] for t, name in enumerate(names)]
    sections.append(Section(title="Controls", tables=[plain(["task", "category", "chance", "zero-shot", *(f"own {label}" for label in scores)], target,
                                                            "Test scores.", words=2)]))
    why = (f"{len(names)} tasks, solutions of {ground.training.steps} steps on {ground.backbone.name}. " + (
        "An encoder ranks the target's own labels, so a source whose labels are other words can help only by what it makes of the text."
        if ground.backbone.kind == "encoder" else "A delta that has learnt its own task's answers writes them on other tasks too."))
    return Page(
        title="Transferability between tasks", asked="Does a solution of one task help on another one, without training, and is it the category "
        "that counts?", headline=headline(measured), findings=findings(measured),
        main=Main(heads=["type", "solutions", "gain over zero-shot", "relative score", "share of the own delta's gain"], rows=rows, words=2,
                  caption="Means over target tasks and seeds with 95% intervals (tasks and seeds drawn). Gain: score − zero-shot, in points of score; "
                  "relative: score / own delta's score, which flatters where chance is high; share: a quotient of sums."),
        claims=[("zero-shot transfer is good inside a category", "; ".join(claim_of(label, one) for label, one in measured.items()), why)],
        sections=sections,
        caveats=["Tasks of a category may share labels as well as content; both count as the category here.",
                 "The sources of one target are not independent of each other: intervals are over targets, and the test permutes categories."],
        source=SOURCE)


def claim_of(label: str, one: Measured) -> str:
    """What was found of the claim, for one type."""
    from ..page import number

    return (f"{label}: gain inside {number(one.gain.inside, one.gain.inside_interval)}, across {number(one.gain.across, one.gain.across_interval)}; "
            f"inside, it is {number(*one.inside)} of the own delta's gain")


def headline(measured: dict[str, Measured]) -> Any:
    """Of the first type."""
    from ..page import number
    from ..report_findings import Finding

    label, one = next(iter(measured.items()))
    d, between = one.gain.difference, one.gain.difference_interval
    start = (f"Untrained on the target, {label} solutions of the same category gain {number(one.gain.inside, one.gain.inside_interval)} over zero-shot, "
             f"those of other categories {number(one.gain.across, one.gain.across_interval)}")
    low = between[0] if between else float("nan")
    if one.gain.p < 0.05 and d > 0 and low > 0:
        return Finding("for", f"{start}: the category counts ({number(d, between)} apart; p = {one.gain.p:.3g}).")
    if one.gain.p < 0.05 and d > 0:
        return Finding("open", f"{start}: permuted categories do not do as well (p = {one.gain.p:.3g}), but the interval of the difference holds 0 "
                       f"({number(d, between)}).")
    return Finding("against", f"{start}: no evidence that the category counts ({number(d, between)} apart; p = {one.gain.p:.3g}).")


def findings(measured: dict[str, Measured]) -> list[Any]:
    """Each type's numbers in words."""
    from ..page import number
    from ..report_findings import Finding

    found = []
    for label, one in measured.items():
        low, high = one.gain.null_interval
        found.append(Finding("note", f"{label}: inside − across is {number(one.gain.difference, one.gain.difference_interval)} over {one.gain.targets} "
                             f"targets; with permuted categories 95% lie within {number(low)} and {number(high)}, p = {one.gain.p:.3g}."))
        across = one.gain.across_interval
        if across:
            verdict = "note" if across[0] > 0 else "against" if across[1] < 0 else "open"
            told = {"note": "helps a little too", "against": "HURTS: such a delta is worse than none", "open": "neither helps nor hurts beyond doubt"}[verdict]
            found.append(Finding(verdict, f"{label}: a solution of another category {told} (gain {number(one.gain.across, across)})."))
        inside = one.gain.inside_interval
        if inside:
            verdict = "for" if inside[0] > 0 else "against" if inside[1] < 0 else "open"
            told = {"for": "helps", "against": "hurts", "open": "neither helps nor hurts beyond doubt"}[verdict]
            found.append(Finding(verdict, f"{label}: one of the same category {told} (gain {number(one.gain.inside, inside)}, {number(*one.inside)} of what "
                                 "the own delta gains)."))
    return found


def blocks(scores: dict[str, np.ndarray], controls: Any, names: list[str], categories: dict[str, str], kinds: list[str]) -> list[list[object]]:
    """Mean gain by category trained on and run on."""
    from subspace.task_transfer import gain

    bare, rows = np.array([controls[name]["zero_shot"] for name in names]), []
    of = np.array([categories[name] for name in names])
    apart = ~np.eye(len(names), dtype=bool)
    for label, found in scores.items():
        mean = gain(found, bare).mean(axis=0)
        for kind in kinds:
            cells = [mean[np.ix_(of == kind, of == other)][apart[np.ix_(of == kind, of == other)]] for other in kinds]
            rows.append([label, kind, *(float(cell.mean()) if cell.size else float("nan") for cell in cells)])
    return rows
