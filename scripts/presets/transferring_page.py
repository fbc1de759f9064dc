"""The tables of the transferability study and what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..page import Main, Page, Section, number, plain
from ..report_findings import Finding
from .performance import SOURCE
from .transferring import Controls, Measured, blocks_of

if TYPE_CHECKING:
    from .ground import Ground

def page_of(ground: Ground, scores: dict[str, np.ndarray], controls: Controls, measured: dict[str, Measured], names: list[str],
            categories: dict[str, str]) -> Page:
    """The tables and what they say."""
    why = (f"{len(names)} tasks, solutions of {ground.training.steps} steps on {ground.name}. " + (
        "An encoder ranks the target's own labels, so a source whose labels are other words can help only by what it makes of the text."
        if ground.backbone.kind == "encoder" else "A delta that has learnt its own task's answers writes them on other tasks too."))
    blocks = {label: blocks_of(found, controls, names, categories) for label, found in scores.items()}
    return Page(
        title="Transferability between tasks", headline=headline(measured),
        findings=findings(measured, blocks),
        asked="Does a solution of one task help on another one, without training, and is it the category that counts?",
        main=Main(heads=["type", "solutions", "score − zero-shot", "score − chance", "score / own", "share of the own gain"], words=2,
                  rows=[row for label, one in measured.items() for row in rows_of(label, one)],
                  caption=f"Means over {ground.drawn}, of the tasks run on. Score / own, beside the target's own delta, flatters where chance "
                  "is high; the share of what the own deltas gain over zero-shot is a quotient of sums."),
        claims=[("zero-shot transfer is good inside a category", "; ".join(claim_of(label, one) for label, one in measured.items()), why)],
        sections=[*maps_of(scores), by_category(blocks), controls_of(scores, controls, names, categories)],
        caveats=["Tasks of a category may share labels as well as content; both count as the category here.",
                 "The sources of one target are not independent of each other: intervals are over targets, and the test permutes categories.",
                 "Categories are few and of unequal size: those with most tasks weigh most, inside and in the test.", ground.grain()],
        source=SOURCE)


def rows_of(label: str, one: Measured) -> list[list[object]]:
    """The main table's rows of one type."""
    gain, above, relative = one.gain, one.above, one.relative
    none = (None, None)
    sides = (("inside a category", *((side.inside, side.inside_interval) for side in (gain, above, relative)), one.share_inside),
             ("across categories", *((side.across, side.across_interval) for side in (gain, above, relative)), one.share_across),
             ("inside − across", *((side.difference, side.difference_interval) for side in (gain, above, relative)), none),
             ("own task", one.own_gain, one.own_above, (1.0, None), (1.0, None)),
             ("none (zero-shot)", (0.0, None), one.zero_shot_above, one.zero_shot_relative, (0.0, None)))
    return [[label, what, *(number(*cell) for cell in cells)] for what, *cells in sides]


def maps_of(scores: dict[str, np.ndarray]) -> list[Section]:
    """The heat map of each type."""
    caption = ("Gain over zero-shot in hundredths, mean over seeds. Row: the task a solution was trained on; column: the task it is run on, "
               "untrained. Framed: on its own.")
    return [Section(title=f"Task by task: {label}", figures={f"transfer-{label}": caption}) for label in scores]


def by_category(blocks: dict[str, dict[str, dict[str, float]]]) -> Section:
    """The table of `blocks_of`, for every type."""
    kinds = list(next(iter(blocks.values())))
    rows = [[label, kind, *own[kind].values()] for label, own in blocks.items() for kind in kinds]
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
            f"{number(one.gain.across, one.gain.across_interval)}; inside, it is {number(*one.share_inside)} of the own delta's gain")


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


def findings(measured: dict[str, Measured], blocks: dict[str, dict[str, dict[str, float]]]) -> list[Finding]:
    """Each type's numbers in words, and those of `blocks_of` on the diagonal."""
    found = []
    for label, one in measured.items():
        low, high = one.gain.null_interval
        found.append(Finding("note", f"{label}: inside − across is {number(one.gain.difference, one.gain.difference_interval)} over "
                             f"{one.gain.targets} targets; with permuted categories 95% lie between {number(low)} and {number(high)}, "
                             f"p = {one.gain.p:.3g}."))
        inside = {kind: own[kind] for kind, own in blocks[label].items() if np.isfinite(own[kind])}
        told = ", ".join(f"{kind} {number(value)}" for kind, value in sorted(inside.items(), key=lambda item: -item[1]))
        found.append(Finding("note", f"{label}: gain over zero-shot inside each category: {told}."))
        if (above := one.above.inside_interval) is not None:
            word = "above" if above[0] > 0 else "below" if above[1] < 0 else "not told apart from"
            found.append(Finding("note", f"{label}: inside a category, transferred solutions are {word} chance "
                                 f"({number(one.above.inside, above)}); the backbone alone is {number(*one.zero_shot_above)} from it, own "
                                 f"solutions {number(*one.own_above)}."))
        for what, value, between, part in (("of the same category", one.gain.inside, one.gain.inside_interval, one.share_inside),
                                           ("of another category", one.gain.across, one.gain.across_interval, one.share_across)):
            if between:
                found.append(_helps(f"{label}: a solution {what}", value, between, part))
    return found


def _helps(what: str, value: float, between: list[float], part: tuple[float, list[float] | None]) -> Finding:
    told = f"gain {number(value, between)}, {number(*part)} of what the own delta gains"
    if between[0] > 0:
        return Finding("for", f"{what} helps ({told}).")
    if between[1] < 0:
        return Finding("against", f"{what} is worse than none ({told}).")
    return Finding("open", f"{what} neither helps nor hurts beyond doubt ({told}).")
