"""The results of `deltaspace arbitrary` as tables, a figure and words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from landscape.budget_curves import BudgetPanel, draw_budgets
from landscape.style import Estimate
from subspace.scores import interval

from .arbitrary_runs import Curves, Ground
from .experiment import Experiment
from .page import Main, Page, Section, number, plain
from .report_data import Number
from .report_findings import Finding

COLUMNS = ("backbone", "task", "budget", "structure", "seed", "control", "metric", "parameters", "score", "dev", "step", "rate")
WHICH = ("low", "gain", "high")
ASKED = ("Any parameters of a backbone and of deltas on it, drawn by a key: how many of them does it take to be better than chance, how many "
         "to be as good as full fine-tuning, and does it matter which?")
SOURCE = "Su et al. 2023, Arbitrary Few Parameters are Good Enough for Adapting Large-scale Pre-trained Language Models, arXiv 2306.02320."


def write(made: Experiment, grounds: Sequence[Ground], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Draw the figure, and write table, summary and report."""
    curves = sorted((Curves.of(ground, rows) for ground in grounds), key=lambda c: c.parameters)
    with made.bars.stage("draw", 1):
        draw_budgets([panel(c) for c in curves], made.out / "figures" / "budgets.png")
        summary = {"backbones": {c.ground.name: told(c) for c in curves}}
    return made.write(rows, COLUMNS, summary, page(curves, summary["backbones"]))


def panel(c: Curves) -> BudgetPanel:
    """One backbone as it is drawn: scores are means over its tasks."""
    means = np.nanmean(c.scores, axis=2)  # over seeds, however many a structure has
    realised = {(row["structure"], row["budget"]): row["parameters"] for row in c.rows if not row["control"]}
    structures = [[(realised[key, budget], float(means[:, s, b].mean())) for b, budget in enumerate(c.ground.budgets)]
                  for s, key in enumerate(c.ground.keys)]
    mean = {budget: _mean({task.name: means[t, :, b].tolist() for t, task in enumerate(c.ground.tasks)})
            for b, budget in enumerate(c.ground.budgets)}
    full = _mean({task.name: list(scores) for task, scores in zip(c.ground.tasks, c.full, strict=True)})
    tasks = f"{len(c.ground.tasks)} task" + ("s" if len(c.ground.tasks) > 1 else "")
    return BudgetPanel(title=f"{c.ground.name}, {_short(c.parameters)}, {tasks}", structures=structures, mean=mean,
                       chance=float(c.chance.mean()), zero_shot=float(c.zero_shot.mean()), full=full,
                       marks={"P_low": c.threshold("low").value, "P_high": c.threshold("high").value})


def _mean(by_task: dict[str, list[float]]) -> Estimate:
    low, high = interval(by_task) or (float("nan"), float("nan"))
    return Estimate(sum(sum(v) / len(v) for v in by_task.values()) / len(by_task), low, high)


def told(c: Curves) -> dict[str, Any]:
    """What summary.json says of one backbone."""
    spreads = c.spreads()
    return {
        "parameters": c.parameters, "full_parameters": next(row["parameters"] for row in c.rows if row["control"] == "full"),
        "tasks": [task.name for task in c.ground.tasks], "budgets": c.ground.budgets, "rates": c.ground.rates,
        "chance": float(c.chance.mean()), "zero_shot": float(c.zero_shot.mean()), "full": panel(c).full._asdict(),
        "thresholds": {which: vars(c.threshold(which)) for which in WHICH},
        "thresholds_by_task": {task.name: {which: vars(c.threshold(which, t)) for which in WHICH}
                               for t, task in enumerate(c.ground.tasks)},
        "spread": spreads[None], "spread_by_budget": {str(budget): s for budget, s in spreads.items() if budget is not None},
        "scores": {str(budget): estimate._asdict() for budget, estimate in panel(c).mean.items()},
    }


def page(curves: Sequence[Curves], told: dict[str, Any]) -> Page:
    """The page and its main table."""
    first = curves[0].ground.settings
    heads = ["backbone", "parameters", "P_low", "P_gain", "P_high", "chance", "bare backbone", "full fine-tuning", "spread of structures",
             "noise of seeds"]
    main = []
    for name, t in told.items():
        full = number(t["full"]["value"], [t["full"]["low"], t["full"]["high"]])
        main.append([name, _short(t["parameters"]), *(words(t, t["thresholds"][which]) for which in WHICH),
                     t["chance"], t["zero_shot"], full, *_points(t["spread"])])
    caption = (f"P_low: the least number of trained parameters from which the mean score stays above chance + {first.tolerance:g}; P_gain: "
               f"above the bare backbone too; P_high: from which it stays at or above full fine-tuning − {first.tolerance:g}; 95% intervals of "
               "a bootstrap over tasks, structures and seeds. Spread: standard deviation of the score, in points of a hundredth, over "
               "structures of equal P, the noise of training taken off, all budgets together; noise: over the seeds of one structure.")
    return Page(
        title="Arbitrary structures at any budget", asked=ASKED, headline=_headline(told),
        main=Main(heads=heads, rows=main, caption=caption, words=5), findings=_findings(told), claims=_claims(told),
        sections=[Section(title="Curves", figures={"budgets": "Score against the number of trained parameters, means over the backbone's tasks; "
                          "a thin line is a structure, drawn at the number it has."}), _by_budget(told), _by_task(told)],
        caveats=["Budgets lie on a coarse grid: a threshold is known to one step of it.",
                 "One learning rate serves all structures of a budget: a structure that wants another counts as a worse one.",
                 "The backbones differ in kind, pretraining, tasks and way of answering, not in size alone: a trend is no law of scale.",
                 "Trainings are short and few; a bootstrap over two or three structures and tasks knows little of others."],
        source=SOURCE)


