"""The numbers of the transferability study, its tables and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..page import Main, Page, Section, number, plain
from ..report_findings import Finding
from .performance import SOURCE

if TYPE_CHECKING:
    from subspace.task_transfer import Sides

    from .ground import Ground

Controls = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Measured:
    """One type's transfer: gains inside categories and across (in points of score), and as a share of what the own deltas gain."""

    gain: Sides
    relative: Sides
    inside: tuple[float, list[float] | None]
    across: tuple[float, list[float] | None]
    own: tuple[float, list[float] | None]
    bare: tuple[float, list[float] | None]
    """zero-shot / the own delta's score."""

    def to_json(self) -> dict[str, Any]:
        """Every number."""
        return {"gain": self.gain.to_json(), "relative": self.relative.to_json(), "share_inside": list(self.inside),
                "share_across": list(self.across), "own_gain": list(self.own), "relative_zero_shot": list(self.bare)}


def measure(scores: np.ndarray, bare: np.ndarray, names: list[str], categories: dict[str, str]) -> Measured:
    """The numbers of one type."""
    from subspace.ranking import mean_of
    from subspace.scores import interval
    from subspace.task_transfer import gain, inside_and_across, relative, same_category, share

    own = same_category(names, categories)
    gained = gain(scores, bare)
    diagonal = {name: gained[:, t, t].tolist() for t, name in enumerate(names)}
    beside = {name: (bare[t] / scores[:, t, t]).tolist() for t, name in enumerate(names) if (scores[:, t, t] > 0).all()}
    beside_own = np.nan_to_num(relative(scores))
    return Measured(inside_and_across(gained, names, categories), inside_and_across(beside_own, names, categories),
                    share(scores, bare, own, names), share(scores, bare, ~own & ~np.eye(len(names), dtype=bool), names),
                    (mean_of(diagonal), interval(diagonal)), (mean_of(beside), interval(beside)))


def page_of(ground: Ground, scores: dict[str, np.ndarray], controls: Controls, measured: dict[str, Measured], names: list[str],
            categories: dict[str, str]) -> Page:
    """The tables and what they say."""
    why = (f"{len(names)} tasks, solutions of {ground.training.steps} steps on {ground.name}. " + (
        "An encoder ranks the target's own labels, so a source whose labels are other words can help only by what it makes of the text."
        if ground.backbone.kind == "encoder" else "A delta that has learnt its own task's answers writes them on other tasks too."))
    return Page(
        title="Transferability between tasks", headline=headline(measured), findings=findings(measured),
        asked="Does a solution of one task help on another one, without training, and is it the category that counts?",
        main=Main(heads=["type", "solutions", "gain over zero-shot", "relative score", "share of the own delta's gain"], words=2,
                  rows=[row for label, one in measured.items() for row in rows_of(label, one)],
                  caption="Means over target tasks and seeds with 95% intervals (tasks and seeds drawn). Gain: score − zero-shot, in points of "
                  "score; relative: score / own delta's score, which flatters where chance is high; share: a quotient of sums."),
        claims=[("zero-shot transfer is good inside a category", "; ".join(claim_of(label, one) for label, one in measured.items()), why)],
        sections=[*maps_of(scores), by_category(scores, controls, names, categories), controls_of(scores, controls, names, categories)],
        caveats=["Tasks of a category may share labels as well as content; both count as the category here.",
                 "The sources of one target are not independent of each other: intervals are over targets, and the test permutes categories.",
                 "Categories are few and of unequal size: those with most tasks weigh most, inside and in the test.", ground.grain()],
        source=SOURCE)


def rows_of(label: str, one: Measured) -> list[list[object]]:
    """The main table's rows of one type."""
    sides = (("inside a category", (one.gain.inside, one.gain.inside_interval), (one.relative.inside, one.relative.inside_interval), one.inside),
             ("across categories", (one.gain.across, one.gain.across_interval), (one.relative.across, one.relative.across_interval), one.across),
             ("inside − across", (one.gain.difference, one.gain.difference_interval),
              (one.relative.difference, one.relative.difference_interval), (None, None)),
             ("own task", one.own, (1.0, None), (1.0, None)),
             ("none (zero-shot)", (0.0, None), one.bare, (0.0, None)))
    return [[label, what, *(number(*cell) for cell in cells)] for what, *cells in sides]


