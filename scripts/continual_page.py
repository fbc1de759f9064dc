"""What `deltaspace continual` found: numbers with their intervals, figures, and the page, whose every sentence is made of the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import landscape
from landscape.style import Estimate
from subspace.scores import interval

from .continual_runs import (
    CHANCE,
    CODES,
    CODES_ONLINE,
    COPY,
    HEAD,
    JOINT,
    LAE,
    LOCAL,
    MEAN,
    NO_CALIBRATION,
    NO_FREEZING,
    NO_LOCAL,
    OFFLINE,
    ONLINE,
    ORDER,
    RANDOM,
    RATES,
    SEQUENTIAL,
)
from .page import Main, Page, Section, number, plain
from .report_data import Number
from .report_findings import Finding

if TYPE_CHECKING:
    from .continual_stages import Conduct
    from .experiment import Experiment

Rows = Sequence[Mapping[str, Any]]
"""type, method, seed, last[, average, forgetting, by_step, matrix]: one a way through a sequence."""
COLUMNS = ("type", "method", "seed", "last", "average", "forgetting")
SCORES = ("last", "average", "forgetting")
ABLATED = {
    "the local loss": NO_LOCAL, "freezing": NO_FREEZING, "calibration": NO_CALIBRATION, "accumulation": COPY,
    "the ensemble (online alone)": ONLINE, "the ensemble (offline alone)": OFFLINE}
SHOWN = (LAE, ONLINE, SEQUENTIAL, LOCAL, CODES, HEAD)
"""Methods in the figures."""


def by_seed(rows: Rows, score: str, method: str, types: Sequence[str]) -> dict[str, list[float]]:
    """Seed → the mean over the types, of the seeds that have all of them: a sequence is one piece of evidence, however many types learned it."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["method"] == method and row["type"] in types and row.get(score) is not None:
            found.setdefault(str(row["seed"]), {})[row["type"]] = row[score]
    return {seed: [float(np.mean(list(of.values())))] for seed, of in found.items() if len(of) == len(types)}


def types_of(rows: Rows, *methods: str) -> list[str]:
    """The types that have all of the methods, in their order."""
    all_types = dict.fromkeys(row["type"] for row in rows)
    return [name for name in all_types if all(any(r["type"] == name and r["method"] == m for r in rows) for m in methods)]


def mean(rows: Rows, score: str, method: str, types: Sequence[str]) -> Number:
    """The mean over seeds and types, and its interval over seeds."""
    values = by_seed(rows, score, method, types) if types else {}
    return number(float(np.mean(list(values.values()))), interval(values)) if values else Number()


def ahead(rows: Rows, method: str, other: str, score: str = "last") -> Number:
    """By how much a method is above another, sequence by sequence, over the types that have both."""
    types = types_of(rows, method, other)
    ours, theirs = (by_seed(rows, score, m, types) for m in (method, other))
    values = {seed: [ours[seed][0] - theirs[seed][0]] for seed in ours if seed in theirs} if types else {}
    return number(float(np.mean(list(values.values()))), interval(values)) if values else Number()


def methods_of(rows: Rows) -> list[str]:
    """The methods that were measured, in the order of the tables."""
    there = {row["method"] for row in rows}
    return [method for method in ORDER if method in there]


# ------------------------------------------------------------------ in words
def points(n: Number) -> str:
    """A difference of accuracies in points, with its interval."""
    text = f"{100 * n.value:+.1f}" + (f" [{100 * n.low:+.1f}, {100 * n.high:+.1f}]" if n.interval else "")
    return text.replace("-", "−") + " points"


def compared(n: Number) -> str:
    """above, below, or not to be told apart."""
    if not n.interval or n.low <= 0 <= n.high:
        return "cannot be told apart from"
    return "is above" if n.value > 0 else "is below"


def verdict(n: Number) -> Any:
    """Of a difference that the paper claims is above 0."""
    return {"is above": "for", "is below": "against"}.get(compared(n), "open")


