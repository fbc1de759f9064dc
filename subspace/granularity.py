"""A z for the whole delta, or one for each layer or module.

    z = [z_1 | z_2 | … ],   z_g [k]     the groups g of parameters, each decomposed on its own by the same method
    θ_t at the parameters of g = θ0 + μ_t + z_g U_tg

The bases of the whole are block-structured (and stored densely): a coordinate of group g moves the parameters of g and no others. A type that
has no parameters in a group does not depend on its coordinates; a group may be there in one type only. Codes are white within a group:
every coordinate has mean 0 and variance 1 over the sources, but those of different groups may be correlated, and are where layers
learn alike. With groups · k coordinates in place of k this holds more of each solution and shares less between its parts.

Groups come from the names of parameters, as they are here ("encoder.3.attn.q.a") or in Hugging Face models ("model.layers.3.self_attn.q_proj"):

    layer    encoder.3                                          all that stands in it
    module   encoder.3.attn, encoder.3.cross, encoder.3.ff      a sublayer with its linear maps and its norm

A name without the number of a layer ("encoder_norm", "shared", "head") is a group of its own. A prefix's network that serves a whole stack
has the name of the first layer that it serves, and stands there.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from deltas.attach import natural
from deltas.bank import Bank
from deltas.errors import InputError
from deltas.layout import Layout
from subspace.base import Subspace, part_of
from subspace.gram import centred, combine
from subspace.joint_svd import grams, null_of, scale, together, within_reach
from subspace.remembered import remembered
from subspace.sources import Block, Pair, Sources, gather

Granularity = Literal["whole", "layer", "module"]
GRANULARITIES = ("whole", "layer", "module")
WRAPPERS = ("base_model", "model", "transformer", "bert", "roberta", "bart", "gpt2", "t5")
"""Words in front of a Hugging Face name that say nothing of the place."""
SUBLAYERS = (  # the first word after the layer's number that one of these fits decides
    ("cross", r".*cross.*|encdecattention|encoder_attn.*"),
    ("ff", r"post_attention_layernorm|(pre|post)_feedforward.*"),  # Llama's norm before the feed-forward is called after what it follows
    ("attn", r".*attn.*|.*attention.*|input_layernorm|ln_1|sa_layer_norm|[qkvo]_proj|[qkv]_lin|out_lin"),
    ("ff", r"ff|ff_norm|ffn.*|mlp|.*feed_?forward.*|dense.*dense|intermediate|output|fc1|fc2|lin1|lin2|ln_2|final_layer_norm|"
           r"output_layer_norm|up_proj|down_proj|gate_proj"),
)  # fmt: skip


def group_of(name: str, granularity: str) -> str:
    """The group of a parameter, from its name.

    Example:
        group_of("encoder.block.3.layer.0.SelfAttention.q.lora_A", "module")     # "encoder.3.attn"
    """
    if granularity == "whole":
        return "whole"
    words = name.split(".")
    at = next((i for i, word in enumerate(words) if word.isdigit()), None)
    if at is None or at == 0:
        while len(words) > 2 and words[0] in WRAPPERS:
            words = words[1:]
        return ".".join(words[:2]) if words[0] in ("encoder", "decoder") and len(words) > 2 else words[0]
    stack = "encoder" if "encoder" in words[:at] else "decoder"  # models of one stack that read from left to right do not name it
    layer, rest = f"{stack}.{words[at]}", [word.lower() for word in words[at + 1 :]]
    if granularity == "layer":
        return layer
    for word in rest:
        for sublayer, pattern in SUBLAYERS:
            if re.fullmatch(pattern, word):
                return f"{layer}.{sublayer}"
    if len(rest) > 1 and rest[0] == "layer" and rest[1].isdigit():  # T5's norms have nothing but the number of their sublayer
        numbered = ("attn", "cross", "ff") if stack == "decoder" else ("attn", "ff")
        return f"{layer}.{numbered[min(int(rest[1]), len(numbered) - 1)]}"
    return f"{layer}.{words[at + 1]}" if len(rest) > 1 else layer


@dataclass(frozen=True)
class Columns:
    """The columns of one type that belong to a group, and their own layout."""

    ranges: tuple[slice, ...]
    layout: Layout


def columns_of(layout: Layout, granularity: str) -> dict[str, Columns]:
    """By group, in the order of the layout: neighbouring parameters of a group are one range."""
    members: dict[str, list[int]] = {}
    for i, name in enumerate(layout.names):
        members.setdefault(group_of(name, granularity), []).append(i)
    found = {}
    for group, chosen in members.items():
        ranges: list[slice] = []
        for i in chosen:
            first, last = layout.offsets[i], layout.offsets[i] + math.prod(layout.shapes[i])
            if ranges and ranges[-1].stop == first:
                ranges[-1] = slice(ranges[-1].start, last)
            else:
                ranges.append(slice(first, last))
        found[group] = Columns(tuple(ranges), Layout(tuple(layout.names[i] for i in chosen), tuple(layout.shapes[i] for i in chosen)))
    return found


def by_group(
    method: Callable[..., Subspace], bank: Bank | Sources, k: int, *, granularity: Granularity = "layer",
    labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None, **options: Any,
) -> Subspace:
    """A subspace of each group of parameters by the same method, as one subspace.

    Args:
        method: joint_svd, gcca, pca, or a control; one that needs no backbone.
        bank: or sources that were gathered from one.
        k: coordinates of each group; a group whose solutions span fewer has those, and one that no solution changes has none.
        granularity: "whole" is the method itself, with one z; "layer" or "module" is a z for each.
        labels, pairs, options: passed on to the method.

    Returns:
        A subspace of at most groups · k coordinates, in the order of the groups' names. `settings["groups"]` has for each the place of its
        coordinates, and by type its size and energy there. Its `spectrum` is that of the joint matrix of the whole, a fact of the sources
        and not of these coordinates; it is empty where some solutions are missing.

    Raises:
        InputError: another granularity, or what the method refuses of a group, which is named.

    Example:
        space = subspace.by_group(subspace.joint_svd, bank, k=4, granularity="layer")
    """
    if granularity not in GRANULARITIES:
        raise InputError(f"expected a granularity of {', '.join(GRANULARITIES)}, got {granularity!r}; choose one of them")
    sources = gather(bank, labels, pairs)
    if granularity == "whole":
        return method(sources, k, **options)
    within_reach(k, len(sources.pairs))
    columns = {label: columns_of(block.layout, granularity) for label, block in sources.blocks.items()}
    means = {label: combine(np.full((1, len(block.rows)), 1 / len(block.rows)), block.rows)[0] for label, block in sources.blocks.items()}
    totals = {label: np.zeros((len(block.rows),) * 2) for label, block in sources.blocks.items()}
    fitted: dict[str, Subspace] = {}
    held = dict.fromkeys(sources.labels, 0.0)
    for group in sorted({group for own in columns.values() for group in own}, key=natural):
        part = remembered(replace(sources, name=f"{sources.name}, {group}", blocks={
            label: _part(block, columns[label][group]) for label, block in sources.blocks.items() if group in columns[label]}))
        inner = grams(part)
        for label, own in inner.items():
            totals[label] += own
        if moving := [label for label, own in inner.items() if np.trace(centred(own)) > 1e-12 * np.trace(own)]:
            try:
                fitted[group] = method(part.only(moving), min(k, _rank(part, {label: inner[label] for label in moving})), **options)
            except InputError as error:
                raise InputError(f"{error} (in the group {group})") from None
            for label, energy in fitted[group].energy.items():
                held[label] += energy * float(np.trace(centred(inner[label])))
    if not fitted:
        raise InputError(f"expected solutions that differ from each other, got equal ones in {sources.name}; train more tasks")
    return _joined(sources, granularity, k, columns, means, totals, held, fitted)


def _part(block: Block, columns: Columns) -> Block:
    theta0 = np.concatenate([block.theta0[r] for r in columns.ranges])
    return replace(block, layout=columns.layout, theta0=theta0, rows=block.rows.columns(columns.ranges))


def _rank(sources: Sources, inner: Mapping[str, Float64[np.ndarray, "n n"]]) -> int:
    """How many dimensions the solutions of these types span together."""
    if sources.complete:
        values = np.linalg.eigvalsh(together(scale(inner)))
    else:  # types of different sources: what one of them spans at least
        values = max((np.linalg.eigvalsh(scale({label: own})[label]) for label, own in inner.items()), key=lambda v: np.sum(v > 1e-12 * v[-1]))
    return int(np.sum(values > 1e-12 * values[-1]))


def _joined(
    sources: Sources, granularity: str, k: int, columns: Mapping[str, Mapping[str, Columns]], means: Mapping[str, np.ndarray],
    totals: Mapping[str, Float64[np.ndarray, "n n"]], held: Mapping[str, float], fitted: Mapping[str, Subspace],
) -> Subspace:
    """One subspace of those of the groups; `held` is the variance of each type that they explain, `totals` the types' Gram matrices."""
    size, first = sum(space.k for space in fitted.values()), 0
    bases = {label: np.zeros((size, block.layout.size), np.float32) for label, block in sources.blocks.items()}
    variance, groups = {label: float(np.trace(centred(total))) for label, total in totals.items()}, {}
    for group, space in fitted.items():
        sizes = {}
        for label, part in space.parts.items():
            done, sizes[label] = 0, len(part.mean)
            for r in columns[label][group].ranges:
                own = slice(done, done + r.stop - r.start)
                means[label][r], bases[label][first : first + space.k, r] = part.mean[own], part.basis[:, own]
                done = own.stop
        groups[group] = {"first": first, "k": space.k, "sizes": sizes, "energy": dict(space.energy), "settings": dict(space.settings)}
        first += space.k
    some = next(iter(fitted.values()))
    whole = {label: total for label, total in totals.items() if variance[label] > 1e-12 * np.trace(total)}
    joint = np.linalg.eigvalsh(together(scale(whole)))[::-1][:-1] if sources.complete else np.zeros(0)
    return replace(
        some, method=f"{some.method} by {granularity}", codes=np.concatenate([space.codes for space in fitted.values()], axis=1),
        parts={label: part_of(block, means[label], bases[label]) for label, block in sources.blocks.items()},
        energy={label: held[label] / total if total > 0 else 0.0 for label, total in variance.items()}, grams={},
        spectrum=np.sqrt(np.maximum(joint, 0.0)), null=null_of(sources, 0) if sources.complete else np.zeros(0),
        settings={"granularity": granularity, "k": k, "groups": groups})
