"""What was seen along a path: loss and score of every type, in parts of the rows; one file on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float64, Int

from deltas.errors import InputError
from landscape.curvature import student
from landscape.paths import Path, Profile
from landscape.surface import read, write

What = Literal["loss", "score"]
ARRAYS = ("t", "tokens", "loss", "score", "whole", "done")
FACTS = ("where", "labels", "ends", "missed", "through", "task", "metric", "split", "rows")


@dataclass(frozen=True, eq=False, kw_only=True)
class Walk:
    """A path with what every type sees along it; NaN is a hole, or a point that is not done yet.

    Args:
        path: from the first to the second end, in the space `where`: "z" or "theta".
        t: where it was looked at.
        labels: the types. ends: the names of both ends.
        missed: of both ends, the share that their codes do not give back.
        through: the types that a curve was trained through; of a straight line none.
        tokens: target tokens of each part of the rows.
        loss: mean cross-entropy of a token, by type, part and point. score: the task's metric on the rows of a part.
        whole: the metric on all rows.
        done: by type, how many points were looked at.
    """

    path: Path
    t: Float64[np.ndarray, " points"]
    where: str
    labels: tuple[str, ...]
    ends: tuple[str, str]
    missed: tuple[float, float]
    through: tuple[str, ...]
    task: str
    metric: str
    split: str
    rows: int
    tokens: Int[np.ndarray, " parts"]
    loss: Float64[np.ndarray, "types parts points"]
    score: Float64[np.ndarray, "types parts points"]
    whole: Float64[np.ndarray, "types points"]
    done: Int[np.ndarray, " types"]

    def values(self, label: str, what: What = "loss") -> Float64[np.ndarray, " points"]:
        """The loss or the score of a type on all rows, along the path."""
        n = self._number(label)
        return self.whole[n].copy() if what == "score" else self.tokens @ self.loss[n] / self.tokens.sum()

    def interval(self, label: str, what: What = "loss") -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
        """Lower and upper ends of the 95 % interval around `values`, by Student over the parts of the rows; NaN of a single part."""
        _, half = student((self.loss if what == "loss" else self.score)[self._number(label)])
        values = self.values(label, what)
        return values - half, values + half

    def profile(self, label: str, what: What = "loss") -> Profile:
        """The values as a profile whose rise is what gets worse: of the score, minus the score."""
        values = self.values(label, what)
        return Profile(t=self.t, values=values if what == "loss" else -values)

    def barrier(self, label: str, what: What = "loss") -> float:
        """How far the loss rises above the line between the ends, or the score falls below it; infinite with a hole on the way."""
        return self.profile(label, what).barrier

    def row(self, label: str) -> dict[str, Any]:
        """The barriers of one type, for a table: with where they are and an interval over the parts at that point.

        The point was chosen as the highest, so the interval is that of its height, not of the highest there is.
        """
        n = self._number(label)
        row: dict[str, Any] = {"label": label, "holes": int(np.isnan(self.whole[n]).sum())}
        line = np.stack([1 - self.t, self.t])
        worse: tuple[tuple[What, np.ndarray], ...] = (("loss", self.loss[n]), ("score", -self.score[n]))
        for what, parts in worse:
            found = self.profile(label, what)
            top = int(np.argmax(found.rise)) if math.isfinite(found.barrier) else None
            _, half = student(parts - parts[:, [0, -1]] @ line)
            row[what] = {
                "barrier": found.barrier if top is not None else None, "at": None if top is None else float(self.t[top]),
                "half": None if top is None or np.isnan(half[top]) else float(half[top]),
                "ends": [_number(value) for value in self.values(label, what)[[0, -1]]],
            }  # fmt: skip
        return row

    def to_json(self) -> dict[str, Any]:
        """All but the arrays."""
        facts = {name: getattr(self, name) for name in FACTS}
        return {
            **{name: list(fact) if isinstance(fact, tuple) else fact for name, fact in facts.items()}, "kind": self.path.kind,
            "bends": len(self.path.knots) - 2, "points": len(self.t), "parts": len(self.tokens), "length": self.path.length(),
            "detour": self.path.detour, "history": [dict(entry) for entry in self.path.history],
            "types": [self.row(label) for label in self.labels],
        }  # fmt: skip

    def _number(self, label: str) -> int:
        if label not in self.labels:
            raise InputError(f"expected a type that the path was looked at through ({', '.join(self.labels)}), got {label!r}; choose one")
        return self.labels.index(label)

    # ------------------------------------------------------------ files
    def save(self, file: str | FilePath, *, key: str = "") -> None:
        """Write one safetensors file, whole or not at all; the key says which call it belongs to."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        facts = {name: getattr(self, name) for name in FACTS} | {"kind": self.path.kind, "history": self.path.history}
        write(FilePath(file), {**arrays, "knots": np.ascontiguousarray(self.path.knots)}, {"key": key, "walk": json.dumps(facts)})

    @classmethod
    def load(cls, file: str | FilePath) -> Self:
        """Read what `save` wrote, also of a computation that was stopped; raises InputError for anything else."""
        arrays, header = read(FilePath(file))
        if "walk" not in header:
            raise InputError(f"expected a path with what was seen along it in {file}, got another file; join two solutions first")
        return cls.of(arrays, header)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> Self:
        """From the arrays and the header of a file."""
        facts = json.loads(header["walk"])
        path = Path(kind=facts["kind"], knots=arrays["knots"], history=tuple(facts["history"]))
        kept: dict[str, Any] = {name: tuple(facts[name]) if isinstance(facts[name], list) else facts[name] for name in FACTS}
        kept |= {name: np.array(arrays[name]) for name in ARRAYS}  # copies, which can be gone on with
        return cls(path=path, **kept)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
