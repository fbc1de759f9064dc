"""`deltaspace decompose --score`: what held-out tasks score by the backbone, against k."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .decompose_report import method_of, parts_of, some

if TYPE_CHECKING:
    from deltas import Backbone, Reading, Task
    from subspace import HeldOutScores, Sources, Subspace


def score(space: Subspace, sources: Sources, backbone: Backbone, tasks: Sequence[Task], reading: Reading, *, rows: int | None, kept: Path,
          seed: int, on_progress: Callable[[str, int, int], None]) -> HeldOutScores:
    """Held-out tasks scored by the backbone, at each power of two, the subspace's k and the largest; the decomposition is its own as far as
    `method_of` knows it."""
    from subspace.held_out_scores import cross_validated_scores
    from subspace.remembered import common, remembered

    chosen, (_, method, nested) = remembered(some(common(sources), seed)), method_of(space)
    folds, most = parts_of(chosen, seed)
    ks = sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most} | ({space.k} if space.k <= most else set()))
    return cross_validated_scores(chosen, ks, backbone=backbone, tasks=tasks, method=method, nested=nested, folds=folds, rows=rows,
                                  reading=reading, seed=seed, kept=kept, on_progress=on_progress)


def table(found: HeldOutScores) -> dict[str, Any]:
    """What was scored, as JSON: by k the normalised means, and every pair of types."""
    ways = {"within": (False, ""), "across": (True, ""), "shuffled": (True, "shuffled")} if found.across else {"within": (False, "")}
    means: list[dict[str, Any]] = []
    for k in found.ks:
        row: dict[str, Any] = {"k": k}
        for name, (across, control) in ways.items():
            entry = found.mean(k, across=across, control=control)
            if entry["normalised"] is not None:
                row |= {name: entry["normalised"], f"{name}_interval": entry["normalised_interval"] or [entry["normalised"]] * 2}
        means.append(row)
    zero = found.alone("zero_shot")
    return {"means": means, "rows": found.rows(), "control": found.rows("shuffled"), "recommended": found.recommended, "apart": found.apart,
            "tasks": len({line["task"] for line in found.lines}), "zero_shot": zero["normalised"], "lines": list(found.lines)}
