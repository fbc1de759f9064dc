"""How a function bends at a point: eigenvalues, trace and density of its Hessian, or of its Gauss-Newton matrix, from products alone.

    H v = ∂/∂ε ∇f(x + ε v)                    one gradient and its derivative along v; H is not formed
    G v = Jᵀ ∇²ℓ(y) J v,   f = ℓ ∘ g, y = g(x), J = ∂g/∂x       never negative where ℓ is convex, as cross-entropy of logits is
    trace   E[vᵀ H v] = tr H for v of random signs                                                                   Hutchinson
    density of eigenvalues   (1/P) Σ_v Σ_i τ_vi² N(λ; θ_vi, σ²)       θ, τ of the tridiagonal matrices of Lanczos     stochastic quadrature

The point x may be a code z ∈ R^k, where the whole matrix is small (`matrix_of`), a delta's θ or a backbone's weights. Products are computed in
the precision of x; what is made of them is float64.

Source: Pearlmutter 1994 (products); Lanczos 1950, with full reorthogonalisation; Hutchinson 1990; Ubaru, Chen and Saad 2017 (quadrature);
Schraudolph 2002 (Gauss-Newton products).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64

from deltas.errors import InputError

Product = Callable[[Any], Any]
"""v [n] ↦ H v [n]."""
BREAKDOWN = 1e-7
"""A Lanczos vector below this share of the matrix's size is rounding: the space it spans is closed."""


def hessian(f: Callable[[jax.Array], jax.Array], x: Any) -> Product:
    """v ↦ ∇²f(x) v of a scalar function of a vector, compiled once.

    Example:
        top = landscape.eigenvalues(landscape.hessian(loss, z), len(z), 3)
    """
    at, gradient = jnp.asarray(x), jax.grad(f)
    run = jax.jit(lambda at, v: jax.jvp(gradient, (at,), (v,))[1])
    return lambda v: run(at, jnp.asarray(v, at.dtype))


def gauss_newton(g: Callable[[jax.Array], Any], outer: Callable[[Any], jax.Array], x: Any) -> Product:
    """v ↦ Jᵀ ∇²ℓ(g(x)) J v for f = ℓ ∘ g.

    Args:
        g: what the network gives out, an array or several.
        outer: ℓ, the loss of that.
    """
    at = jnp.asarray(x)

    def product(at: jax.Array, v: jax.Array) -> jax.Array:
        y, pushed = jax.jvp(g, (at,), (v,))
        bent = jax.jvp(jax.grad(outer), (y,), (pushed,))[1]
        return jax.vjp(g, at)[1](bent)[0]

    run = jax.jit(product)
    return lambda v: run(at, jnp.asarray(v, at.dtype))


def matrix_of(product: Product, size: int) -> Float64[np.ndarray, "n n"]:
    """The whole matrix, a column a product; symmetric but for rounding, which is averaged away."""
    columns = np.stack([np.asarray(product(row), np.float64) for row in np.eye(size)])
    return (columns + columns.T) / 2


@dataclass(frozen=True, eq=False, kw_only=True)
class Tridiagonal:
    """What Lanczos makes of a matrix: diagonal [m], off-diagonal [m − 1], and the orthonormal vectors [m, n]."""

    diagonal: Float64[np.ndarray, " m"]
    beside: Float64[np.ndarray, " m-1"]
    vectors: Float[np.ndarray, "m n"]
    residual: float
    """The length of what the next vector would have been: 0 where the space is closed, and everything found in it exact."""

    def eigen(self) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, "m m"]]:
        """Eigenvalues, falling, and eigenvectors as columns in the Lanczos vectors."""
        from scipy.linalg import eigh_tridiagonal

        values, vectors = eigh_tridiagonal(self.diagonal, self.beside)
        return values[::-1], vectors[:, ::-1]


def lanczos(product: Product, start: Float[np.ndarray, " n"], steps: int) -> Tridiagonal:
    """The matrix in the Krylov space of `start`, orthonormal to rounding: each new vector is made orthogonal to all before it, twice.

    Args:
        steps: m; fewer where the space closes earlier. m vectors of n numbers are held, in the precision of `start`.

    Raises:
        InputError: a product that is not finite.
    """
    *_, last = growing(product, start, steps)
    return last


def growing(product: Product, start: Float[np.ndarray, " n"], steps: int) -> Iterator[Tridiagonal]:
    """The same after every step, for who wants to stop early: a product a step, none of them twice."""
    steps = min(steps, len(start))
    vectors = np.empty((steps, len(start)), start.dtype)
    vectors[0] = start / np.linalg.norm(start)
    diagonal, beside, size = [], [], 0.0
    for m in range(steps):
        found = np.asarray(product(vectors[m]), np.float64)
        if not np.isfinite(found).all():
            raise InputError("expected a finite curvature, got NaN or infinity; choose a point where the loss is finite")
        diagonal.append(float(found @ vectors[m]))
        size = max(size, float(np.linalg.norm(found)))
        for _ in range(2):
            found -= (vectors[: m + 1] @ found) @ vectors[: m + 1]
        length = float(np.linalg.norm(found))
        closed = length <= BREAKDOWN * size
        yield Tridiagonal(diagonal=np.array(diagonal), beside=np.array(beside), vectors=vectors[: m + 1], residual=0.0 if closed else length)
        if closed:
            return
        if m + 1 < steps:
            beside.append(length)
            vectors[m + 1] = found / length