def words(t: dict[str, Any], found: dict[str, Any]) -> str:
    """A threshold of one backbone and its interval; at the smallest budget tried, it may lie below."""
    if found["value"] is None:
        return f"not reached (in {found['reached']:.0%} of draws)"
    ends = ["∞" if end is None else _short(end) for end in (found["low"], found["high"])]
    return f"{_at(t, found['value'])} [{ends[0]}, {ends[1]}]"


def _at(t: dict[str, Any], budget: int) -> str:
    return ("≤ " if budget == t["budgets"][0] else "") + _short(budget)


def _short(count: float) -> str:
    """A number of parameters in few digits."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def _points(spread: dict[str, Any]) -> tuple[Number, Number]:
    """The spread of structures and the noise of seeds, in hundredths of the score."""
    structure, noise = (None if spread[name] is None else 100 * spread[name] for name in ("structure", "noise"))
    return number(structure, [100 * end for end in spread["interval"] or []]), number(noise)


def _by_budget(told: dict[str, Any]) -> Section:
    rows = []
    for name, t in told.items():
        for (budget, spread), rate in zip(t["spread_by_budget"].items(), t["rates"], strict=True):
            score = t["scores"][budget]
            rows.append([name, budget, f"{rate:g}", number(score["value"], [score["low"], score["high"]]), *_points(spread)])
    heads = ["backbone", "budget", "learning rate", "score", "spread of structures", "noise of seeds"]
    caption = "Means over tasks, structures and seeds; standard deviations at equal budget, in points."
    return Section(title="By budget", tables=[plain(heads, rows, caption, 3)])


def _by_task(told: dict[str, Any]) -> Section:
    rows = [[name, task, *(words(t, found[which]) for which in WHICH)]
            for name, t in told.items() for task, found in t["thresholds_by_task"].items()]
    heads = ["backbone", "task", "P_low", "P_gain", "P_high"]
    return Section(title="By task", tables=[plain(heads, rows, "Intervals over structures and seeds.", 5)])


# ---------------------------------------------------------------- in words
def _headline(told: dict[str, Any]) -> Finding:
    parts = []
    for name, t in told.items():
        low, high = (t["thresholds"][which]["value"] for which in ("low", "high"))
        above = f"above chance from {_at(t, low)} trained parameters" if low is not None else "at no budget above chance"
        reached = f"as good as full fine-tuning from {_at(t, high)}" if high is not None else "never as good as full fine-tuning"
        parts.append(f"{name} ({_short(t['parameters'])}) is {above}, and {reached}")
    return Finding("note", "; ".join(parts) + ".")


def _findings(told: dict[str, Any]) -> list[Finding]:
    found = []
    for name, t in told.items():
        spread, noise = _points(t["spread"])
        if not spread.known:
            continue
        beside = f", noise of seeds {noise}" if noise.known else ""
        there = spread.interval and spread.low > 0
        told_apart = "structure matters at equal budget" if there else "no effect of structure that could be told from noise"
        found.append(Finding("note", f"{name}: {told_apart} (standard deviation {spread} points{beside})."))
    return found


def _claims(told: dict[str, Any]) -> list[tuple[str, str, str]]:
    differ = "the backbones differ in pretraining, tasks and way of answering too"
    claims = []
    if len(told) > 1:
        names, entries = list(told), list(told.values())
        spreads = [_points(t["spread"])[0] for t in entries]
        smaller = spreads[-1].against(spreads[0])
        verdict = {"below": "it does", "above": "the other way round", "same": "cannot be told"}.get(smaller, "not known")
        claims.append(("structure matters less as the model grows",
                       f"{verdict}: " + ", ".join(f"{n} {s}" for n, s in zip(names, spreads, strict=True)), differ))
        highs = [t["thresholds"]["high"] for t in entries]
        found = ", ".join(f"{name} {words(t, high)}{_share(t, high)}" for (name, t), high in zip(told.items(), highs, strict=True))
        claims.append(("P_high falls with scale", f"{_trend([h['value'] for h in highs])}: {found}",
                       f"{differ}; full fine-tuning has as few steps as the deltas"))
    for name, t in told.items():
        lows = {task: found["low"] for task, found in t["thresholds_by_task"].items()}
        if len(lows) > 1:
            values = [low["value"] for low in lows.values()]
            known = [v for v in values if v is not None]
            same = len(known) == len(values) and max(known) <= 10 * min(known)
            claims.append((f"P_low is about the same across tasks ({name})",
                           f"{'within a factor of ten' if same else 'it is not'}: "
                           + ", ".join(f"{task} {words(t, low)}" for task, low in lows.items()),
                           f"chance is {t['chance']:.2f}, the bare backbone {t['zero_shot']:.2f}: where the latter is above chance, few "
                           "parameters are too"))
    return claims


def _share(t: dict[str, Any], found: dict[str, Any]) -> str:
    """A threshold as a share of the backbone."""
    return "" if found["value"] is None else f", {found['value'] / t['parameters']:.2g} of the backbone"


def _trend(highs: Sequence[int | None]) -> str:
    """Whether the thresholds fall from the smallest backbone to the largest."""
    values = [float("inf") if high is None else high for high in highs]
    if all(high is None for high in highs):
        return "reached on no backbone"
    falling = all(b <= a for a, b in pairwise(values)) and values[-1] < values[0]
    return "it does" if falling else "it does not"
