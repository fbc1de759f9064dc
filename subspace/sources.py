"""What is decomposed: by delta type the solutions as rows, where each type starts, and which source every row belongs to.

A method sees no folder and no file: it asks `Sources` for Gram matrices and for combinations of rows. `gather` makes them of a bank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Int

from deltas.bank import Bank
from deltas.errors import InputError
from deltas.layout import Layout
from deltas.types import DeltaType
from subspace.rows import Rows, Stored

Pair = tuple[str, int]
"""(task, seed) of a source solution."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """One delta type's solutions: row i is θ − θ0 of the source `members[i]`."""

    config: DeltaType
    layout: Layout
    theta0: Float32[np.ndarray, " D"]
    fingerprint: str
    """Of θ0 and its layout."""
    rows: Rows
    members: Int[np.ndarray, " n"]
    """The place in `Sources.pairs` of every row, rising."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sources:
    """The solutions that are decomposed together.

    Args:
        name: what errors call them.
        backbone: the backbone's fingerprint; empty where the solutions do not say.
        pairs: the (task, seed) of every source; each block has a row for each of them, or for some.
        blocks: the types by label.
        space, align: how the rows were made: of "factors" or of the "product" of a LoRA's; aligned to each other or not.
    """

    name: str
    backbone: str
    pairs: tuple[Pair, ...]
    blocks: Mapping[str, Block]
    space: str = "factors"
    align: str = "none"

    @property
    def labels(self) -> list[str]:
        """The types by label."""
        return list(self.blocks)

    @property
    def rows(self) -> dict[str, Rows]:
        """By label, the rows."""
        return {label: block.rows for label, block in self.blocks.items()}

    @property
    def complete(self) -> bool:
        """Whether every type has a row for every source."""
        return all(len(block.rows) == len(self.pairs) for block in self.blocks.values())

    def of(self, pairs: Sequence[Pair]) -> Self:
        """Some of the sources, in the order given; a source that is not here is refused."""
        place = {pair: i for i, pair in enumerate(self.pairs)}
        if missing := [pair for pair in pairs if pair not in place]:
            raise InputError(f"expected a solution of {missing[0][0]}, seed {missing[0][1]}, in {self.name}, got none; leave it out")
        blocks = {}
        for label, block in self.blocks.items():
            at = {int(source): row for row, source in enumerate(block.members)}
            kept = [(i, at[place[pair]]) for i, pair in enumerate(pairs) if place[pair] in at]
            if kept:
                blocks[label] = replace(block, rows=block.rows.take([row for _, row in kept]), members=np.array([i for i, _ in kept]))
        return replace(self, pairs=tuple(pairs), blocks=blocks)

    def only(self, labels: Sequence[str]) -> Self:
        """Some of the types; the sources stay."""
        for label in labels:
            if label not in self.blocks:
                raise InputError(f"expected a delta type of {self.name} ({', '.join(self.blocks)}), got {label!r}; choose one of them")
        return replace(self, blocks={label: self.blocks[label] for label in labels})

    def needs_all(self, method: str) -> None:
        """Refuse sources that only some types have."""
        for label, block in self.blocks.items():
            if len(block.rows) < len(self.pairs):
                absent = next(pair for i, pair in enumerate(self.pairs) if i not in set(block.members.tolist()))
                raise InputError(f"expected a solution of every source for {label} to use {method}, got none of {absent[0]}, seed {absent[1]}; "
                                 "use joint_svd, or leave the source out")


def gather(bank: Bank | Sources, labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None, *,
           missing: bool = False) -> Sources:
    """The source solutions of a bank.

    Args:
        bank: or sources, of which the labels and pairs are chosen.
        labels: the delta types; None is all.
        pairs: the (task, seed) of the sources; None is all that every type has, or with `missing` all that some type has.
        missing: take sources too for which only some types have a solution.

    Raises:
        InputError: no label, no solution, one named twice, or one that the bank lacks.
    """
    once("delta type", labels or ())
    once("solution", pairs or ())
    if isinstance(bank, Sources):
        found = bank if labels is None else bank.only(list(labels))
        return found if pairs is None else found.of([(task, int(seed)) for task, seed in pairs])
    labels = bank.labels() if labels is None else list(labels)
    if not labels:
        raise InputError(f"expected at least one delta type to decompose, got none in {bank.path}; train some first")
    have = {label: set(bank.pairs([label])) for label in labels}  # refuses an unknown label
    known = set.union(*have.values()) if missing else set.intersection(*have.values())
    pairs = sorted(known) if pairs is None else [(task, int(seed)) for task, seed in pairs]
    if lacking := sorted(set(pairs) - known):
        raise InputError(f"expected a solution of {lacking[0][0]}, seed {lacking[0][1]}, for each of {', '.join(labels)}, got none in "
                         f"{bank.path}; train it or leave it out")
    if not pairs:
        raise InputError(f"expected solutions that {', '.join(labels)} all have, got none in {bank.path}; train some first")
    blocks = {}
    for label in labels:
        start, members = bank.start(label), [i for i, pair in enumerate(pairs) if pair in have[label]]
        blocks[label] = Block(config=start.config, layout=start.layout, theta0=np.asarray(start.theta0, np.float32),
                              fingerprint=start.fingerprint, rows=Stored(bank.rows(label, [pairs[i] for i in members])),
                              members=np.array(members))
    return Sources(name=str(bank.path), backbone=bank.fingerprint, pairs=tuple(pairs), blocks=blocks)


def once(what: str, given: Sequence[Any]) -> None:
    """Refuse what is named twice."""
    twice = [g for i, g in enumerate(given) if g in list(given)[:i]]
    if twice:
        raise InputError(f"expected every {what} once, got {twice[0]} twice; name it once")
