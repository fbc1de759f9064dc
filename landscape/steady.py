"""Loss and score at many points of a plane, where what all of them agree on is computed once a batch.

The parameters of a delta that differ between points are the moving ones. Where they all lie in the decoder, the encoder reads every batch once
for all points; where they lie in upper blocks, the blocks below read it once. This holds for every backbone and every delta type, since what
depends on the moving parameters is read off the traced program (`landscape.staged`). The numbers are those of `deltas.evaluate_each`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from deltas.evaluation import Exam, Score, assessment, batch_of, evaluate_each, plans_of, stack_labels
from deltas.functional import Attached
from deltas.layout import Layout
from deltas.parallel import flight, forget_programs, over_solutions
from landscape.staged import Staged

LEAST = 0.1
"""The share of the multiplications that has to be saved for the points to be evaluated apart from what they agree on."""
MEMORY = 2**30
"""Bytes of what was made of the batches that are kept for the next points; of further batches it is made again every time."""


def moving(layout: Layout, thetas: Float[np.ndarray, "points D"]) -> list[str]:
    """The parameters in which some of the points θ differ. The corners of a part of an affine plane speak for all of it."""
    differs = np.any(np.asarray(thetas)[1:] != np.asarray(thetas)[0], axis=0)
    return [name for name, moved in layout.unflatten(differs).items() if np.any(moved)]


def evaluator(attached: Attached, exam: Exam, corners: Float[np.ndarray, "points D"], *, in_flight: int | None = None,
              rows_at_once: int = 64) -> Callable[[np.ndarray], list[Score]]:
    """θ [M, D] ↦ the score of each: by a `Steady` where that saves something, else by `evaluate_each`.

    Args:
        corners: points that differ in every parameter in which any two of the points to come differ.
        in_flight: points that run at once; None is one a device on a CPU and sixteen on an accelerator.
    """
    if names := moving(attached.layout, corners):
        steady = Steady(attached, exam, corners[0], names, in_flight=in_flight, rows_at_once=rows_at_once)
        if steady.saved >= LEAST:
            return steady
    return lambda thetas: evaluate_each(attached, thetas, [exam] * len(thetas), in_flight=in_flight, rows_at_once=rows_at_once)


class Steady:
    """Points that differ in some parameters only, on one exam.

    Args:
        theta: any of the points, for the parameters that stand still.
        names: the moving parameters.
        in_flight, rows_at_once: see `deltas.evaluate_each`.
    """

    def __init__(self, attached: Attached, exam: Exam, theta: Float[np.ndarray, " D"], names: Sequence[str], *,
                 in_flight: int | None = None, rows_at_once: int = 64) -> None:
        self.attached, self.exam, self.names, self.in_flight = attached, exam, tuple(names), in_flight
        values, targets = attached.layout.unflatten(jnp.asarray(theta, jnp.float32)), exam.encoded.target_ids
        self._still = {name: value for name, value in values.items() if name not in self.names}
        self._late = {name: values[name] for name in self.names}
        self._width = None if exam.labels is not None else targets.shape[1]
        self._labels = [array[0] for array in stack_labels([exam])] if self._width is None else []
        self._plan, self._batches = plans_of([exam], rows_at_once)[0], []
        for length, rows, valid in self._plan:
            batch = batch_of(exam.encoded, rows, length, targets.shape[1], valid) | dict(exam.encoded.tables)
            self._batches.append({name: jnp.asarray(array) for name, array in batch.items()})
        self._halves: dict[int, tuple[Staged, Callable[..., Any], Callable[..., Any]]] = {}
        self._kept: dict[int, list[jax.Array]] = {}

    @property
    def saved(self) -> float:
        """The share of the multiplications that are done once a batch, whatever the number of points, 0 to 1; of the first batch."""
        return self._half(0)[0].saved

    def __call__(self, thetas: Float[np.ndarray, "points D"]) -> list[Score]:
        """The score of each point θ [M, D], which has to have the parameters that stand still as they are."""
        forget_programs()
        size, count, rows_in_all = flight(self.in_flight), len(thetas), len(self.exam.examples)
        points: Any = np.asarray(thetas, np.float32)
        moved = self.attached.layout.unflatten(points)
        answers = np.zeros((count, rows_in_all) if self._width is None else (count, rows_in_all, self._width), np.int32)
        losses = np.zeros((count, rows_in_all, 2))
        for number, (_, rows, valid) in enumerate(self._plan):
            early, kept, after = self._early(number), self._read(number), self._half(number)[2]
            for first in range(0, count, size):
                part = np.minimum(np.arange(first, first + size), count - 1)  # the last flight is filled with copies
                own = slice(first, min(first + size, count))
                out, sums = after({name: jnp.asarray(moved[name][part]) for name in self.names}, kept, early)
                answers[own, rows[valid]] = np.asarray(out)[: own.stop - first, valid]
                losses[own, rows[valid]] = np.asarray(sums)[: own.stop - first, valid]
        return [self.exam.score(self.attached.backbone, *each) for each in zip(answers, losses, strict=True)]

    def _early(self, number: int) -> Any:
        """All that is the same at every point, of one batch."""
        return self._still, self.attached.frozen, self._batches[number], self._labels

    def _read(self, number: int) -> list[jax.Array]:
        """What was made of a batch without the moving parameters."""
        if number in self._kept:
            return self._kept[number]
        found = self._half(number)[1](self._early(number))
        if sum(array.nbytes for kept in (*self._kept.values(), found) for array in kept) <= MEMORY:
            self._kept[number] = found
        return found

    def _half(self, number: int) -> tuple[Staged, Callable[..., Any], Callable[..., Any]]:
        """The cut of the evaluation of a batch, and both halves compiled; batches of one length share them."""
        length, assess = self._plan[number][0], assessment(self.attached, self._width)
        if length not in self._halves:

            def whole(early: Any, late: dict[str, jax.Array]) -> Any:
                still, frozen, batch, labels = early
                return assess(still | late, frozen, batch, *labels)

            staged = Staged(whole, self._early(number), self._late)
            after = over_solutions(lambda late, kept, early: staged.after(kept, early, late), (True, False, False))
            self._halves[length] = staged, jax.jit(staged.before), after
        return self._halves[length]
