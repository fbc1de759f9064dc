"""Many sources over one target's rows: each batch is on the device once, and every source passes over it before the next batch comes.

    S_j = Σ_batches s(f_j, batch)          GraNd_j = Σ_batches ‖∇_θ L(θ_j; batch)‖₂,   the same of one block's parameters alone

θ_j comes from its row, in a file or in memory, when it is needed and is forgotten after: there is one delta on the device at a time, whatever
their number, and the sums lie on the host.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64

from deltas.errors import InputError
from deltas.evaluation import Exam, batch_of, plans_of
from deltas.functional import Attached
from subspace.ensembling import closeness
from subspace.ensembling.blocks import blocks_of
from subspace.rows import Given, Rows, as_rows

ROWS_AT_ONCE = 64
Values = Float64[np.ndarray, " N"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Judged:
    """What N sources are to a target's rows: `scores` by name ("loss", "el2n", "cosine", and "kl" where there was a reference), sums over
    `tokens` target tokens; `grand`, the sum of gradient norms, and the same by block."""

    scores: Mapping[str, Values]
    tokens: int
    grand: Values | None = None
    blocks: Mapping[str, Values] | None = None


def judge(
    attached: Attached, rows: Given, exam: Exam, *, reference: Float32[np.ndarray, " D"] | None = None, rows_at_once: int = ROWS_AT_ONCE,
    gradients: int = 0, gradient_rows: int = 8, on_progress: Callable[[int], None] | None = None,
) -> Judged:
    """Scores of the sources θ0 + x_j on an exam.

    Args:
        rows: x_j = θ_j − θ0, float32 [N, D]: vectors, files or `Rows`.
        exam: the target's dev rows.
        reference: θ − θ0 of a delta tuned on the target's few rows, for "kl".
        rows_at_once: of a batch; its activations are what memory goes to.
        gradients: batches for GraNd, at most, of `gradient_rows` rows each; 0 leaves it out.
        on_progress: told how many sources have passed over one batch more.

    Raises:
        InputError: no source, or sources of another size than the delta's.
    """
    rows = as_rows(rows)
    if rows.size != attached.layout.size:
        raise InputError(f"expected sources of {attached.layout.size} numbers, as {attached.label} has them, got {rows.size}; use the bank that "
                         "the delta type is from")
    tell, totals = on_progress or (lambda done: None), {}
    for batch in batches_of(exam, rows_at_once):
        known = None if reference is None else _logits(attached)(attached.theta0 + reference, attached.frozen, batch)
        found = _each(attached, rows, lambda theta, batch=batch, known=known: _passing(attached)(theta, attached.frozen, batch, known))
        totals = {name: totals.get(name, 0.0) + value for name, value in found.items()}
        tell(len(rows))
    tokens = totals.pop("tokens")[0]
    if not gradients:
        return Judged(scores=totals, tokens=int(tokens))
    names, squares = list(blocks_of(attached.layout)), []
    for batch in _in_order(exam, gradient_rows, gradients):
        squares.append(_each(attached, rows, lambda theta, batch=batch: _steepness(attached)(theta, attached.frozen, batch)))
        tell(len(rows))
    blocks = {name: np.sum([np.sqrt(found[name]) for found in squares], axis=0) for name in names}
    whole = np.sum([np.sqrt(np.sum([found[name] for name in names], axis=0)) for found in squares], axis=0)
    return Judged(scores=totals, tokens=int(tokens), grand=whole, blocks=blocks)


def batches_of(exam: Exam, rows_at_once: int = ROWS_AT_ONCE) -> list[dict[str, jax.Array]]:
    """All rows of an exam once, on the device, with the tables of its labels; rows that only fill up a batch do not count."""
    width, tables = exam.encoded.target_ids.shape[1], exam.encoded.tables
    return [{name: jnp.asarray(value) for name, value in {**batch_of(exam.encoded, rows, length, width, valid), **tables}.items()}
            for length, rows, valid in plans_of([exam], rows_at_once)[0]]


def _in_order(exam: Exam, size: int, most: int) -> list[dict[str, jax.Array]]:
    """At most `most` batches of `size` rows as they come; of one shape, so that the last rows, too few for a batch, are left out unless they
    are all there are."""
    encoded, count = exam.encoded, len(exam.examples)
    size = min(size, count)
    length, width = encoded.input_ids.shape[1], encoded.target_ids.shape[1]
    return [{name: jnp.asarray(value) for name, value in {
        **batch_of(encoded, np.arange(start, start + size), length, width), **encoded.tables}.items()}
        for start in range(0, count - size + 1, size)][:most]


def _each(attached: Attached, rows: Rows, of: Callable[[Any], Mapping[str, jax.Array]]) -> dict[str, Values]:
    """What `of` says of each θ_j, by name."""
    found: list[Mapping[str, np.ndarray]] = []
    for n in range(len(rows)):
        found.append({name: np.asarray(value, np.float64) for name, value in of(attached.theta0 + rows[n]).items()})
    return {name: np.array([one[name] for one in found]) for name in found[0]}


@functools.lru_cache(maxsize=16)
def _passing(attached: Attached) -> Any:
    @jax.jit
    def step(theta: Any, frozen: Any, batch: Any, reference: Any) -> dict[str, jax.Array]:
        return closeness.sums(attached.logits(theta, frozen, batch), batch["target_ids"], batch["target_mask"], reference)

    return step


@functools.lru_cache(maxsize=16)
def _logits(attached: Attached) -> Any:
    return jax.jit(attached.logits)


@functools.lru_cache(maxsize=16)
def _steepness(attached: Attached) -> Any:
    blocks = blocks_of(attached.layout)

    @jax.jit
    def step(theta: Any, frozen: Any, batch: Any) -> dict[str, jax.Array]:
        gradient = attached.layout.unflatten(jax.grad(attached.loss)(theta, frozen, batch))
        return {block: _square(gradient, names) for block, names in blocks.items()}

    return step


def _square(gradient: Mapping[str, jax.Array], names: Sequence[str]) -> jax.Array:
    return jnp.sum(jnp.stack([jnp.sum(jnp.square(gradient[name])) for name in names]))


