"""Paths between two solutions: straight, and curves of low loss.

    straight     φ(t) = (1 − t) a + t b
    Bézier       φ(t) = Σ_i C(n, i) (1 − t)^(n−i) t^i p_i            p_0 = a, p_n = b, the n − 1 bends between them are trained
    polygonal    straight from p_i to p_i+1, each an equal part of t
    bends        min over p_1 … p_n−1 of E_t[ f(φ(t)) ],  t uniform on [0, 1], a draw a step
    barrier      max_t [ f(φ(t)) − ((1 − t) f(a) + t f(b)) ]         0 where the path nowhere rises above the line between its ends

A point may be a code z shared by several types, a delta's θ, or weights; `f` is then the loss there. A barrier is of the points that were looked
at: `f` at `points` places of t, of which the ends are two.

Source: curves: Garipov et al. 2018, arXiv 1802.10026; the barrier over the line between the ends: Frankle et al. 2020, arXiv 1912.05671.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Float64

from deltas.errors import InputError

Kind = Literal["straight", "bezier", "polygonal"]
KINDS = ("straight", "bezier", "polygonal")


@dataclass(frozen=True, eq=False, kw_only=True)
class Path:
    """A path by its `knots` [n + 1, D], ends first and last; a straight one has two."""

    kind: Kind
    knots: Float[np.ndarray, "n+1 D"]
    history: tuple[Mapping[str, float], ...] = field(default=())
    """What the training of the bends logged."""

    def at(self, t: Float[np.ndarray, " points"]) -> Float64[np.ndarray, "points D"]:
        """The points φ(t)."""
        return weights(self.kind, np.asarray(t, np.float64), len(self.knots) - 1) @ self.knots.astype(np.float64)

    def length(self, points: int = 1001) -> float:
        """How long it is, as a polygon of so many points."""
        return float(np.linalg.norm(np.diff(self.at(np.linspace(0, 1, points)), axis=0), axis=1).sum())

    @property
    def detour(self) -> float:
        """Its length in units of the distance between its ends."""
        return self.length() / max(float(np.linalg.norm(self.knots[-1] - self.knots[0])), 1e-300)


@dataclass(frozen=True, eq=False, kw_only=True)
class Bent:
    """A curve in training, after some steps: its bends and Adam's two moments of each."""

    step: int
    middle: Float[np.ndarray, "bends D"]
    first: Float[np.ndarray, "bends D"]
    second: Float[np.ndarray, "bends D"]
    history: tuple[Mapping[str, float], ...] = field(default=())


def weights(kind: Kind, t: Any, n: int, xp: Any = np) -> Any:
    """What each of the n + 1 knots counts at t: [points, n + 1]; of numpy, or of `jax.numpy` as `xp`."""
    t = t[..., None]
    if kind == "bezier":
        order = np.arange(n + 1)
        return np.array([math.comb(n, i) for i in order]) * (1 - t) ** (n - order) * t**order
    return xp.maximum(0.0, 1 - abs(t * n - np.arange(n + 1)))


def straight(a: Float[np.ndarray, " D"], b: Float[np.ndarray, " D"]) -> Path:
    """The line from a to b."""
    return Path(kind="straight", knots=_ends(a, b))


