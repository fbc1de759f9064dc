"""Merging solutions: in z, in θ, and for LoRAs of any ranks in the product ΔW = A B.

    z       τ_m = z_m              the origin is the mean solution of the sources, so a sum of codes is a sum of departures from it
    θ       τ_m = θ_m − θ0
    ΔW      τ_m = A_m B_m          one module at a time; a sum of products is a product of stacked factors:
                                   Σ_m w_m A_m B_m = [w_1 A_1 | w_2 A_2 | …] [B_1; B_2; …]

Decoding is affine, decode(Σ w_m z_m) = Σ w_m decode(z_m) where Σ w_m = 1: a mean of codes IS the mean of the solutions that they decode
to, which is the mean of the solutions projected on the subspace. A "subspace merge" by the mean adds nothing but the projection; only the
rules that look at single entries give something else in z than in θ.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from deltas.attach import natural
from deltas.bank import Bank, Solution
from deltas.checkpoints import low_rank
from deltas.checkpoints.unplaced import Factors, lora_at
from deltas.errors import InputError
from deltas.files import sha256
from deltas.layout import Layout
from deltas.types import DeltaType, LoRA
from subspace.base import Subspace
from subspace.product import scales
from subspace.rules import Mean, Rule, merged
from subspace.sources import Pair, Sources, gather, once


@dataclass(frozen=True, eq=False)
class Merged:
    """θ float32 [D_t] by delta type, and the point of the subspace that decodes to it; None where it was merged in θ."""

    thetas: Mapping[str, Float32[np.ndarray, " D"]]
    z: Float32[np.ndarray, " k"] | None


def merge(space: Subspace, pairs: Sequence[Pair], rule: Rule | None = None, where: Literal["z", "theta"] = "z", *,
          bank: Bank | Sources | None = None) -> Merged:
    """One point of some of a subspace's source solutions, by every type.

    Args:
        pairs: (task, seed) of the sources to merge.
        rule: None is the mean.
        where: merge their codes, or θ − θ0.
        bank: for θ: the solutions themselves are merged where it is given, otherwise what their codes decode to.

    Raises:
        InputError: a source that is not there, or no source.

    Example:
        point = subspace.merge(space, [("sst2", 0), ("rte", 0)], subspace.Ties(density=0.3))
    """
    rule, place = rule or Mean(), {pair: n for n, pair in enumerate(space.pairs)}
    pairs = [(task, int(seed)) for task, seed in pairs]
    if where not in ("z", "theta"):
        raise InputError(f"expected to merge in z or in theta, got {where!r}; choose one of them")
    once("solution", pairs)
    for task, seed in pairs:
        if (task, seed) not in place:
            raise InputError(f"expected sources of the subspace to merge, got {task}, seed {seed}, which is none; choose another")
    if not pairs:
        raise InputError("expected at least one source to merge, got none; name some")
    codes = space.codes[[place[pair] for pair in pairs]]
    if where == "z":
        z = merge_codes(space, codes, rule)
        return Merged({label: space.decode(label, z) for label in space.labels}, z)
    if bank is not None:
        sources = gather(bank, space.labels, pairs)
        sources.needs_all("merge")
        return Merged({label: block.theta0 + merged(block.rows, rule, label) for label, block in sources.blocks.items()}, None)
    thetas = {}
    for label, part in space.parts.items():
        thetas[label] = part.theta0 + merged(list(space.decode(label, codes) - part.theta0), rule, label)
    return Merged(thetas, None)


def merge_codes(space: Subspace, codes: Float[np.ndarray, "M k"], rule: Rule | None = None) -> Float32[np.ndarray, " k"]:
    """One code of many."""
    codes = np.atleast_2d(np.asarray(codes, np.float32))
    if codes.shape[1] != space.k:
        raise InputError(f"expected codes of {space.k} numbers to merge, got {codes.shape[1]}; use the subspace they are of")
    return merged(list(codes), rule or Mean(), "z")


def merge_solutions(
    solutions: Sequence[Solution], rule: Rule | None = None, *, space: Literal["factors", "product"] = "factors", rank: int | None = None,
    energy: float | None = None, task: str = "merged"
) -> Solution:
    """One solution of many of one backbone.

    Args:
        rule: None is the mean.
        space: of "factors" θ − θ0 is merged, for which all have one θ0; of the "product" of LoRAs ΔW, whatever their ranks and modules.
        rank, energy: of each module's product, at most, or the least that keeps a share of |ΔW|²; without them a linear rule is exact,
            with a rank that is the sum of all ranks.
        task: what the result is called.

    Raises:
        InputError: solutions that cannot be merged so, or a rule that is not linear on products without a rank or an energy.

    Example:
        one = subspace.merge_solutions([bank.load("lora", task, 0) for task in ("sst2", "rte")], subspace.Ties(), space="product", rank=8)
    """
    rule = rule or Mean()
    if not solutions:
        raise InputError("expected at least one solution to merge, got none; name some")
    first, fingerprints = solutions[0], sorted({s.backbone for s in solutions})
    if len(fingerprints) > 1:
        raise InputError(f"expected solutions of one backbone to merge, got {' and '.join(fingerprints)}; merge those of one")
    about = {"task": task, "seed": 0, "scores": {}, "provenance": {"merged": {"of": [[s.task, s.label, s.seed] for s in solutions],
                                                                             "rule": repr(rule), "space": space}}}
    if space == "product":
        factors = merge_factors([factors_of(s.config, s.layout, s.theta) for s in solutions], rule, rank=rank, energy=energy)
        config, layout, theta = lora_of(factors, first.label)
        theta0 = np.zeros_like(theta)
        return replace(first, config=config, layout=layout, vector=theta, theta0=theta0,
                       theta0_fingerprint=sha256(theta0.tobytes(), str(layout.to_json())), **about)
    if space != "factors" or rank is not None or energy is not None:
        raise InputError(f"expected a rank or an energy for the space 'product' alone, got {space!r}; choose 'product', or leave them out")
    for other in solutions[1:]:
        if other.theta0_fingerprint != first.theta0_fingerprint:
            raise InputError(f"expected solutions of one θ0 to merge as vectors, got {other.task} of θ0 {other.theta0_fingerprint} beside "
                             f"{first.theta0_fingerprint}; merge LoRAs in space 'product'")
    return replace(first, vector=merged([s.vector for s in solutions], rule, first.label), **about)


# ------------------------------------------------------------ LoRAs of any ranks
def merge_factors(many: Sequence[Factors], rule: Rule | None = None, *, rank: int | None = None, energy: float | None = None
                  ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By module A [in, r] and B [r, out] of the merged ΔW; a module that some lack counts as 0 there.

    A linear rule stacks the factors, and no [in, out] matrix is formed. Any other acts on the entries of ΔW, a module at a time, where
    TIES trims each module by its own entries.

    Args:
        many: A and B by module, of each solution, at a scale of 1.
        rank, energy: see `merge_solutions`.
    """
    rule = rule or Mean()
    low_rank.check(rank, energy)
    weights, found = rule.weights(len(many)), {}
    if weights is None and rank is None and energy is None:
        raise InputError(f"expected a rank or an energy to merge products by {type(rule).__name__}, got neither; choose one")
    for module in dict.fromkeys(name for one in many for name in one):
        pairs = {m: one[module] for m, one in enumerate(many) if module in one}
        sizes = {(a.shape[0], b.shape[1]) for a, b in pairs.values()}
        if len(sizes) > 1:
            raise InputError(f"expected {module} of one size in all LoRAs to merge, got {' and '.join(map(str, sorted(sizes)))}; merge those "
                             "of one backbone")
        if weights is not None:
            a = np.concatenate([weights[m] * np.asarray(a, np.float64) for m, (a, _) in pairs.items()], axis=1)
            b = np.concatenate([np.asarray(b, np.float64) for _, b in pairs.values()])
            plain = rank is None and energy is None
            found[module] = (a.astype(np.float32), b.astype(np.float32)) if plain else low_rank.of_product(a, b, rank=rank, energy=energy)
            continue
        shape = next(iter(sizes))
        rows = [pairs[m][0] @ pairs[m][1] if m in pairs else np.zeros(shape, np.float32) for m in range(len(many))]
        change = merged([row.ravel() for row in rows], rule, module).reshape(shape)
        found[module] = low_rank.factors(change, rank=rank, energy=energy)
    return found


