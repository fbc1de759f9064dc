"""The results of the efficiency study as tables, a figure and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from landscape.cost_curves import draw_costs
from landscape.style import Estimate

from ..experiment import Experiment
from ..page import Main, Page, number
from ..report_data import Number
from ..report_findings import Finding
from .efficiency import FULL

COLUMNS = ("type", "batch_size", "parameters", "frozen", "state", "temporaries", "memory", "memory_ratio", "seconds", "fastest", "slowest",
           "time_ratio", "time_ratio_low", "time_ratio_high")
MIB = 2**20
SOURCE = ("Ding et al. 2023, Parameter-efficient fine-tuning of large-scale pre-trained language models, Nature Machine Intelligence 5, "
          "220-235: efficiency.")


def write(made: Experiment, rows: list[dict[str, Any]], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the figure, and write table, summary and report."""
    rows = compared(rows)
    with made.bars.stage("draw", 1):
        draw_costs({label: {row["batch_size"]: (row["memory"] / MIB, Estimate(1e3 * row["seconds"], 1e3 * row["fastest"], 1e3 * row["slowest"]))
                            for row in rows if row["type"] == label} for label in dict.fromkeys(row["type"] for row in rows)},
                   made.out / "figures" / "efficiency.png")
    return made.write(rows, COLUMNS, {"rows": rows, "machine": dict(machine)}, page(rows, machine))


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their whole memory, and full fine-tuning's memory and time over theirs at the same batch size: above 1 they are cheaper."""
    whole = [{**row, "memory": row["frozen"] + row["state"] + row["temporaries"]} for row in rows]
    full = {row["batch_size"]: row["memory"] for row in whole if row["type"] == FULL}
    found = []
    for row in whole:
        ratios = row.pop("ratios")
        found.append({**row, "memory_ratio": full[row["batch_size"]] / row["memory"], "time_ratio": median(ratios),
                      "time_ratio_low": min(ratios), "time_ratio_high": max(ratios)})
    return found


def page(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> Page:
    """The page and its main table."""
    heads = ["type", "batch", "trained", "memory, MiB", "of that the step's own", "full's memory / its", "step, ms (range)",
             "full's time / its (range)"]
    table = [[row["type"], str(row["batch_size"]), f"{row['parameters']:,}", row["memory"] / MIB, row["temporaries"] / MIB, row["memory_ratio"],
              number(1e3 * row["seconds"], [1e3 * row["fastest"], 1e3 * row["slowest"]]),
              number(row["time_ratio"], [row["time_ratio_low"], row["time_ratio_high"]])] for row in rows]
    caption = ("Memory as XLA plans it: backbone, delta and optimizer state, and what a step needs of its own. Times are medians with their "
               "range over rounds in which all types take turns; a ratio above 1 is a saving, made within each round.")
    return Page(
        title="What a training step costs",
        asked="How much memory and time does a delta type save against full fine-tuning, and at which batch?",
        headline=_saved(rows, "memory"), main=Main(heads=heads, rows=table, caption=caption, words=3), findings=[_saved(rows, "time")],
        claims=[("delta methods save most memory at small batch", _saved(rows, "memory").text,
                 "the optimizer's state and the gradients of full fine-tuning are the same at every batch, activations grow with it"),
                ("their steps are faster too", _saved(rows, "time").text, "the backward pass goes through the backbone for all of them")],
        caveats=[f"One machine ({machine['device']}, {machine['processors']} processors), one backbone, one step at a time; the plan is XLA's "
                 "own and differs between devices.", "Ranges are of the rounds of one run, not of machines or runs."],
        source=SOURCE)


def _saved(rows: Sequence[Mapping[str, Any]], what: str) -> Finding:
    """The saving of the delta types against full fine-tuning, at the smallest and the largest batch."""
    sizes = sorted({row["batch_size"] for row in rows})
    small, large = ([row for row in rows if row["batch_size"] == size and row["type"] != FULL] for size in (sizes[0], sizes[-1]))
    told = {size: f"{_ratio(min(some, key=lambda r: r[f'{what}_ratio']), what)} to {_ratio(max(some, key=lambda r: r[f'{what}_ratio']), what)}"
            for size, some in ((sizes[0], small), (sizes[-1], large))}
    noun = "memory" if what == "memory" else "time"
    text = f"Full fine-tuning needs {told[sizes[0]]} times the {noun} of a delta type at batch {sizes[0]}"
    if len(sizes) == 1:
        return Finding("note", text + ".")
    falls = [a[f"{what}_ratio"] > b[f"{what}_ratio"] for a, b in zip(small, large, strict=True)]
    text += f", {told[sizes[-1]]} at batch {sizes[-1]}: the saving is larger at the small batch for {sum(falls)} of {len(falls)} types."
    return Finding("for" if all(falls) else "open" if any(falls) else "against", text)


def _ratio(row: Mapping[str, Any], what: str) -> str:
    return str(Number(row[f"{what}_ratio"]))