def headline(rows: Rows, classes: int, steps: int) -> Finding:
    """LAE against sequential tuning, between the frozen backbone and joint training."""
    types = types_of(rows, LAE)
    if not types:
        return Finding("open", f"{classes} classes in {steps} steps were learned without LAE, so nothing is compared with it.")
    text = f"After {classes} classes in {steps} steps LAE is right on {mean(rows, 'last', LAE, types)} of all rows"
    for method, what in ((SEQUENTIAL, "sequential tuning"), (HEAD, "a head on the frozen backbone"), (JOINT, "joint training")):
        if len(types_of(rows, method)) == len(types):
            text += f", {what} on {mean(rows, 'last', method, types)}"
    return Finding(verdict(ahead(rows, LAE, SEQUENTIAL)), f"{text}; chance is {mean(rows, 'last', CHANCE, types)}.")


def findings(rows: Rows) -> list[Finding]:
    """What each comparison says."""
    found = []

    def told(method: str, other: str, text: str, claimed: bool = True) -> None:
        difference = ahead(rows, method, other)
        if difference.known:
            told_apart = f"{method} {compared(difference)} {other}: {points(difference)} of last accuracy"
            found.append(Finding(verdict(difference) if claimed else "note", f"{told_apart}{text}."))

    told(LAE, SEQUENTIAL, f"; forgetting is {value(rows, 'forgetting', LAE)} and {value(rows, 'forgetting', SEQUENTIAL)}")
    told(LAE, LOCAL, ", the baseline that the paper starts from")
    told(LAE, HEAD, ": what training the delta is worth beside training the head alone" + by_type(rows, LAE, HEAD))
    told(LAE, JOINT, ": what learning step by step costs", claimed=False)
    for step, method in ABLATED.items():
        told(LAE, method, f": what {step} is worth")
    told(CODES, LAE, ": the delta held to the codes of the shared subspace", claimed=False)
    told(CODES, RANDOM, ": what the directions of other tasks' solutions are worth")
    told(CODES, MEAN, ": what moving the code is worth beside the head alone" + by_type(rows, CODES, MEAN))
    return found


def by_type(rows: Rows, method: str, other: str) -> str:
    """The difference of each type, in brackets, where there are several: their mean may be that of one alone."""
    types = types_of(rows, method, other)
    parts = (f"{name} {points(ahead([row for row in rows if row['type'] == name], method, other))}" for name in types)
    return f" ({'; '.join(parts)})" if len(types) > 1 else ""


def value(rows: Rows, score: str, method: str) -> Number:
    """The mean over the types that have the method."""
    return mean(rows, score, method, types_of(rows, method))


def claims(rows: Rows, settings: Any, kind: str) -> list[tuple[str, str, str]]:
    """The paper's claims beside what was found."""
    size = f"a text {kind}, {settings.train_rows} rows a class and {settings.steps} updates a step here"
    there = []
    if types_of(rows, LAE, SEQUENTIAL):
        there.append((
            "LAE is 1.3 points (CIFAR-100) and 3.6 points (ImageNet-R) of last accuracy above the best method before it; last and average "
            "accuracy about 85.6 and 90.0, and 72.7 and 78.9",
            f"{points(ahead(rows, LAE, SEQUENTIAL))} above sequential tuning"
            + (f", {points(ahead(rows, LAE, HEAD))} against the head on a frozen backbone" if types_of(rows, HEAD) else "")
            + f"; last {value(rows, 'last', LAE)}, average {value(rows, 'average', LAE)}",
            f"Other ground: ViT-B/16 of ImageNet-21k and whole image data sets there, {size}. The methods before it are prompt methods for ViT, "
            f"which were not run.{_by_the_head(rows)}"))
    known = {step: d for step, method in ABLATED.items() if (d := ahead(rows, LAE, method)).known}
    if known:
        worth = "; ".join(f"{step} {points(d)}" for step, d in known.items())
        helped = [step for step, d in known.items() if compared(d) == "is above"]
        there.append(("learning, accumulation and ensemble each raise the accuracy",
                      f"LAE less the ablation: {worth}",
                      f"Clear of 0 and positive: {', '.join(helped) or 'none'}. With a decay of {settings.decay:g} and {settings.steps} updates "
                      f"{settings.decay**settings.steps:.0%} of the offline delta's distance is left after a step; the paper's is 0.9999, over "
                      "thousands of updates."))
    per_type = types_of(rows, LAE)
    if len(per_type) > 1:
        lasts = {name: mean(rows, "last", LAE, [name]) for name in per_type}
        there.append(("with calibration, adapter, LoRA and prefix do about equally well",
                      ", ".join(f"{name} {n}" for name, n in lasts.items()),
                      f"The means lie within {100 * (max(n.value for n in lasts.values()) - min(n.value for n in lasts.values())):.1f} points; "
                      f"learning rates: {', '.join(f'{name} {({**RATES, **settings.rates})[name]:g}' for name in per_type)}."))
    return there


