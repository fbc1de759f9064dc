"""LoRA solutions of different ranks as one type, in factors: those of the smaller rank are filled up with zeros.

    A [in, r], B [r, out], scale s   →   [A 0] [in, R],  [s B; 0] [R, out],  scale 1             R the largest rank at that module

The function stays. Which of the R directions are zeros is arbitrary, as is every other coordinate of factors that were trained from different
starts: such solutions are compared after `subspace.aligned`, which brings the strongest directions first, or in product space
(`subspace.in_product_space`), which needs no filling up.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from deltas.attach import natural
from deltas.checkpoints.unplaced import lora_at
from deltas.errors import InputError
from deltas.files import sha256
from deltas.layout import Layout
from deltas.types import LoRA
from subspace.alignment import MEMORY, room
from subspace.product import factors_of
from subspace.rows import Stored
from subspace.sources import Block, Sources


def of_one_rank(
    sources: Sources, labels: Sequence[str] | None = None, *, label: str = "lora", memory: int = MEMORY, folder: str | Path | None = None
) -> Sources:
    """The sources with several LoRA types as one, at every module of any of them and of the largest rank there.

    Args:
        labels: the types that become one; None is all LoRA of the sources.
        label: of the new type, whose θ0 is 0: its solutions are whole LoRA, and not what was trained beyond a start.
        memory, folder: as in `subspace.aligned`.

    Raises:
        InputError: a type that is no LoRA or has `dora`, product space, a module of two sizes, or a source that two of the types have.

    Example:
        sources = subspace.aligned(of_one_rank(gather(bank, missing=True)), "procrustes")
    """
    if sources.space != "factors" or sources.align != "none":
        raise InputError(f"expected solutions as they were trained, to bring them to one rank, got {sources.name} in {sources.space} space, "
                         f"aligned by {sources.align}; gather anew")
    chosen = [name for name, block in sources.blocks.items() if isinstance(block.config, LoRA)] if labels is None else list(labels)
    blocks = sources.only(chosen).blocks
    if not chosen or not all(isinstance(block.config, LoRA) for block in blocks.values()):
        raise InputError(f"expected LoRA types to bring to one rank, got {', '.join(chosen) or 'none'} of {sources.name}; choose others")
    if label in sources.blocks and label not in chosen:
        raise InputError(f"expected a new label for the LoRA of one rank, got {label!r}, which is another type's; choose another")
    members = np.concatenate([block.members for block in blocks.values()])
    if len(set(members.tolist())) < len(members):
        pair = sources.pairs[int(np.flatnonzero(np.bincount(members) > 1)[0])]
        raise InputError(f"expected every source in one of {', '.join(chosen)}, got {pair[0]}, seed {pair[1]}, in two; leave one out")
    ranks, ends = _sizes(list(blocks.values()))
    names = [f"{module}.{own}" for module in sorted(ranks, key=natural) for own in "ab"]
    shapes = [shape for m in sorted(ranks, key=natural) for shape in ((ends[m][0], ranks[m]), (ranks[m], ends[m][1]))]
    layout, members = Layout(tuple(names), tuple(shapes)), np.sort(members)
    rows = room((len(members), layout.size), memory, folder)
    for block in blocks.values():
        for n, row in enumerate(np.searchsorted(members, block.members)):
            factors = factors_of(block.config, block.layout, block.theta0, block.rows, n)
            filled = _views(rows[row], layout)
            for module in factors:
                a, b = factors[module]
                filled[f"{module}.a"][:, : a.shape[1]], filled[f"{module}.b"][: b.shape[0]] = a, b
    theta0 = np.zeros(layout.size, np.float32)
    one = Block(config=lora_at({module: ranks[module] for module in sorted(ranks, key=natural)}, label), layout=layout, theta0=theta0,
                fingerprint=sha256(theta0.tobytes(), str(layout.to_json())), rows=Stored(list(rows)), members=members)
    return replace(sources, blocks={**{name: block for name, block in sources.blocks.items() if name not in chosen}, label: one})


def _sizes(blocks: Sequence[Block]) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    """By module the largest rank, and in and out."""
    ranks: dict[str, int] = {}
    ends: dict[str, tuple[int, int]] = {}
    for block in blocks:
        shapes = dict(zip(block.layout.names, block.layout.shapes, strict=True))
        for name, shape in shapes.items():
            module, _, own = name.rpartition(".")
            if own != "a":
                continue
            found = (shape[0], shapes[f"{module}.b"][1])
            if ends.setdefault(module, found) != found:
                raise InputError(f"expected {module} of one size in all LoRA, got {ends[module]} and {found}; keep different backbones apart")
            ranks[module] = max(ranks.get(module, 0), shape[1])
    return ranks, ends


def _views(row: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    """The parameters by name, to be written into."""
    return {name: row[first : first + math.prod(shape)].reshape(shape)
            for name, first, shape in zip(layout.names, layout.offsets, layout.shapes, strict=True)}
