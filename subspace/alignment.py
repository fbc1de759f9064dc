"""Solutions moved to each other along what their functions do not depend on, before they are compared as vectors.

Trained from different starts, equal functions lie at different coordinates: (A G⁻¹)(G B) = A B of a LoRA, hidden units of an adapter and
slots of a prefix in another order (`subspace.gauges`). Vectors of such solutions share little although their functions do.

    none         as they are: right where all solutions start from one θ0, and so have one gauge
    canonical    each on its own: ΔW = U S Vᵀ → A = U √S, B = √S Vᵀ; units and slots by falling norm
    procrustes   canonical, then each turned to a reference, site by site: O(r) Procrustes for LoRA, the assignment problem for units and slots.
                 The reference starts as the largest solution at that site and is the mean of all from then on, a few rounds

A canonical form is the same for every gauge, but not alike for like solutions: which direction or unit is the strongest changes from task to
task. On the demo's bank, of one θ0, 16 dimensions hold 69 % of the adapters' variance without alignment, 38 % in canonical form and 69 % by
procrustes, and what codes of one type foretell of another falls from 0.41 to −0.01 and is back at 0.41.

The new rows are align(θ_n) − θ0, so that θ = θ0 + μ + z U holds as ever; θ0 itself stays. Every aligned θ_n is the same function as before.
A reference is made of all sources: where tasks are held out, hold them out first. Symmetries that are not used: the scale of an adapter's
units under relu and their sign under tanh, and the hidden units of a prefix's network. Other delta types stay as they are.

Solutions of different ranks in one layout are those of the largest, filled up with zeros: in canonical form the zeros are the last directions.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from deltas.errors import InputError
from subspace.base import Part, Subspace
from subspace.gauges import Site, self_attention, sites_of
from subspace.rows import Stored
from subspace.sources import Block, Sources

Alignment = Literal["none", "canonical", "procrustes"]
ALIGNMENTS = ("none", "canonical", "procrustes")
MEMORY = 2**30
"""Bytes of aligned rows that are held in memory."""
SETTLED = 1e-6
"""A round that moves the solutions by less than this share of their norm is the last."""


def aligned(
    sources: Sources, how: Alignment, *, relative: bool | None = None, rounds: int = 5, memory: int = MEMORY,
    folder: str | Path | None = None,
) -> Sources:
    """The sources with every LoRA, adapter and prefix solution moved along its symmetries.

    Args:
        how: see the module.
        relative: whether the backbone has relative positions, as T5 has: there the slots of a prefix in self-attention are told apart by
            their place, and are left in it. Needed where there is such a prefix; across attention slots are always alike.
        rounds: of the reference, at most.
        memory: bytes of aligned rows (4 N D a type) to hold in memory; those of a type that exceeds it go to a temporary file, which is
            gone when the last row is, or when the process ends.
        folder: of the temporary file; None is the system's.

    Raises:
        InputError: another alignment, sources that are aligned already or in product space, or a prefix without `relative`.

    Example:
        space = joint_svd(aligned(gather(bank), "procrustes"), k=16)

    Source: orthogonal Procrustes with a refined mean: Gower 1975, Psychometrika 40(1); the assignment problem: Kuhn 1955.
    """
    if how not in ALIGNMENTS:
        raise InputError(f"expected an alignment of {', '.join(ALIGNMENTS)}, got {how!r}; choose one of them")
    if sources.align != "none":
        raise InputError(f"expected solutions as they were trained, to align them, got {sources.name}, aligned by {sources.align}; gather anew")
    if how == "none":
        return sources
    if sources.space != "factors":
        raise InputError(f"expected solutions as factors, to align them, got {sources.name} in {sources.space} space, where all gauges are one; "
                         "leave align out")
    blocks = {}
    for label, block in sources.blocks.items():
        sites = free(block, relative)
        blocks[label] = block if not sites else replace(block, rows=Stored(list(_moved(block, sites, how, rounds, memory, folder))))
    return replace(sources, blocks=blocks, align=how)


def align_to(space: Subspace, label: str, theta: np.ndarray, *, relative: bool | None = None) -> Float32[np.ndarray, " D"]:
    """A solution θ [D] from elsewhere, aligned as the subspace's sources were: what `space.encode` has to be given.

    Of a space by "procrustes" the reference is its mean solution θ0 + μ.
    """
    part = space.part(label)
    theta = np.array(theta, np.float64)
    if theta.shape != part.theta0.shape:
        raise InputError(f"expected θ of {label} with {len(part.theta0)} numbers, got shape {theta.shape}; pass one solution of that layout")
    if space.align != "none":
        for site in free(part, relative):
            values = site.canonical(site.read(theta))
            site.write(theta, values if space.align == "canonical" else site.towards(values, site.read(part.offset)))
    return theta.astype(np.float32)


def free(block: Block | Part, relative: bool | None) -> list[Site]:
    """The sites of a type that can be moved; of a type's part in a subspace too."""
    sites = sites_of(block.config, block.layout)
    fixed = self_attention(sites)
    if fixed and relative is None:
        raise InputError(f"expected to be told whether the backbone of {block.config.label} has relative positions, which decides whether the "
                         f"slots of {fixed[0]} are alike, got nothing; pass relative=True for T5, False for other families")
    return [site for site in sites if not (relative and site.name in fixed)]


def _moved(block: Block, sites: Sequence[Site], how: str, rounds: int, memory: int, folder: str | Path | None) -> np.ndarray:
    """The aligned rows float32 [n, D]."""
    rows = room((len(block.rows), block.layout.size), memory, folder)
    largest, references = dict.fromkeys((site.name for site in sites), -1.0), {}
    for n in range(len(rows)):
        theta = block.theta0 + block.rows[n]
        for site in sites:
            values = site.canonical(site.read(theta))
            site.write(theta, values)
            if (size := site.size(values)) > largest[site.name]:
                largest[site.name], references[site.name] = size, values
        rows[n] = theta - block.theta0
    for _ in range(rounds if how == "procrustes" else 0):
        moved, whole = 0.0, 0.0
        sums = {site.name: {name: np.zeros_like(value) for name, value in references[site.name].items()} for site in sites}
        for n in range(len(rows)):
            theta = block.theta0 + rows[n]
            for site in sites:
                before = site.read(theta)
                after = site.towards(before, references[site.name])
                site.write(theta, after)
                for name, value in after.items():
                    sums[site.name][name] += value / len(rows)
                    moved += float(np.sum((value - before[name]) ** 2))
                    whole += float(np.sum(value**2))
            rows[n] = theta - block.theta0
        references = sums
        if moved <= SETTLED**2 * whole:
            break
    return rows


def room(shape: tuple[int, int], memory: int, folder: str | Path | None) -> Float32[np.ndarray, "n D"]:
    """Zeros in memory, or in a temporary file where they take more than `memory` bytes."""
    if 4 * shape[0] * shape[1] <= memory:
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile(dir=folder, prefix="aligned.") as file:  # it has no name: nothing is left behind by a kill
        return np.memmap(file, np.float32, "w+", shape=shape)
