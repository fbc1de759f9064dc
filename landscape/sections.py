"""What a quantity is along one path, batch by batch, and what a picture says of it: the mean, its interval and the barrier."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float64

from deltas.errors import InputError
from landscape.paths import Profile

SPACES = {"theta": "θ"}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Section:
    """What a quantity is along one path, for every type.

    Args:
        t: places on the path, from 0 to 1, rising.
        values: {label: [batches, points]}; NaN is a hole. One row where there are no batches.
        whole: {label: [points]}, where the value of all data is not the mean over batches, as of many metrics; {} is the mean.
        name: of the path, such as "straight" or "bezier".
        quantity: what the values are.
        good: whether "low" or "high" values are good: a barrier rises over the line between the ends, or falls below it.
        ends: names of the two ends.
        task: whose loss or score it is.
        space: which space the path is in.

    Raises:
        InputError: fewer than 3 places, values of another number of them, or another `good`.
    """

    t: Float64[np.ndarray, " points"]
    values: Mapping[str, Float64[np.ndarray, "batches points"]]
    whole: Mapping[str, Float64[np.ndarray, " points"]] = dataclasses.field(default_factory=dict)
    name: str = "path"
    quantity: str = "loss"
    good: Literal["low", "high"] = "low"
    ends: tuple[str, str] = ("", "")
    task: str = ""
    space: str = "z"

    def __post_init__(self) -> None:
        object.__setattr__(self, "t", np.asarray(self.t, np.float64))
        object.__setattr__(self, "values", {label: np.atleast_2d(np.asarray(v, np.float64)) for label, v in self.values.items()})
        if self.good not in ("low", "high"):
            raise InputError(f"expected good values to be 'low' or 'high', got {self.good!r}; choose one of them")
        if self.t.ndim != 1 or len(self.t) < 3 or not self.values:
            raise InputError(f"expected values at 3 places of a path at least, got {len(self.values)} types at {self.t.size}; evaluate more")
        for label, values in [*self.values.items(), *((label, np.atleast_2d(v)) for label, v in self.whole.items())]:
            if values.ndim != 2 or values.shape[1] != len(self.t) or not len(values):
                raise InputError(f"expected values [batches, {len(self.t)}] of {label!r}, got shape {values.shape}; pass those at `t`")

    @classmethod
    def of(cls, walk: Any, what: Literal["loss", "score"] = "loss", *, name: str | None = None) -> Self:
        """The loss or the score of a path that types were looked at along, with the parts of its rows as batches."""
        parts = walk.loss if what == "loss" else walk.score
        return cls(
            t=walk.t, values=dict(zip(walk.labels, parts, strict=True)), whole={label: walk.values(label, what) for label in walk.labels},
            name=walk.path.kind if name is None else name, quantity=what if what == "loss" else walk.metric or what,
            good="low" if what == "loss" else "high", ends=tuple(walk.ends), task=walk.task, space=SPACES.get(str(walk.where), str(walk.where)),
        )  # fmt: skip

    def mean(self, label: str) -> Profile:
        """The value of all data: the mean over batches, unless `whole` says it."""
        values = self.whole[label] if label in self.whole else self.values[label].mean(axis=0)
        return Profile(t=self.t, values=np.asarray(values, np.float64))

    def barrier(self, label: str) -> tuple[int, float]:
        """Where on the path the mean is worst against the line between the ends, and by how much; NaN where an end is a hole.

        Holes between the ends are passed over: where there are some, the barrier is at least this.
        """
        rise = self.mean(label).rise * (1 if self.good == "low" else -1)
        if not np.isfinite(rise).any():
            return 0, float("nan")
        worst = int(np.nanargmax(np.where(np.isfinite(rise), rise, np.nan)))
        return worst, max(0.0, float(rise[worst]))

    def half(self, label: str) -> Float64[np.ndarray, " points"]:
        """Half the 95 % interval of the mean, t_{0.975, B−1} s / √B over batches; NaN of a single one."""
        values = self.values[label]
        if len(values) < 2:
            return np.full(len(self.t), np.nan)
        from scipy import stats

        return float(stats.t.ppf(0.975, len(values) - 1)) * values.std(axis=0, ddof=1) / np.sqrt(len(values))

    def holes(self, label: str) -> int:
        """Number of places without a finite value."""
        return int((~np.isfinite(self.mean(label).values)).sum())
