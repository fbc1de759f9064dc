"""The mean loss of a task's rows as one smooth function of a point: of z, of a delta's θ, or of the backbone's weights.

    f(x) = Σ_b Σ_i ℓ_bi(θ(x)) / Σ_b tokens_b          batches b, target tokens i; ℓ is the cross-entropy of the token's logits
    z          θ(x) = θ0 + μ + x U of a type, x ∈ R^k
    theta      θ(x) = x ∈ R^D
    weights    W(x) = W + x with the delta attached and still: a `Full` delta beside it, x = 0 at the solution

Values, gradients and curvature products are those of the whole sum: each is added up over the batches, of which one is worked on at a time, so
that the number of rows costs time and no memory. Matrix products are exact to float32 on every device, since curvature is a small difference.

Source: Schraudolph 2002 for the Gauss-Newton matrix Jᵀ H_ℓ J / tokens, here of all tokens' logits.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Float32

from deltas import Full
from deltas.errors import InputError
from deltas.evaluation import Exam, batch_of
from deltas.files import sha256
from deltas.functional import Attached, Batch
from deltas.parallel import forget_programs
from deltas.tasks import Reading, Task, evaluation_batches
from landscape.curvature import Product

if TYPE_CHECKING:
    from deltas.backbones import Backbone

Where = Literal["z", "theta", "weights"]
Constants = tuple[jax.Array, jax.Array] | None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Rows:
    """Fixed rows of a task on the device, in batches of one size."""

    task: str
    split: str
    count: int
    tokens: int
    batches: tuple[Batch, ...]

    @classmethod
    def of(cls, backbone: Backbone, task: Task, split: str = "train", *, rows: int | None = 64, reading: Reading | None = None,
           at_once: int = 64) -> Self:
        """The first `rows` rows (None: all) of a split, `at_once` a batch."""
        reading = reading or Reading()
        exam = Exam.of(backbone, task, split, reading, rows)
        encoded, width = exam.encoded, exam.encoded.target_ids.shape[1]
        tables = {name: jnp.asarray(table) for name, table in encoded.tables.items()}
        batches = tuple(
            {name: jnp.asarray(array) for name, array in batch_of(encoded, chosen, length, width, valid).items()} | tables
            for length, chosen, valid in evaluation_batches(encoded, reading, min(at_once, len(encoded))))
        tokens = int(sum(np.asarray(batch["target_mask"]).sum() for batch in batches))
        if not tokens:
            raise InputError(f"expected rows with answers, got none in the {len(encoded)} of {task.name}'s {split} split; choose other rows")
        return cls(task=task.name, split=split, count=len(encoded), tokens=tokens, batches=batches)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Objective:
    """f of one delta type over fixed rows.

    Args:
        where: the space of x.
        attached: the delta whose θ is x, or is decoded from it.
        rows: what the loss is the mean of.
        size: n, the numbers of x.
        label: the delta type, also where the backbone's weights move.
        constants: offset [D] and basis [k, D] of z.
        origin: what x is added to, where that is not 0: the backbone's weights [n].
    """

    where: Where
    attached: Attached
    rows: Rows
    size: int
    label: str
    constants: Constants = None
    origin: Float32[np.ndarray, " n"] | None = None

    def value(self, x: Any) -> float:
        """f(x)."""
        return float(self._summed("value", x))

    def slope(self, x: Any) -> tuple[float, Float32[np.ndarray, " n"]]:
        """f(x) and ∇f(x)."""
        value, gradient = self._summed("slope", x)
        return float(value), np.asarray(gradient)

    def hessian(self, x: Any) -> Product:
        """v ↦ ∇²f(x) v."""
        return lambda v: np.asarray(self._summed("hessian", x, v))

    def gauss_newton(self, x: Any) -> Product:
        """v ↦ (1/tokens) Σ Jᵀ H_ℓ J v, J of the logits: never negative."""
        return lambda v: np.asarray(self._summed("gauss_newton", x, v))

    def key(self, x: Any) -> str:
        """Another one for another point, space, type, backbone or rows."""
        arrays = [np.asarray(x, np.float32), *(np.asarray(array) for batch in self.rows.batches for array in batch.values())]
        arrays += [np.asarray(array) for array in self.constants or (self.attached.theta0,)]
        about = [self.where, self.label, self.attached.backbone.fingerprint, self.attached.config.to_json(), self.attached.layout.names]
        return sha256(json.dumps(about), *(np.ascontiguousarray(array).tobytes() for array in arrays))

    def reach(self, x: Any) -> float:
        """‖x‖, or ‖W + x‖ of weights: what a relative radius is a share of."""
        return float(np.linalg.norm(np.asarray(x, np.float64) + (0.0 if self.origin is None else self.origin)))

    def _summed(self, what: str, x: Any, *more: Any) -> Any:
        if np.shape(x) != (self.size,):
            raise InputError(f"expected a point of {self.size} numbers in {self.where} of {self.label}, got shape {np.shape(x)}; pass another")
        forget_programs()
        run = _compiled(self.attached, self.constants is not None)[what]
        vectors = [jnp.asarray(v, jnp.float32) for v in (x, *more)]
        total: Any = None
        for batch in self.rows.batches:
            part = run(*vectors, self.constants, self.attached.frozen, batch)
            total = part if total is None else jax.tree.map(jnp.add, total, part)
        return jax.tree.map(lambda array: array / self.rows.tokens, total)


def in_z(space: Any, attached: Attached, rows: Rows) -> Objective:
    """f of z through one type of a subspace, attached by `subspace.optimize.attach_to`.

    Example:
        rows = landscape.Rows.of(backbone, task, "train", rows=64)
        f = landscape.in_z(space, subspace.optimize.attach_to(space, backbone, "lora"), rows)
        whole = landscape.matrix_of(f.hessian(found.z), f.size)
    """
    part = space.part(attached.label)
    constants = (jnp.asarray(part.offset), jnp.asarray(part.basis, jnp.float32))
    return Objective(where="z", attached=attached, rows=rows, size=space.k, label=attached.label, constants=constants)


def in_theta(attached: Attached, rows: Rows) -> Objective:
    """f of a delta's own θ ∈ R^D."""
    return Objective(where="theta", attached=attached, rows=rows, size=attached.layout.size, label=attached.label)


