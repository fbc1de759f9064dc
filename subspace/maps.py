"""The sources as points of a plane: what stands near what.

    pca     the two leading principal components: distances are true as far as two dimensions hold them
    tsne    neighbours stay neighbours; distances between groups mean nothing        van der Maaten and Hinton 2008, of scikit-learn
    umap    the same with another idea of neighbours                                 McInnes et al. 2018, of umap-learn, the extra [maps]

Points are `code_points` of a subspace, whose distances are those of the decoded codes, or `points_of` a Gram matrix, whose distances are
those of the solutions themselves. Whitened codes as they are would be a poor start: every direction has the same variance, so that
no plane holds more than another.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64

from deltas.errors import InputError
from subspace.base import Subspace
from subspace.gram import centred, gram
from subspace.rows import Stored

Method = Literal["pca", "tsne", "umap"]
EXACT = 300
"""Points up to which t-SNE's forces are summed without its approximation, which takes longer to start than to sum these."""
METHODS: tuple[Method, ...] = ("pca", "tsne", "umap")


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskMap:
    """Points of a plane, a row a source.

    Args:
        method: how they were found.
        share: of the points' variance that the plane holds; None where a method's distances say nothing of it.
        settings: what the method was given.
    """

    points: Float64[np.ndarray, "N 2"]
    method: Method
    share: float | None
    settings: dict[str, Any]


def points_of(k: Float64[np.ndarray, "N N"]) -> Float64[np.ndarray, "N N-1"]:
    """Points whose distances are those of the rows of a Gram matrix (not yet centred), the longest axis first."""
    values, vectors = np.linalg.eigh(centred(k))
    points = vectors[:, :0:-1] * np.sqrt(np.maximum(values[:0:-1], 0.0))
    return points * _signs(points)


def code_points(space: Subspace) -> Float64[np.ndarray, "N k"]:
    """The sources' codes in a scale in which distances are those of the decoded solutions, every type counting the same.

    z M^½ with M = Σ_t U_t U_tᵀ / tr(U_t U_tᵀ): ‖(z − z′) M^½‖² = Σ_t ‖decode_t(z) − decode_t(z′)‖² / tr(U_t U_tᵀ). Types whose basis is 0
    are left out.
    """
    metric = np.zeros((space.k, space.k))
    for part in space.parts.values():
        own = gram(Stored(list(part.basis)))
        if np.trace(own) > 0:
            metric += own / np.trace(own)
    values, vectors = np.linalg.eigh(metric)
    points = space.codes.astype(np.float64) @ (vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0.0)))
    return points * _signs(points)


def task_map(points: Float[np.ndarray, "N k"], *, method: Method = "pca", seed: int = 0) -> TaskMap:
    """A plane for N points.

    Args:
        points: `code_points` of a subspace, or `points_of` a Gram matrix.
        method: "pca", "tsne" or "umap".
        seed: of t-SNE and UMAP.

    Raises:
        InputError: fewer than 4 points or 2 dimensions, values that are not finite, an unknown method, or "umap" without umap-learn.

    Example:
        subspace.task_map(subspace.code_points(space), method="tsne")
    """
    x = np.asarray(points, np.float64)
    if x.ndim != 2 or len(x) < 4 or x.shape[1] < 2 or not np.isfinite(x).all():
        raise InputError(f"expected finite points [at least 4, at least 2] to map, got shape {x.shape}; map more sources, or a larger k")
    if method not in METHODS:
        raise InputError(f"expected a map by {', '.join(METHODS)}, got {method!r}; choose one of them")
    x, n = x - x.mean(0), len(x)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    plane = u[:, :2] * s[:2]
    plane = plane * _signs(plane)
    if method == "pca":
        energy = float(np.sum(s**2))
        return TaskMap(points=plane, method=method, share=float(np.sum(s[:2] ** 2)) / energy if energy else None, settings={})
    settings: dict[str, Any]
    if method == "tsne":
        from sklearn.manifold import TSNE

        settings = {"perplexity": min(30.0, (n - 1) / 3), "algorithm": "exact" if n <= EXACT else "barnes_hut", "seed": seed}
        start: Any = (plane / max(float(plane[:, 0].std()), 1e-300) * 1e-4).astype(np.float32)  # small, as the method wants it
        found = TSNE(perplexity=settings["perplexity"], method=settings["algorithm"], init=start, random_state=seed, n_jobs=1).fit_transform(x)
    else:
        settings = {"neighbours": min(15, n - 1), "seed": seed}
        found = _umap(x, settings["neighbours"], seed)
    return TaskMap(points=np.asarray(found, np.float64), method=method, share=None, settings=settings)


def _umap(x: np.ndarray, neighbours: int, seed: int) -> np.ndarray:
    try:
        from umap import UMAP  # type: ignore[import-not-found]
    except ImportError:
        raise InputError('expected umap-learn for a map by "umap", got none installed; run pip install "deltaspace[maps]"') from None
    # with so few points the spectral start can fail; a random one is what it then falls back to
    return UMAP(n_neighbors=neighbours, init="spectral" if len(x) > 2 * neighbours else "random", random_state=seed, n_jobs=1).fit_transform(x)


def _signs(points: Float64[np.ndarray, "N k"]) -> Float64[np.ndarray, " k"]:
    """The largest entry of each axis is positive."""
    signs = np.sign(points[np.argmax(np.abs(points), axis=0), np.arange(points.shape[1])])
    return np.where(signs == 0, 1.0, signs)