def connected(
    f: Callable[[jax.Array, Any], jax.Array], a: Float[np.ndarray, " D"], b: Float[np.ndarray, " D"], batches: Callable[[int], Any], *,
    kind: Literal["bezier", "polygonal"] = "bezier", bends: int = 1, steps: int = 300, learning_rate: float = 0.02, seed: int = 0,
    on_step: Callable[[int, float], None] | None = None, earlier: Bent | None = None, on_tenth: Callable[[Bent], None] | None = None,
) -> Path:
    """A curve of low loss from a to b: its bends are trained, its ends stay.

    Args:
        f: (a point [D], a batch) ↦ the loss, in JAX; the same function is compiled once, so large constants belong in the batch.
        batches: step ↦ the batch of that step; a constant function for a loss of no data.
        kind, bends: the curve, and how many knots it has between its ends. They start on the line.
        steps, learning_rate: of Adam; the rate is a share of the distance between the ends over the square root of its dimensions, so that
            one serves points of any size.
        seed: of t.
        on_step: told (steps done, the loss of the last).
        earlier, on_tenth: `on_tenth` is given the state after every tenth of the steps; as `earlier`, with all else the same, it is gone on
            from, to the same curve.

    Returns:
        The path with the bends of the last step; `history` has the mean loss of every tenth of the steps.

    Raises:
        InputError: ends of different sizes or in one place, no bend or step, or a loss that is not finite on the line.

    Example:
        path = landscape.connected(lambda z, batch: loss(decode(z), batch), z_a, z_b, batches)
    """
    ends = _ends(a, b)
    if kind not in ("bezier", "polygonal"):
        raise InputError(f"expected a curve 'bezier' or 'polygonal', got {kind!r}; choose one of them")
    if bends < 1 or steps < 1:
        raise InputError(f"expected at least one bend and one step, got {bends} and {steps}; raise them")
    rate = jnp.float32(learning_rate * float(np.linalg.norm(ends[1] - ends[0])) / math.sqrt(ends.shape[1]))
    step, start = _stepper(f, kind, bends + 1)
    outer, now = jnp.asarray(ends, jnp.float32), earlier or _on_the_line(ends, bends)
    middle, state, seen, history = jnp.asarray(now.middle, jnp.float32), start(now), [], list(now.history)
    t, every = np.random.default_rng([seed, 24]).random(steps), max(1, steps // 10)
    for done in range(now.step + 1, steps + 1):
        middle, state, value = step(middle, state, outer, jnp.float32(t[done - 1]), rate, batches(done - 1))
        seen.append(float(value))
        if not math.isfinite(seen[-1]):
            raise InputError(f"expected a finite loss between the ends, got {seen[-1]} at step {done}; lower the learning rate, or choose ends "
                             "between which the loss is finite")
        if done % every == 0:
            history.append({"step": done, "loss": float(np.mean(seen))})
            seen = []
            if on_tenth is not None:
                on_tenth(Bent(step=done, middle=np.asarray(middle), first=np.asarray(state.mu), second=np.asarray(state.nu),
                              history=tuple(history)))
        if on_step is not None:
            on_step(done, float(value))
    return Path(kind=kind, knots=np.concatenate([ends[:1], np.asarray(middle, ends.dtype), ends[1:]]), history=tuple(history))


def _on_the_line(ends: np.ndarray, bends: int) -> Bent:
    middle = (weights("polygonal", np.linspace(0, 1, bends + 2)[1:-1], 1) @ ends).astype(np.float32)
    return Bent(step=0, middle=middle, first=np.zeros_like(middle), second=np.zeros_like(middle), history=())


@functools.lru_cache(maxsize=8)
def _stepper(f: Callable[[jax.Array, Any], jax.Array], kind: Kind, n: int) -> tuple[Callable[..., Any], Callable[[Bent], Any]]:
    """One step of Adam on the bends of a curve of n + 1 knots, and its state from what was kept."""
    optimizer = optax.scale_by_adam()

    @jax.jit
    def step(middle: jax.Array, state: Any, ends: jax.Array, t: jax.Array, rate: jax.Array, batch: Any) -> tuple[jax.Array, Any, jax.Array]:
        def loss(middle: jax.Array) -> jax.Array:
            return f((weights(kind, t, n, jnp) @ jnp.concatenate([ends[:1], middle, ends[1:]])).reshape(-1), batch)

        value, slope = jax.value_and_grad(loss)(middle)
        updates, state = optimizer.update(slope, state)
        return middle - rate * updates, state, value  # type: ignore[operator]

    def start(now: Bent) -> Any:
        state = optimizer.init(jnp.asarray(now.middle, jnp.float32))
        return state._replace(count=jnp.asarray(now.step, jnp.int32), mu=jnp.asarray(now.first), nu=jnp.asarray(now.second))  # type: ignore[attr-defined]

    return step, start


@dataclass(frozen=True, eq=False, kw_only=True)
class Profile:
    """What a function is along a path: values at t, and how far they rise above the line between the ends."""

    t: Float64[np.ndarray, " points"]
    values: Float64[np.ndarray, " points"]

    @property
    def rise(self) -> Float64[np.ndarray, " points"]:
        """f(φ(t)) − ((1 − t) f(a) + t f(b))."""
        return self.values - ((1 - self.t) * self.values[0] + self.t * self.values[-1])

    @property
    def barrier(self) -> float:
        """The highest rise, at least 0; infinite where some value is not finite."""
        return float(np.max(self.rise, initial=0.0)) if np.isfinite(self.values).all() else math.inf


def profile(evaluate: Callable[[np.ndarray], Any], path: Path, *, points: int = 21) -> Profile:
    """A function along a path.

    Args:
        evaluate: points [M, D] ↦ values [M].

    Raises:
        InputError: fewer than 3 points, which have nothing between the ends.
    """
    if points < 3:
        raise InputError(f"expected at least 3 points on a path, got {points}; 21 are usual")
    t = np.linspace(0, 1, points)
    return Profile(t=t, values=np.asarray(evaluate(path.at(t).astype(path.knots.dtype)), np.float64))


def _ends(a: Any, b: Any) -> Float[np.ndarray, "2 D"]:
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"expected two points of one size to join, got shapes {a.shape} and {b.shape}; choose points of one space")
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or np.array_equal(a, b):
        raise InputError("expected two different finite points to join, got the same or one that is not finite; choose others")
    return np.stack([a, b]).astype(np.float32 if a.dtype != np.float64 else np.float64)
