"""(g) The adaptive grid against the dense map of the same real plane: evaluations needed, and how far what it fills in is off.

Of every plane all points are evaluated once, through `landscape.plane`. Then the same plane is surveyed adaptively, each loss that it asks for
being looked up, so that what it left out is known too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import landscape

SIDE, TOLERANCE = 41, 0.02
"""Points a side, and what may be wrong as a share of the range of losses."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """The coordinates of a surface that was evaluated at every point, as a space to survey again."""

    surface: landscape.Surface
    k = 2
    pairs = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Those of the surface."""
        return self.surface.labels

    @property
    def codes(self) -> np.ndarray:
        """Of no solution."""
        return np.zeros((0, 2), np.float32)

    def decode(self, label: str, z: Any) -> np.ndarray:
        """The coordinates themselves."""
        return np.asarray(z)

    def evaluate(self, label: str, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Loss and score as they were found at these points of the grid."""
        column, row = (np.abs(z[:, n, None] - axis).argmin(1) for n, axis in enumerate((self.surface.x, self.surface.y)))
        kind = self.labels.index(label)
        return self.surface.loss[kind, row, column], self.surface.score[kind, row, column]


def against_dense(dense: landscape.Surface, tolerance: float = TOLERANCE) -> dict[str, dict[str, Any]]:
    """By type: points evaluated, and the errors of the others as shares of the range of all losses.

    Returns:
        `error` and `error_mean`, the largest and the mean |filled in − evaluated|; `over`, the share of filled-in points that are off by more
        than the tolerance; `stated`, the error that the survey itself states; `score_error_mean`, in units of the score.
    """
    box = (dense.x[0], dense.x[-1], dense.y[0], dense.y[-1])
    space: Any = Drawn(dense)
    found = landscape.survey(space, space.evaluate, extent=tuple(map(float, box)), resolution=len(dense.x), adaptive=tolerance)
    return {label: _compared(dense, found, kind, tolerance) for kind, label in enumerate(dense.labels)}


def _compared(dense: landscape.Surface, found: landscape.Surface, kind: int, tolerance: float) -> dict[str, Any]:
    loss, known = dense.loss[kind], found.known[kind]
    scale, filled = float(np.nanmax(loss) - np.nanmin(loss)), ~known & np.isfinite(loss) & np.isfinite(found.loss[kind])
    wrong = np.abs(found.loss[kind] - loss)[filled] / scale
    score = np.abs(found.score[kind] - dense.score[kind])[filled]
    return {
        "points": known.size, "evaluated": int(known.sum()), "share": _short(known.mean()), "tolerance": tolerance,
        "range": [_short(np.nanmin(loss)), _short(np.nanmax(loss))], "holes": int(np.isnan(loss).sum()),
        "error": _short(wrong.max(initial=0.0)), "error_mean": _short(wrong.mean()) if len(wrong) else 0.0,
        "over": _short(np.mean(wrong > tolerance)) if len(wrong) else 0.0, "stated": _short(found.error[kind] / scale),
        "score_error_mean": _short(score.mean()) if len(score) else 0.0,
    }  # fmt: skip


def summary(planes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The worst of all planes."""
    return {"planes": len(planes), "share": max(one["share"] for one in planes.values()),
            "error": max(one["error"] for one in planes.values()), "error_mean": max(one["error_mean"] for one in planes.values())}


def _short(value: Any) -> float:
    return float(f"{value:.4g}")
