"""The report's figures, drawn from a finished study: numbers from its summary, planes from DIR/landscape/*.safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import landscape
from landscape.surface import Surface

from .report_curves import draw_by_type
from .report_data import CONTROLS, STAGES, Number, Study, read_study


def draw_figures(folder: str | Path, *, space: Any = None, categories: Mapping[str, str] | None = None) -> list[Path]:
    """Write DIR/figures/{curve,sources,controls,matrix,spectrum,codes,plane-NAME}.png, those for which there are numbers.

    Args:
        folder: a study's folder with results.csv and summary.json.
        space: the Subspace the tables are about, for its spectrum and codes; None leaves these two out.
        categories: {source task: category}, colours of the codes.
    Returns: the files written.
    """
    study = read_study(folder)
    figures = study.folder / "figures"
    written: list[Path] = []
    lines = {stage: {k: _estimate(n) for k, n in study.curve(stage).items()} for stage in STAGES}
    controls = {stage: {c: study.overall(stage, c) for c in CONTROLS if c != "zero_shot"} for stage in STAGES}
    known = {stage: {c: _estimate(n) for c, n in named.items() if n.known} for stage, named in controls.items()}
    if any(len(line) > 1 for line in lines.values()):
        shown = {stage: line for stage, line in lines.items() if line}
        # one line for each stage that says the most: all of them would hide the curve
        few = {stage: {c: n for c, n in known[stage].items() if c in ("shuffled", "random_basis")} for stage in shown}
        written.append(landscape.curve(shown, figures / "curve.png", references=few))
    counts = {stage: {n: _estimate(score) for n, score in study.by_sources(stage).items()} for stage in STAGES}
    if all(len(line) > 1 for line in counts.values()):
        written.append(landscape.curve(counts, figures / "sources.png", xlabel="source tasks"))
    if drawn := draw_by_type(study, figures / "curve-by-type.png"):
        written.append(drawn)
    groups = {}
    for stage in STAGES:
        ours = study.overall(stage)
        if ours.known:
            groups[stage] = {study.method: _estimate(ours), **known[stage]}
    if groups:
        written.append(landscape.bars(groups, figures / "controls.png"))
    cells = {(s, t): study.cell(s, t) for s in study.types for t in study.types}
    cells = {pair: _estimate(n) for pair, n in cells.items() if n.known}
    if len(study.types) > 1 and cells:
        written.append(landscape.matrix(cells, figures / "matrix.png", labels=study.types))
    if space is not None:
        null = getattr(space, "null", None)
        written.append(landscape.spectrum(space.spectrum, null, figures / "spectrum.png", k=space.k))
        if space.k > 1:
            written.append(landscape.seen_codes(space.codes, space.pairs, figures / "codes.png", categories=categories))
    for name, surface in surfaces(study).items():
        written.append(landscape.plot(surface, figures / f"plane-{name}.png", tolerance=study.tolerance))
    return written


def surfaces(study: Study) -> dict[str, Surface]:
    """{name: surface} of DIR/landscape, sorted by name."""
    return {path.stem: Surface.load(path) for path in sorted((study.folder / "landscape").glob("*.safetensors"))}


def _estimate(number: Number) -> landscape.Estimate:
    return landscape.Estimate(number.value, number.low, number.high)