def _by_the_head(rows: Rows) -> str:
    """How much of LAE's lead the head alone has, where LAE leads and both were measured."""
    lead, of_head = ahead(rows, LAE, SEQUENTIAL), ahead(rows, HEAD, SEQUENTIAL)
    if not (lead.known and of_head.known and lead.value > 0):
        return ""
    return (f" Of its lead over sequential tuning {of_head.value / lead.value:.0%} is had by a head alone, trained with the local loss on the "
            "frozen backbone.")


# ------------------------------------------------------------------ tables and figures
def main_table(rows: Rows, types: Sequence[str]) -> Main:
    """A line a method, over all types that have it."""
    lines = []
    for method in methods_of(rows):
        own = types_of(rows, method)
        less = Number() if method == LAE or not types_of(rows, LAE) else ahead(rows, LAE, method)
        lines.append([method, *(mean(rows, score, method, own) for score in SCORES), less,
                      *(mean(rows, "last", method, [name] if name in own else []) for name in types)])
    return Main(heads=["method", *SCORES, "LAE less it, last", *(f"last, {name}" for name in types)], rows=lines, caption=(
        "Accuracy over all classes at the end (last), its mean over the steps (average), and what was lost of each step's classes (forgetting), "
        "means over the types; brackets: 95% intervals over sequences. An adapter has nothing to calibrate."))


def whole_table(rows: Rows, types: Sequence[str]) -> str:
    """A line a type and method."""
    lines = [[name, method, *(mean(rows, score, method, [name]) for score in SCORES)]
             for name in types for method in methods_of(rows) if name in types_of(rows, method)]
    return plain(["type", "method", *SCORES], lines, "Each type by itself; intervals over sequences.", words=2)


def draw(rows: Rows, types: Sequence[str], folder: Any) -> None:
    """The accuracy matrices and the curves."""
    shown = [method for method in SHOWN if method in methods_of(rows)]
    tables: dict[tuple[str, str], list[np.ndarray]] = {}
    for name in types:
        for method in shown:
            of = [row for row in rows if row["type"] == name and row["method"] == method and "matrix" in row]
            if of:
                tables[name, method] = [np.array(row["matrix"], float) for row in of]
    if tables:
        landscape.draw_accuracy_matrices({pair: np.mean(of, axis=0) for pair, of in tables.items()}, folder / "accuracy-matrices.png")
    panels, references = {}, {}
    for name in types:
        panels[name] = {method: _steps(rows, name, method) for method in shown if _steps(rows, name, method)}
        known = {method: mean(rows, "last", method, [name]).value for method in (JOINT,) if name in types_of(rows, method)}
        references[name] = known
        panels[name][CHANCE] = _steps(rows, name, CHANCE)
    landscape.draw_accuracy_steps(panels, folder / "accuracy-by-step.png", references=references)


def _steps(rows: Rows, name: str, method: str) -> list[Estimate]:
    of = [row["by_step"] for row in rows if row["type"] == name and row["method"] == method and "by_step" in row]
    if not of:
        return []
    found = []
    for values in np.array(of, float).T:
        low, high = interval({str(seed): [v] for seed, v in enumerate(values)}) or (np.nan, np.nan)
        found.append(Estimate(float(np.mean(values)), low, high))
    return found


