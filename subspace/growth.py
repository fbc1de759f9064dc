"""Growth: solutions added to a fitted subspace, exactly as if it had been fitted to all of them, without starting anew.

    K = [ K_old   C ᵀ  ]        K_old is kept in the subspace; C = X_new X_oldᵀ and X_new X_newᵀ are all that is computed
        [ C       K_new]

A linear decomposition is a function of the types' Gram matrices: with K complete it is done again in the N×N dual form, and its coefficients
combine the rows once. m newcomers to n sources cost m(n + m) inner products instead of (n + m)². In product space the cores become those of
all solutions, which changes no inner product.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from deltas.bank import Bank
from deltas.errors import InputError
from deltas.types import LoRA
from subspace.base import Part, Subspace
from subspace.gcca import gcca
from subspace.gram import gram, products
from subspace.joint_svd import grams, joint_svd
from subspace.pca import pca
from subspace.product import coordinates, factors_of
from subspace.remembered import Remembered
from subspace.rows import MEMORY, Rows, Stored
from subspace.sources import Block, Pair, Sources, gather

METHODS: Mapping[str, tuple[Callable[..., Subspace], tuple[str, ...]]] = {
    "joint_svd": (joint_svd, ()), "gcca": (gcca, ("ridge",)), "pca": (pca, ())}
"""Those that are functions of the Gram matrices, and which of a subspace's settings they are given again."""


def with_grams(space: Subspace, bank: Bank | Sources) -> Subspace:
    """The subspace with the Gram matrices of its sources, for what may be added later.

    Raises:
        InputError: a bank of another backbone or θ0, or without some source.
    """
    return replace(space, grams=grams(_fitting(space, bank, space.pairs, missing=True)))


def extend(space: Subspace, bank: Bank | Sources, *, pairs: Sequence[Pair] | None = None, missing: bool = False, seed: int = 0) -> Subspace:
    """The subspace of its sources and of newcomers, of the same k.

    What it is, is what its method makes of all the solutions. Where the subspace has no Gram matrices they are computed whole. Its
    `settings["grown"]` says of every newcomer how much the old subspace missed, by type (see `missed`).

    Args:
        space: of joint_svd, gcca or pca.
        bank: or sources, with the old solutions and the new ones.
        pairs: the (task, seed) of the newcomers; None is all that are not yet sources.
        missing: take newcomers too for which only some types have a solution (joint_svd alone can).
        seed: of the null spectrum.

    Raises:
        InputError: another method; no newcomer; a bank of another backbone or θ0, without some source, or with other numbers in it than
            when the subspace was fitted.

    Example:
        space = subspace.extend(subspace.Subspace.load("space/"), bank)
    """
    if space.method not in METHODS:
        raise InputError(f"expected a subspace of {', '.join(METHODS)} to add solutions to, got {space.method}; fit it anew on all of them")
    old = set(space.pairs)
    if pairs is None:
        pairs = [pair for pair in gather(bank, space.labels, missing=missing).pairs if pair not in old]
    pairs = [(task, int(seed_)) for task, seed_ in pairs]
    if twice := [pair for pair in pairs if pair in old]:
        raise InputError(f"expected newcomers to the subspace, got {twice[0][0]}, seed {twice[0][1]}, which is a source; leave it out")
    if not pairs:
        raise InputError(f"expected solutions that are not yet among the {len(old)} sources, got none in {_name(bank)}; train some first")
    if absent := old - set(gather(bank, space.labels, missing=True).pairs):
        task, number = min(absent)
        raise InputError(f"expected the subspace's sources beside the newcomers, got no solution of {task}, seed {number}, in {_name(bank)}; "
                         "give those too: their inner products with the newcomers are needed")
    sources = _fitting(space, bank, (*space.pairs, *pairs), missing=missing or space.settings.get("missing") is not None)
    blocks = {label: replace(block, rows=Remembered(block.rows, _grown(space, label, block))) for label, block in sources.blocks.items()}
    known, (method, kept) = replace(sources, blocks=blocks), METHODS[space.method]
    news = missed(space, known, pairs)
    grown = method(known, space.k, seed=seed, **{name: space.settings[name] for name in kept})
    told = [{"task": task, "seed": n, "missed": {label: by[task, n] for label, by in news.items() if (task, n) in by}} for task, n in pairs]
    return replace(grown, settings={**grown.settings, "grown": [*space.settings.get("grown", ()), *told]},
                   grams={label: block.rows.gram() for label, block in blocks.items()})