def in_weights(attached: Attached, theta: Float[np.ndarray, " D"], rows: Rows, *, sites: Sequence[str] = ()) -> Objective:
    """f of the backbone's weights around a solution: x ∈ R^n is added to them, and the delta stays where it is, at θ.

    Any type will do, also one that no weights can take in.

    Args:
        sites: whose weights move, as a `Full` delta has them; none are all.

    Raises:
        InputError: sites that match nothing.
    """
    frozen = jnp.asarray(theta, jnp.float32)
    name = sha256(attached.backbone.fingerprint, attached.label, np.asarray(frozen).tobytes())
    carried = dataclasses.replace(attached.backbone, module=attached.module(frozen, attached.frozen), fingerprint=name)
    moved = Attached.of(carried, Full(sites=tuple(sites), label=f"{attached.label}-weights"))
    return Objective(where="weights", attached=moved, rows=rows, size=moved.layout.size, label=attached.label, origin=_weights(moved))


def _weights(moved: Attached) -> Float32[np.ndarray, " n"]:
    """The weights that a `Full` delta is added to, in its order."""
    from flax import nnx

    own = {path: variable[...] for path, variable in nnx.to_flat_state(moved.frozen)}
    places = [(*path[: path.index("attached")], path[-1]) for path in moved.paths]
    return np.concatenate([np.asarray(own[place], np.float32).ravel() for place in places])


@functools.lru_cache(maxsize=32)
def _compiled(attached: Attached, coded: bool) -> Mapping[str, Callable[..., Any]]:
    """Value, slope and products of the sum over one batch; the backbone's arrays are arguments."""

    def theta(x: jax.Array, constants: Constants) -> jax.Array:
        return constants[0] + x @ constants[1] if coded and constants is not None else x

    def outputs(x: jax.Array, constants: Constants, frozen: Any, batch: Batch) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return attached.logits(theta(x, constants), frozen, batch)

    def outer(logits: jax.Array, batch: Batch) -> jax.Array:
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, batch["target_ids"]) * batch["target_mask"])

    def value(x: jax.Array, constants: Constants, frozen: Any, batch: Batch) -> jax.Array:
        return outer(outputs(x, constants, frozen, batch), batch)

    def hessian(x: jax.Array, v: jax.Array, *fixed: Any) -> jax.Array:
        return jax.jvp(lambda at: jax.grad(value)(at, *fixed), (x,), (v,))[1]

    def gauss_newton(x: jax.Array, v: jax.Array, *fixed: Any) -> jax.Array:
        logits, pushed = jax.jvp(lambda at: outputs(at, *fixed), (x,), (v,))
        bent = jax.jvp(jax.grad(lambda y: outer(y, fixed[-1])), (logits,), (pushed,))[1]
        return jax.vjp(lambda at: outputs(at, *fixed), x)[1](bent)[0]

    found = {"value": value, "slope": jax.value_and_grad(value), "hessian": hessian, "gauss_newton": gauss_newton}
    return {name: jax.jit(function) for name, function in found.items()}