# ------------------------------------------------------------------ the whole
def report(made: Experiment, work: Conduct, rows: Rows) -> dict[str, Any]:
    """Draw, and write everything; returns the summary."""
    s, types, first = work.settings, list(work.settings.types), work.taken[0]
    with made.bars.stage("report", 1):
        draw(rows, types, made.out / "figures")
    classes, steps = len(first.sequence.classes), len(first.sequence.steps)
    where = f"{s.split} rows" + ("" if s.split == "test" else ", on which settings are chosen: not a result")
    page = Page(
        title=f"Continual learning of {classes} classes",
        asked=f"{classes} classes of {', '.join(task.name for task in work.tasks)} arrive in {steps} steps, no row of an earlier step is kept: "
              f"what is still known at the end, on {where}?",
        headline=headline(rows, classes, steps), main=main_table(rows, types), findings=findings(rows),
        claims=claims(rows, s, work.backbone.kind),
        sections=[
            Section(title="Step by step", figures={
                "accuracy-by-step": "Accuracy over all classes seen by each step, and 95% intervals over sequences; joint training is that of "
                "all classes at once.",
                "accuracy-matrices": "Accuracy after each step (row) on the classes that came with each step (column), means over sequences: "
                "what pales down a column is forgotten."}),
            Section(title="Every type", tables=[whole_table(rows, types)]),
            Section(title="The sequences", words=[f"Seed {taken.seed}: " + "; ".join(", ".join(step) for step in taken.sequence.steps) + "."
                                                  for taken in work.taken]),
            Section(title="What the lines are", words=WORDS),
        ],
        caveats=caveats(work), source="Gao et al., A Unified Continual Learning Framework with General Parameter-Efficient Tuning, ICCV 2023, "
                                      "arXiv 2303.10070.")
    numbers = {name: {method: {score: _json(mean(rows, score, method, [name])) for score in SCORES} for method in methods_of(rows)
                      if name in types_of(rows, method)} for name in types}
    overall = {method: {**{score: _json(value(rows, score, method)) for score in SCORES}, "lae_less_it": _json(ahead(rows, LAE, method))}
               for method in methods_of(rows)}
    matrices = {name: {row["method"]: row["matrix"] for row in rows if row["type"] == name and row["seed"] == first.seed and "matrix" in row
                       and row["method"] in SHOWN} for name in types}
    return made.write(rows, COLUMNS, {
        "backbone": work.backbone.name, "fingerprint": work.backbone.fingerprint, "types": numbers, "overall": overall,
        "classes": list(work.classes), "sequences": {str(taken.seed): taken.sequence.steps for taken in work.taken},
        "rows": {"train": len(first.train.ids), s.split: len(first.test.ids)}, f"matrices_of_seed_{first.seed}": matrices}, page)


WORDS = (
    f"{LAE}: local loss, freezing, calibrated types, accumulation, ensemble. {ONLINE} and {OFFLINE} read one of its two deltas; {COPY}: "
    "the offline delta stays the copy made after the first step (no accumulation).",
    f"{NO_LOCAL}: cross-entropy over all classes seen. {NO_FREEZING}: the delta moves from a step's first update on. {NO_CALIBRATION}: the "
    "plain LoRA and prefix of the same sizes.",
    f"{SEQUENTIAL}: delta and head of one plain course, cross-entropy over all classes seen, nothing frozen, no second delta: what one does who "
    f"knows nothing of forgetting. {LOCAL}: the same with the local loss, the baseline that LAE's paper starts from.",
    f"{JOINT}: all classes at once with as many updates in all, the upper bound. {HEAD}: the delta stays at its start. {CHANCE}: the most "
    "common class.",
    f"{CODES}: LAE with the delta held to the codes of a subspace that was decomposed from other tasks' solutions; {CODES_ONLINE} reads its "
    f"online code. {RANDOM}: the same around the same mean, its directions drawn at random. {MEAN}: the code stays 0.")


def caveats(work: Conduct) -> list[str]:
    """What the numbers do not say."""
    s, rows = work.settings, len(work.taken[0].test.ids)
    return [
        f"{s.seeds} sequences of {len(work.classes)} classes and {rows} scored rows: an interval over few sequences is no more than their "
        "spread, and with three of them 'is above' says no more than that all three point one way.",
        "A prefix is no identity at its start: what it starts from changes the features, which a head alone has to live with.",
        f"{s.steps} updates of {s.batch_size} rows a step, texts cut to {s.max_input} tokens; a longer training moves every line.",
        "Joint training has as many updates as a whole sequence; its average over the steps is not measured.",
        "The classes of several tasks differ in their whole kind of text, which makes some steps easy to tell from others."]


def _json(n: Number) -> list[float | None] | None:
    """[value, low, high]."""
    return [n.value, *((n.low, n.high) if n.interval else (None, None))] if n.known else None