def missed(space: Subspace, bank: Bank | Sources, pairs: Sequence[Pair] | None = None) -> dict[str, dict[Pair, float]]:
    """How much of each solution a subspace misses: by label and (task, seed), ‖r‖ / ‖x − μ‖, between 0 and 1.

    x is the solution's θ − θ0 (in product space its change of weights) and r what of x − μ lies outside the span of U_t. A solution that is
    the mean misses nothing.

    Args:
        bank: or sources.
        pairs: which; None is all that are not sources of the subspace.
    """
    if pairs is None:
        pairs = [pair for pair in gather(bank, space.labels, missing=True).pairs if pair not in set(space.pairs)]
    sources, found = _fitting(space, bank, pairs, missing=True), {}
    for label, block in sources.blocks.items():
        part = space.part(label)
        rows, outside = _in_cores(part, block) if _product(space, part) else (block.rows, 0.0)
        mean = np.asarray(part.mean)[None]
        metric, shift = products(part.basis, list(part.basis)), products(part.basis, list(mean))
        along = products(part.basis, rows) - shift
        total = np.diagonal(gram(rows)) - 2 * products(mean, rows)[:, 0] + products(mean, list(mean))[0, 0]
        total = total + outside
        inside = np.einsum("nk,nk->n", along @ np.linalg.pinv(metric, rcond=1e-12, hermitian=True), along)
        share = np.divide(total - inside, total, out=np.zeros_like(total), where=total > 0)
        found[label] = {sources.pairs[n]: float(np.sqrt(np.clip(s, 0, 1))) for n, s in zip(block.members, share, strict=True)}
    return found


def _product(space: Subspace, part: Part) -> bool:
    """Whether a type is compared by its changes of weights."""
    return space.space == "product" and isinstance(part.config, LoRA)


def _in_cores(part: Part, block: Block) -> tuple[Rows, Float64[np.ndarray, " n"]]:
    """Rows in the cores of a part, and ‖ΔW‖² of each that lies outside them."""
    found = [coordinates(part.layout, np.asarray(part.theta0), factors_of(block.config, block.layout, block.theta0, block.rows, n))
             for n in range(len(block.rows))]
    return Stored([x for x, _, _ in found]), np.array([outside for _, outside, _ in found])


def _fitting(space: Subspace, bank: Bank | Sources, pairs: Sequence[Pair], *, missing: bool) -> Sources:
    """Sources of the subspace's types, backbone and θ0."""
    sources = gather(bank, space.labels, pairs, missing=missing)
    for what, ours, theirs in (("backbone", space.backbone, sources.backbone), ("space", space.space, sources.space),
                               ("alignment", space.align, sources.align)):
        if ours != theirs:
            raise InputError(f"expected solutions of the subspace's {what} {ours!r}, got {sources.name} of {theirs!r}; fit a subspace to those")
    for label, block in sources.blocks.items():
        part = space.part(label)
        if (ours := part.theta0_fingerprint) != block.fingerprint and not _product(space, part):
            raise InputError(f"expected {label} of the subspace's θ0 {ours}, got {sources.name} with θ0 {block.fingerprint}; fit a subspace "
                             "to those")
    return sources


def _grown(space: Subspace, label: str, block: Block) -> Float64[np.ndarray, "n n"]:
    """The Gram matrix of a type's old and new rows; the old ones come first."""
    n, rows = int(np.searchsorted(block.members, len(space.pairs))), block.rows
    old = space.grams.get(label)
    if old is None:
        return gram(rows)
    if len(old) != n:
        raise InputError(f"expected the {len(old)} solutions of {label} that the subspace was fitted to, got {n}; fit it anew")
    whole = np.zeros((len(rows), len(rows)))
    whole[:n, :n] = old
    at_once = max(1, MEMORY // (4 * rows.size) - 1)
    for first in range(n, len(rows), at_once):
        chosen = range(first, min(first + at_once, len(rows)))
        directions = np.stack([rows[m] for m in (0, *chosen)])
        found = products(directions, rows)
        _unchanged(old, found[:n, 0], rows, label)
        whole[:, chosen] = found[:, 1:]
        whole[chosen, :] = found[:, 1:].T
    whole[n:, n:] = (whole[n:, n:] + whole[n:, n:].T) / 2  # the two agree but for the order of their sums
    bad = np.flatnonzero(~np.isfinite(np.diagonal(whole)))
    if len(bad):
        raise InputError(f"expected finite solutions, got NaN or infinity in {rows.name(int(bad[0]))}; leave it out")
    return whole


def _unchanged(old: np.ndarray, first: np.ndarray, rows: Rows, label: str) -> None:
    """The inner products with the first row are those that were kept, or some row is another one."""
    same = 1e-9 if isinstance(rows, Stored) else 1e-6  # cores are rounded to float32, their Gram matrices are not
    apart = np.flatnonzero(~(np.abs(first - old[:, 0]) <= same * np.sqrt(np.diagonal(old) * old[0, 0])))
    if len(apart):
        raise InputError(f"expected the solutions of {label} that the subspace was fitted to, got other numbers in {rows.name(int(apart[0]))}; "
                         "fit it anew")


def _name(bank: Any) -> str:
    return bank.name if isinstance(bank, Sources) else str(bank.path)
