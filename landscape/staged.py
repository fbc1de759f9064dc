"""A function of two arguments cut in two: what depends on the first alone is computed once, the rest for every value of the second.

    f(early, late)   →   kept = before(early),   f = after(kept, early, late)

The cut is read off the traced program: an operation is late where anything that it reads depends on `late`, so the cut is right whatever the
function is, and `kept` is what late operations read of early ones. Of a transformer and a few of its parameters this leaves the blocks below
the first of them to the early half: the whole encoder, where only the decoder is moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

FREE = frozenset({"broadcast_in_dim", "iota", "reshape", "squeeze", "transpose"})
"""Operations that are done again rather than kept: they compute nothing, and what a broadcast gives is large."""


class Staged:
    """The two halves of a function.

    Args:
        f: (early, late) ↦ arrays, in JAX, without side effects.
        early, late: examples, trees of arrays or of their shapes.
    """

    def __init__(self, f: Callable[[Any, Any], Any], early: Any, late: Any) -> None:
        closed, shapes = jax.make_jaxpr(f, return_shape=True)(early, late)
        self._program, self._constants, self._result = closed.jaxpr, list(closed.consts), jax.tree.structure(shapes)
        count = len(jax.tree.leaves(early))
        given = {*self._program.constvars, *self._program.invars}
        moved = set(self._program.invars[count:])
        for step in self._program.eqns:
            if not moved.isdisjoint(_variables(step.invars)):
                moved.update(step.outvars)
        self._late, read = self._needed(_variables(self._program.outvars), lambda step: step.outvars[0] in moved or step.primitive.name in FREE)
        wanted = read - given - {v for step in self._late for v in step.outvars}
        self._early, _ = self._needed(wanted, lambda step: True)
        self._kept = [v for step in self._early for v in step.outvars if v in wanted]

    def _needed(self, wanted: Iterable[Any], among: Callable[[Any], bool]) -> tuple[list[Any], set[Any]]:
        """The operations that lead to what is wanted, in order, and all that they read or is wanted."""
        steps, read = [], set(wanted)
        for step in reversed(self._program.eqns):
            if not read.isdisjoint(step.outvars) and among(step):
                steps.append(step)
                read.update(_variables(step.invars))
        return steps[::-1], read

    def before(self, early: Any) -> list[jax.Array]:
        """What the late half reads of the early one; under `jax.jit` too."""
        count = len(jax.tree.leaves(early))
        return self._run(self._early, self._program.invars[:count], self._kept, jax.tree.leaves(early))

    def after(self, kept: Sequence[jax.Array], early: Any, late: Any) -> Any:
        """f(early, late), given what `before` returned for `early`; under `jax.jit` and `vmap` too."""
        found = self._run(self._late, [*self._program.invars, *self._kept], self._program.outvars, [*jax.tree.leaves((early, late)), *kept])
        return jax.tree.unflatten(self._result, found)

    def _run(self, steps: list[Any], reads: Sequence[Any], gives: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        inside = self._program.replace(constvars=[], invars=[*self._program.constvars, *reads], outvars=list(gives), eqns=steps)
        return jaxpr_as_fun(ClosedJaxpr(inside, ()))(*self._constants, *values)

    @property
    def saved(self) -> float:
        """The early half's share of all multiplications in matrix products, 0 to 1; a loop of unknown length counts as one turn."""
        early, late = _multiplications(self._early), _multiplications(self._late)
        return early / max(early + late, 1)


def _variables(atoms: Iterable[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _multiplications(steps: Iterable[Any]) -> int:
    total = 0
    for step in steps:
        if step.primitive.name == "dot_general":
            (contracted, _), _ = step.params["dimension_numbers"]
            total += math.prod(step.outvars[0].aval.shape) * math.prod(step.invars[0].aval.shape[i] for i in contracted)
        held = [part for value in step.params.values() for part in (value if isinstance(value, tuple) else (value,)) if hasattr(part, "eqns")]
        total += step.params.get("length", 1) * sum(_multiplications(part.eqns) for part in held)
    return total
