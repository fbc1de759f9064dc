"""Scores against k for each delta type, of a finished study's rows."""

from __future__ import annotations

from pathlib import Path

import landscape

from .report_data import Study

PANELS = {"optimization": ("optimization", "target"), "transfer into": ("transfer", "target"), "transfer out of": ("transfer", "source")}
"""By panel the stage, and which end of it the line is about."""


def by_type(study: Study) -> dict[str, dict[str, dict[int, landscape.Estimate]]]:
    """{panel: {label: {k: normalised score with its interval}}} of the study's own method, for the types and k's that have one."""
    found: dict[str, dict[str, dict[int, landscape.Estimate]]] = {}
    for panel, (stage, end) in PANELS.items():
        own = [r for r in study.rows if r.stage == stage and not r.control and r.method == study.method and r.task in study.counted]
        for label in study.types:
            for k in sorted({r.k for r in own if getattr(r, end) == label}):
                score = study.mean(r for r in own if r.k == k and getattr(r, end) == label)
                if score.known:
                    found.setdefault(panel, {}).setdefault(label, {})[k] = landscape.Estimate(score.value, score.low, score.high)
    return found


def draw_by_type(study: Study, path: str | Path) -> Path | None:
    """The figure, or None where scores were measured at fewer than two k's."""
    found = by_type(study)
    if len({k for lines in found.values() for line in lines.values() for k in line}) < 2:
        return None
    return landscape.score_curves(found, path)
