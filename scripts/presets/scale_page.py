"""The results of the scale study as a table, a figure and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from landscape.scale_figure import draw_scale
from landscape.style import Estimate
from subspace.scores import interval

from ..experiment import Experiment
from ..page import Main, Page, number
from ..report_data import Number
from ..report_findings import Finding
from .scale import RANDOM, TENSORS, USUAL

COLUMNS = ("backbone", "method", "selection", "key", "task", "seed", "control", "metric", "parameters", "score", "dev", "converged")
SOURCE = ("Ding et al. 2023, Parameter-efficient fine-tuning of large-scale pre-trained language models, Nature Machine Intelligence 5, "
          "220-235: the power of scale.")


def write(made: Experiment, rows: list[dict[str, Any]], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Draw the figure, and write table, summary and report."""
    cells = summarised(rows, sizes)
    with made.bars.stage("draw", 1):
        series: dict[tuple[str, str], dict[int, tuple[Estimate, Estimate]]] = {}
        for cell in cells:
            points = series.setdefault((cell["method"], cell["selection"]), {})
            points[sizes[cell["backbone"]]] = (_estimate(cell["score"]), _estimate(cell["converged"]))
        draw_scale(series, made.out / "figures" / "scale.png", names={sizes[name]: name for name in sizes}, part=made.settings.part)
    return made.write(rows, COLUMNS, {"cells": cells, "sizes": dict(sizes)}, page(cells, sizes, made.settings.part))


def summarised(rows: Sequence[Mapping[str, Any]], sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """One entry a backbone, method and selection: means over tasks, keys and seeds, with intervals.

    `score` is (score − chance) / (1 − chance), so that tasks of different chance can be compared; `raw` the score itself.
    """
    chance = {(row["backbone"], row["task"]): row["score"] for row in rows if row["control"] == "chance"}
    bare = {(row["backbone"], row["task"]): row["score"] for row in rows if row["control"] == "zero_shot"}
    found = []
    for name in sorted(sizes, key=lambda name: sizes[name]):
        lifted = [(bare[key] - c) / (1 - c) for key, c in chance.items() if key[0] == name]
        ours = [row for row in rows if row["backbone"] == name and not row["control"]]
        for method, selection in dict.fromkeys((row["method"], row["selection"]) for row in ours):
            some = [row for row in ours if (row["method"], row["selection"]) == (method, selection)]
            score: dict[str, list[float]] = {}
            for row in some:
                c = chance[name, row["task"]]
                score.setdefault(row["task"], []).append((row["score"] - c) / (1 - c))
            steps: dict[str, list[float]] = {}
            for row in some:
                if row["converged"] is not None:
                    steps.setdefault(row["task"], []).append(row["converged"])
            found.append({
                "backbone": name, "method": method, "selection": selection, "parameters": int(np.median([row["parameters"] for row in some])),
                "score": _entry(score), "raw": float(np.mean([row["score"] for row in some])), "converged": _entry(steps),
                "never": sum(row["converged"] is None for row in some), "trainings": len(some), "bare": float(np.mean(lifted)),
                "chance": float(np.mean([c for key, c in chance.items() if key[0] == name]))})
    return found


def _entry(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    mean = float(np.mean([np.mean(v) for v in values.values()])) if values else None
    return {"value": mean, "interval": interval(values) if values else None}


def _estimate(entry: Mapping[str, Any]) -> Estimate:
    return Estimate(np.nan if entry["value"] is None else entry["value"], *(entry["interval"] or (np.nan, np.nan)))


def _number(entry: Mapping[str, Any]) -> Number:
    return number(entry["value"], entry["interval"])


def page(cells: Sequence[Mapping[str, Any]], sizes: Mapping[str, int], part: float) -> Page:
    """The page and its main table."""
    heads = ["backbone", "method", "at", "parameters of the backbone", "trained", "score, 0 chance and 1 all right", "bare backbone",
             f"steps to {part:.0%}", "never above chance"]
    table = [[c["backbone"], c["method"], c["selection"], f"{sizes[c['backbone']]:,}", f"{c['parameters']:,}", _number(c["score"]), c["bare"],
              _number(c["converged"]), f"{c['never']} of {c['trainings']}"] for c in cells]
    caption = ("Means over tasks, random selections and seeds, with 95% intervals of a bootstrap over tasks and their trainings. What is drawn "
               "has whole groups, of at most as many parameters as the usual sites. Steps: the first look at the dev rows that is "
               f"{part:.0%} of the way from chance to the best look.")
    names = sorted(sizes, key=lambda name: sizes[name])
    better, faster, chosen = _rises(cells, names, "score"), _rises(cells, names, "converged"), _chosen(cells)
    return Page(
        title="The power of scale", asked="Do all delta types do better, and converge faster, on a larger backbone, wherever they stand?",
        headline=better, main=Main(heads=heads, rows=table, caption=caption, words=5), findings=[faster, *chosen],
        claims=[("all delta types do better with scale", better.text, "the backbones differ in pretraining, tasks and way of answering too"),
                ("all converge faster with scale", faster.text, "steps are counted in looks at dev rows, of which a training has few"),
                ("at scale it matters little where", " ".join(f.text for f in chosen), "few selections, and the same learning rate for all")],
        caveats=["Score and steps are of different tasks where the backbones' tasks differ; steps are at most those of a training.",
                 "The learning rate is one a backbone, chosen for the usual sites; random tensors may want another."],
        source=SOURCE)


def _rises(cells: Sequence[Mapping[str, Any]], names: Sequence[str], what: str) -> Finding:
    """How many methods are better on the largest backbone than on the smallest, and for how many that is beyond doubt."""
    ends = [{(c["method"], c["selection"]): _number(c[what]) for c in cells if c["backbone"] == name} for name in (names[0], names[-1])]
    both = [key for key in ends[0] if ends[0][key].known and ends[1].get(key, Number()).known]
    told = "score" if what == "score" else "steps to convergence"
    if len(names) < 2 or not both:
        return Finding("open", f"One backbone, or no {told} on it: nothing is said of scale.")
    sign = 1 if what == "score" else -1
    good = [key for key in both if sign * (ends[1][key].value - ends[0][key].value) > 0]
    clear = [key for key in both if ends[1][key].against(ends[0][key]) == ("above" if sign > 0 else "below")]
    against = [key for key in both if ends[1][key].against(ends[0][key]) == ("below" if sign > 0 else "above")]
    gained = "a better score" if sign > 0 else "fewer steps to convergence"
    text = (f"From {names[0]} to {names[-1]} {len(good)} of {len(both)} methods have {gained} ("
            f"{len(clear)} with intervals apart; {len(against)} are clearly {'worse' if sign > 0 else 'slower'}).")
    return Finding("for" if len(clear) == len(both) else "against" if against else "open", text)


def _chosen(cells: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What random sites and random tensors cost against the usual sites, on each backbone."""
    found = []
    for name in dict.fromkeys(c["backbone"] for c in cells):
        scores = {(c["method"], c["selection"]): _number(c["score"]) for c in cells if c["backbone"] == name}
        parts = [f"{method} {scores[method, USUAL]} at its usual sites, {scores[method, RANDOM]} at random ones, {scores[method, TENSORS]} as "
                 "random tensors" for method in dict.fromkeys(key[0] for key in scores)]
        apart = Number(max(n.value for n in scores.values()) - min(n.value for n in scores.values()))
        found.append(Finding("note", f"{name}: {'; '.join(parts)}; best and worst are {apart} apart."))
    return found