@dataclass(frozen=True, eq=False, kw_only=True)
class Eigen:
    """The leading eigenvalues by size [m], their unit eigenvectors [m, n], and ‖H u − λ u‖ of each, an upper bound of its error."""

    values: Float64[np.ndarray, " m"]
    vectors: Float[np.ndarray, "m n"]
    errors: Float64[np.ndarray, " m"]


def eigenvalues(product: Product, size: int, count: int, *, steps: int | None = None, tolerance: float = 1e-4, seed: int = 0) -> Eigen:
    """The `count` eigenvalues of largest absolute value.

    The Krylov space grows until every one is good to `tolerance` of the largest, at most to `steps` vectors.

    Args:
        size: n.
        steps: None is all n, or 100 of a larger matrix.
        seed: of the start.

    Raises:
        InputError: a count beyond the size.

    Example:
        found = landscape.eigenvalues(landscape.hessian(loss, z), len(z), 3)
    """
    if not 1 <= count <= size:
        raise InputError(f"expected between 1 and {size} eigenvalues of a matrix of {size} rows, got {count}; choose another number")
    most = min(size, max(steps or 100, count))
    start = np.random.default_rng([seed, 20]).standard_normal(size).astype(_precision(size))
    for found in growing(product, start, most):
        m, closed = len(found.diagonal), not found.residual
        # in the first steps a value may look settled while a larger one has not shown itself
        if not closed and m < most and (m < max(2 * count + 10, 20) or m % 5):
            continue
        values, mixes = found.eigen()
        order = np.argsort(-np.abs(values), kind="stable")[:count]
        errors = found.residual * np.abs(mixes[-1, order])
        if closed or m == most or errors.max(initial=0.0) <= tolerance * np.abs(values).max():
            return Eigen(values=values[order], vectors=(mixes[:, order].T @ found.vectors).astype(start.dtype), errors=errors)
    raise AssertionError  # the last step returns


def eigenvalues_of(matrix: Float64[np.ndarray, "n n"]) -> Eigen:
    """All eigenvalues of a whole symmetric matrix, by size; the errors are 0 but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(-np.abs(values), kind="stable")
    return Eigen(values=values[order], vectors=vectors.T[order], errors=np.zeros(len(values)))


def _precision(size: int) -> type:
    return np.float32 if size > 10_000 else np.float64


@dataclass(frozen=True, kw_only=True)
class Traced:
    """An estimate with its 95 % interval over probes."""

    value: float
    low: float
    high: float
    probes: int


def trace(product: Product, size: int, *, probes: int = 32, seed: int = 0) -> Traced:
    """tr H by Hutchinson's estimate over vectors of random signs, with Student's interval over the probes.

    Raises:
        InputError: fewer than 2 probes, which have no interval.
    """
    if probes < 2:
        raise InputError(f"expected at least 2 probes for an interval of the trace, got {probes}; 32 are usual")
    rng = np.random.default_rng([seed, 21])
    found = []
    for _ in range(probes):
        v = rng.choice([-1.0, 1.0], size)
        found.append(float(v @ np.asarray(product(v), np.float64)))
    mean, half = (float(number) for number in student(np.array(found)))
    return Traced(value=mean, low=mean - half, high=mean + half, probes=probes)


def student(values: Float64[np.ndarray, "n ..."]) -> tuple[Any, Any]:
    """The mean over the first axis and half the width of Student's 95 % interval of it; NaN of a single value, which has none."""
    from scipy import stats

    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * np.std(values, axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(np.shape(values)[1:], np.nan)
    return np.mean(values, axis=0), half


@dataclass(frozen=True, eq=False, kw_only=True)
class Density:
    """How eigenvalues are spread: the density at `at`, which integrates to 1, and the mass `weights` at the nodes it was smoothed from."""

    at: Float64[np.ndarray, " points"]
    density: Float64[np.ndarray, " points"]
    nodes: Float64[np.ndarray, " nodes"]
    weights: Float64[np.ndarray, " nodes"]
    width: float

    def moment(self, order: int) -> float:
        """The mean of λ^order over all eigenvalues."""
        return float(np.sum(self.weights * self.nodes**order))


def spectral_density(product: Product, size: int, *, probes: int = 8, steps: int = 40, width: float | None = None, points: int = 400,
                     seed: int = 0) -> Density:
    """The density of all eigenvalues, by stochastic Lanczos quadrature.

    Args:
        probes: random starts; steps: Lanczos vectors each.
        width: σ of the Gaussian that every node is smoothed with; None is a hundredth of the range.
        points: where the density is given.
    """
    rng, nodes, weights = np.random.default_rng([seed, 22]), [], []
    for _ in range(probes):
        values, vectors = lanczos(product, rng.choice([-1.0, 1.0], size).astype(_precision(size)), steps).eigen()
        nodes.append(values)
        weights.append(vectors[0] ** 2 / probes)
    return smoothed(np.concatenate(nodes), np.concatenate(weights), width=width, points=points)


def smoothed(nodes: Float64[np.ndarray, " nodes"], weights: Float64[np.ndarray, " nodes"], *, width: float | None = None,
             points: int = 400) -> Density:
    """The density Σ_i w_i N(λ; node_i, σ²); of a whole matrix the nodes are its eigenvalues, of weight 1/n each."""
    sigma = width or max(float(np.ptp(nodes)) / 100, 1e-12 * max(float(np.abs(nodes).max()), 1e-300))
    at = np.linspace(nodes.min() - 4 * sigma, nodes.max() + 4 * sigma, points)
    density = np.exp(-0.5 * ((at[:, None] - nodes) / sigma) ** 2) @ weights / (sigma * np.sqrt(2 * np.pi))
    return Density(at=at, density=density, nodes=nodes, weights=weights, width=sigma)