def factors_of(config: DeltaType, layout: Layout, theta: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By module A [in, r] and B [r, out] of a LoRA at θ, its scale in B: ΔW = A B."""
    if not isinstance(config, LoRA):
        raise InputError(f"expected LoRAs to merge their products, got {config.name}; merge them in space 'factors'")
    own, theta = scales(config, layout), np.asarray(theta, np.float32)
    values = {name: theta[start : start + math.prod(shape)].reshape(shape)
              for name, shape, start in zip(layout.names, layout.shapes, layout.offsets, strict=True)}
    return {module: (values[f"{module}.a"], np.float32(scale) * values[f"{module}.b"]) for module, scale in own.items()}


def lora_of(factors: Factors, label: str = "") -> tuple[LoRA, Layout, Float32[np.ndarray, " D"]]:
    """A LoRA of scale 1 with these factors: its configuration, layout and θ."""
    config = lora_at({module: a.shape[1] for module, (a, _) in factors.items()}, label)
    named = {f"{module}.{end}": value for module, pair in factors.items() for end, value in zip("ab", pair, strict=True)}
    names = sorted(named, key=natural)  # as an attached delta has them
    theta = np.concatenate([np.asarray(named[name], np.float32).ravel() for name in names])
    return config, Layout(tuple(names), tuple(named[name].shape for name in names)), theta
