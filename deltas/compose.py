"""Several solutions on one backbone: carried together, merged into its weights, or each row of a batch with its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deltas.attach import attach, merge, own
from deltas.backbones.loading import Backbone
from deltas.bank import Solution
from deltas.errors import InputError
from deltas.files import sha256
from deltas.functional import Attached


def carrying(backbone: Backbone, *solutions: Solution) -> Backbone:
    """The backbone with the solutions attached, in this order; it shares the weights, and has a fingerprint of its own.

    Whatever is trained on it leaves the solutions as they are, and belongs to the backbone that carries them.

    Example:
        both = deltas.carrying(backbone, prefix, lora)
    """
    module = own(backbone.module)
    for number, solution in enumerate(solutions):
        if solution.backbone != backbone.fingerprint:
            raise InputError(f"expected a solution of backbone {backbone.fingerprint}, got {solution.task} of backbone {solution.backbone}; "
                             "use the backbone it was trained with")
        attach(module, solution, name=f"{number}-{solution.label}")
    return replace(backbone, module=module, fingerprint=_print(backbone, solutions))


def merged(backbone: Backbone, *solutions: Solution) -> Backbone:
    """The backbone with the solutions written into its weights, one after the other: as fast as without them.

    Raises:
        InputError: a solution of another backbone, or of a type that is no change of weights.

    Example:
        deltas.merged(backbone, solution).logits(batch)
    """
    found = carrying(backbone, *solutions)
    for number, solution in enumerate(solutions):
        merge(found.module, f"{number}-{solution.label}")
    return found


def _print(backbone: Backbone, solutions: Sequence[Solution]) -> str:
    whole = [text for s in solutions for text in (str(s.config.to_json()), s.theta0_fingerprint, np.asarray(s.vector).tobytes())]
    return sha256(backbone.fingerprint, *whole)


def logits_by_row(backbone: Backbone, batch: Mapping[str, Any], solutions: Sequence[Solution | None]) -> jax.Array:
    """Float32 logits of a batch of which row i is read with solution i, None for the backbone alone.

    The weights are read once for all rows of one type: each row brings its own θ only. Rows of different types run after one another.
    """
    wanted = backbone.inputs(batch)
    if len(solutions) != len(wanted[0]):
        raise InputError(f"expected a solution or None for each of the {len(wanted[0])} rows, got {len(solutions)}; give one a row")
    groups: dict[str, list[int]] = {}
    for row, solution in enumerate(solutions):
        groups.setdefault("" if solution is None else f"{solution.config.to_json()} {solution.theta0_fingerprint}", []).append(row)
    parts, rows = [], []
    for members in groups.values():
        arrays, first = [a[jnp.asarray(members)] for a in wanted], solutions[members[0]]
        if first is None:
            parts.append(backbone.logits(dict(zip(backbone.wanted, arrays, strict=True))))
        else:
            attached = Attached.of(backbone, first.config, theta0=first.theta0)
            for row in members:
                attached.check(solutions[row])
            thetas = jnp.asarray(np.stack([solution.theta for row in members if (solution := solutions[row]) is not None]))
            parts.append(_by_row(attached.graphdef, attached.state(thetas), attached.frozen, *arrays))
        rows += members
    return jnp.concatenate(parts)[jnp.argsort(jnp.asarray(rows))]


@jax.jit(static_argnums=0)
def _by_row(graphdef: Any, deltas: Any, frozen: Any, *arrays: jax.Array) -> jax.Array:
    return jax.vmap(lambda delta, *row: nnx.merge(graphdef, delta, frozen)(*(a[None] for a in row))[0])(deltas, *arrays)
