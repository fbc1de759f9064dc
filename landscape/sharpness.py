"""How much a function rises around a point: at the worst within a ball, and on average over its sphere.

    worst     max over ‖ε‖ ≤ ρ of f(x + ε) − f(x)             by normalised ascent, projected to the ball:
              ε ← Π_ρ(ε + α ∇f(x + ε) / ‖∇f(x + ε)‖),  α = ρ at first and halved where f does not rise;  from ε = 0 the first step is SAM's
    average   E[f(x + ε)] − f(x),  ε uniform on ‖ε‖ = ρ, or ε ~ N(0, ρ²/n I)
    scaled    ‖ε / s‖ ≤ ρ in place of ‖ε‖ ≤ ρ; with s = |x| it does not change where one weight is scaled up and the next down

What is found of the worst is a lower bound of it: there is a point in the ball where f is that much higher. At a minimum the worst is about
ρ² λ₁ / 2 and the average ρ² tr H / (2n).

Source: worst and its first step: Foret et al. 2021, arXiv 2010.01412; more steps: Madry et al. 2018, arXiv 1706.06083; scaled: Kwon et al. 2021,
arXiv 2102.11600; average beside worst: Andriushchenko et al. 2023, arXiv 2302.07011.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64

from deltas.errors import InputError
from landscape.curvature import student

Slope = Callable[[np.ndarray], tuple[Any, Any]]
"""x [n] ↦ (f(x), ∇f(x) [n]), as `jax.value_and_grad(f)` is."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Worst:
    """The highest rise found within a ball, and where.

    Args:
        value: f(x + ε) − f(x), at least 0.
        first: the same after SAM's one step.
        epsilon: ε [n].
        radius: ρ.
        rises: the highest so far after every step.
    """

    value: float
    first: float
    epsilon: Float[np.ndarray, " n"]
    radius: float
    rises: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Average:
    """The mean rise around a point with its 95 % interval over draws, each of which is a pair ±ε."""

    value: float
    low: float
    high: float
    draws: int
    radius: float


def worst_case(slope: Slope, x: Float[np.ndarray, " n"], radius: float, *, steps: int = 10, relative: bool = False,
               scale: Float[np.ndarray, " n"] | None = None, seed: int = 0, on_step: Callable[[int], None] | None = None) -> Worst:
    """The highest rise of a function within a ball.

    Args:
        slope: x ↦ (f(x), ∇f(x)).
        radius: ρ, in units of x, or of ‖x‖ where `relative`.
        steps: evaluations of `slope` beside that at x.
        scale: s ≥ 0, how far each number may go; those of scale 0 stay. None is 1 for all.
        seed: of the direction that is taken where the gradient is 0.
        on_step: told the number of evaluations done.

    Raises:
        InputError: no radius or step, a scale of another size or with `relative`, or a function that is not finite in the ball.

    Example:
        found = landscape.worst_case(jax.jit(jax.value_and_grad(loss)), z, 0.5)
    """
    if steps < 1:
        raise InputError(f"expected at least one step up, got {steps}; 10 are usual")
    x, free, rho = _ball(x, radius, relative, scale)
    rng, far, reach, highest, rises, first = np.random.default_rng([seed, 26]), np.zeros(len(x)), rho, 0.0, [], 0.0
    start, up = _finite(slope, x)
    for step in range(1, steps + 1):
        uphill = free * up
        while not (length := np.linalg.norm(uphill)):
            uphill = free * rng.standard_normal(len(x))
        ahead = far + reach * uphill / length
        ahead *= min(1.0, rho / np.linalg.norm(ahead))
        value, slope_there = _finite(slope, x + free * ahead)
        first = value - start if step == 1 else first
        if value - start > highest:
            far, highest, up = ahead, value - start, slope_there
        else:
            reach /= 2
        rises.append(highest)
        if on_step is not None:
            on_step(step + 1)
    return Worst(value=highest, first=first, epsilon=(free * far).astype(np.float32), radius=rho, rises=tuple(rises))


def average_case(f: Callable[[np.ndarray], Any], x: Float[np.ndarray, " n"], radius: float, *, draws: int = 16,
                 over: Literal["sphere", "gaussian"] = "sphere", relative: bool = False, scale: Float[np.ndarray, " n"] | None = None,
                 seed: int = 0, on_step: Callable[[int], None] | None = None) -> Average:
    """The mean rise of a function around a point.

    Args:
        f: x ↦ f(x).
        draws: of pairs ±ε, so that the slope at x cancels; f is evaluated twice a draw.
        over: the sphere of radius ρ, or a Gaussian of E‖ε‖² = ρ².
        radius, relative, scale, on_step: see `worst_case`. seed: of the draws.

    Raises:
        InputError: fewer than 2 draws, which have no interval, another `over`, and as `worst_case`.
    """
    if draws < 2:
        raise InputError(f"expected at least 2 draws for an interval of the mean, got {draws}; 16 are usual")
    if over not in ("sphere", "gaussian"):
        raise InputError(f"expected an average over a 'sphere' or a 'gaussian', got {over!r}; choose one of them")
    x, free, rho = _ball(x, radius, relative, scale)
    rng, found, moving = np.random.default_rng([seed, 27]), [], free > 0
    start, _ = _finite(lambda at: (f(at), 0.0), x)
    for draw in range(1, draws + 1):
        eta = rng.standard_normal(len(x)) * moving
        eta *= rho / (np.linalg.norm(eta) if over == "sphere" else math.sqrt(np.sum(np.broadcast_to(moving, x.shape))))
        found.append(sum(_finite(lambda at: (f(at), 0.0), x + sign * free * eta)[0] for sign in (1, -1)) / 2 - start)
        if on_step is not None:
            on_step(2 * draw + 1)
    mean, half = (float(number) for number in student(np.array(found)))
    return Average(value=mean, low=mean - half, high=mean + half, draws=draws, radius=rho)


def _ball(x: Any, radius: float, relative: bool, scale: Any) -> tuple[Float64[np.ndarray, " n"], Any, float]:
    """x, the scale of each number or 1 for all, and the radius in units of x."""
    x = np.asarray(x, np.float64)
    if scale is not None and (relative or np.shape(scale) != x.shape or not np.any(scale) or np.min(scale) < 0):
        what = "a relative radius too" if relative else f"shape {np.shape(scale)}, zeros or negative numbers"
        raise InputError(f"expected a scale for each of {len(x)} numbers, some above 0, and an absolute radius, got {what}; pass |x| for one")
    rho = float(radius) * (float(np.linalg.norm(x)) if relative else 1.0)
    if not (math.isfinite(rho) and rho > 0):
        raise InputError(f"expected a ball of a radius above 0, got {rho:g}{' of a point of length 0' if relative else ''}; choose another")
    return x, np.float64(1) if scale is None else np.asarray(scale, np.float64), rho


def _finite(slope: Slope, x: Float64[np.ndarray, " n"]) -> tuple[float, Float64[np.ndarray, " n"]]:
    value, gradient = slope(x)
    value, gradient = float(value), np.asarray(gradient, np.float64)
    if not (math.isfinite(value) and np.isfinite(gradient).all()):
        raise InputError(f"expected a function that is finite in the ball, got {value:g}; choose a smaller radius, or another point")
    return value, gradient