def maps_of(scores: dict[str, np.ndarray]) -> list[Section]:
    """The heat map of each type."""
    caption = ("Gain over zero-shot in hundredths, mean over seeds. Row: the task a solution was trained on; column: the task it is run on, "
               "untrained. Framed: on its own.")
    return [Section(title=f"Task by task: {label}", figures={f"transfer-{label}": caption}) for label in scores]


def by_category(scores: dict[str, np.ndarray], controls: Controls, names: list[str], categories: dict[str, str]) -> Section:
    """Mean gain by category trained on and run on."""
    from subspace.task_transfer import gain

    kinds, of = sorted({categories[name] for name in names}), np.array([categories[name] for name in names])
    bare, apart = np.array([controls[name]["zero_shot"] for name in names]), ~np.eye(len(names), dtype=bool)
    rows: list[list[object]] = []
    for label, found in scores.items():
        mean = gain(found, bare).mean(axis=0)
        for kind in kinds:
            blocks = [np.ix_(of == kind, of == other) for other in kinds]
            cells = [mean[block][apart[block]] for block in blocks]
            rows.append([label, kind, *(float(cell.mean()) if cell.size else float("nan") for cell in cells)])
    caption = ("Mean gain over zero-shot of other tasks' solutions, by category trained on (rows) and run on (columns); a task's own solution "
               "is left out.")
    return Section(title="By category", tables=[plain(["type", "trained on", *kinds], rows, caption, words=2)])


def controls_of(scores: dict[str, np.ndarray], controls: Controls, names: list[str], categories: dict[str, str]) -> Section:
    """Chance, zero-shot and the own delta of every task."""
    rows = [[name, categories[name], float(controls[name]["chance"]), float(controls[name]["zero_shot"]),
             *(float(found[:, t, t].mean()) for found in scores.values())] for t, name in enumerate(names)]
    heads = ["task", "category", "chance", "zero-shot", *(f"own {label}" for label in scores)]
    return Section(title="Controls", tables=[plain(heads, rows, "Test scores.", words=2)])


def claim_of(label: str, one: Measured) -> str:
    """What was found of the claim, for one type."""
    return (f"{label}: gain inside {number(one.gain.inside, one.gain.inside_interval)}, across "
            f"{number(one.gain.across, one.gain.across_interval)}; inside, it is {number(*one.inside)} of the own delta's gain")


def headline(measured: dict[str, Measured]) -> Finding:
    """Of the first type."""
    label, one = next(iter(measured.items()))
    side, between = one.gain, one.gain.difference_interval
    start = (f"Untrained on the target, {label} solutions of the same category gain {number(side.inside, side.inside_interval)} over zero-shot, "
             f"those of other categories {number(side.across, side.across_interval)}")
    apart = number(side.difference, between)
    if side.p < 0.05 and side.difference > 0:
        if between and between[0] > 0:
            return Finding("for", f"{start}: the category counts ({apart} apart; p = {side.p:.3g}).")
        return Finding("open", f"{start}: permuted categories do not do as well (p = {side.p:.3g}), but the interval of the difference holds 0 "
                       f"({apart}).")
    return Finding("against", f"{start}: no evidence that the category counts ({apart} apart; p = {side.p:.3g}).")


def findings(measured: dict[str, Measured]) -> list[Finding]:
    """Each type's numbers in words."""
    found = []
    for label, one in measured.items():
        low, high = one.gain.null_interval
        found.append(Finding("note", f"{label}: inside − across is {number(one.gain.difference, one.gain.difference_interval)} over "
                             f"{one.gain.targets} targets; with permuted categories 95% lie between {number(low)} and {number(high)}, "
                             f"p = {one.gain.p:.3g}."))
        for what, value, between, part in (("of the same category", one.gain.inside, one.gain.inside_interval, one.inside),
                                           ("of another category", one.gain.across, one.gain.across_interval, one.across)):
            if between:
                found.append(_helps(f"{label}: a solution {what}", value, between, part))
    return found


def _helps(what: str, value: float, between: list[float], part: tuple[float, list[float] | None]) -> Finding:
    told = f"gain {number(value, between)}, {number(*part)} of what the own delta gains"
    if between[0] > 0:
        return Finding("for", f"{what} helps ({told}).")
    if between[1] < 0:
        return Finding("against", f"{what} HURTS: it is worse than none ({told}).")
    return Finding("open", f"{what} neither helps nor hurts beyond doubt ({told}).")
