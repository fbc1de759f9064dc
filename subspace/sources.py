"""What is decomposed: by delta type the solutions as rows, where each type starts, and which source every row belongs to.

A method sees no folder and no file: it asks `Sources` for Gram matrices and for combinations of rows. `gather` makes them of a bank,
`gather_folders` (`subspace.foreign`) of other libraries' checkpoints.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Int

from deltas.bank import Bank
from deltas.errors import InputError
from deltas.files import sha256
from deltas.layout import Layout
from deltas.types import DeltaType
from subspace.rows import Rows, Stored

Pair = tuple[str, int]
"""(task, seed) of a source solution."""
NAMED = "name:"
"""What stands before the name of a backbone of which the fingerprint is not known."""


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
        backbone: the backbone's fingerprint; `name:` and the name of its model where the solutions say no more, empty where they say nothing.
        pairs: the (task, seed) of every source; each block has a row for each of them, or for some.
        blocks: the types by label.
        space, align: how the rows were made: of "factors" or of the "product" of a LoRA's; aligned to each other or not.
        manifest: an entry for every file or folder that was looked at: its `path`, `type`, `task`, `seed` and `size`, a `status` of "used" or
            "left out", and the `reason` of the latter.
        files: what the rows are read from, each with its length and time when it was found.
    """

    name: str
    backbone: str
    pairs: tuple[Pair, ...]
    blocks: Mapping[str, Block]
    space: str = "factors"
    align: str = "none"
    manifest: tuple[Mapping[str, Any], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """A fingerprint of the files as they were found: paths, lengths and times."""
        return sha256(*(f"{path} {mark}\n" for path, mark in sorted(self.files.items())))

    def unchanged(self) -> None:
        """Refuse files that are no longer what they were when they were found; a job asks before it writes its result.

        Raises:
            InputError: naming the first file that was changed, replaced or removed.
        """
        now = marks(self.files)
        if changed := [path for path, mark in self.files.items() if now[path] != mark]:
            raise InputError(f"expected {changed[0]} as it was when the job began, got another ({len(changed)} of {len(now)} files of "
                             f"{self.name} changed); run it again")

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
    known, asked = set.union(*have.values()) if missing else set.intersection(*have.values()), pairs is not None
    pairs = sorted(known) if pairs is None else [(task, int(seed)) for task, seed in pairs]
    if lacking := sorted(set(pairs) - known):
        raise InputError(f"expected a solution of {lacking[0][0]}, seed {lacking[0][1]}, for each of {', '.join(labels)}, got none in "
                         f"{bank.path}; train it or leave it out")
    if not pairs:
        raise InputError(f"expected solutions that {', '.join(labels)} all have, got none in {bank.path}; train some first")
    files = {(label, pair): str(bank.file(label, *pair)) for label in labels for pair in sorted(have[label])}
    found = marks([*(path for (_, pair), path in files.items() if pair in set(pairs)),
                   *(str(Path(bank.path) / "theta0" / f"{label}.safetensors") for label in labels)])  # before anything is read
    blocks = {}
    for label in labels:
        start, members = bank.start(label), [i for i, pair in enumerate(pairs) if pair in have[label]]
        blocks[label] = Block(config=start.config, layout=start.layout, theta0=np.asarray(start.theta0, np.float32),
                              fingerprint=start.fingerprint, rows=Stored(bank.rows(label, [pairs[i] for i in members])),
                              members=np.array(members))

    def why(pair: Pair) -> str:
        absent = [label for label in labels if pair not in have[label]]
        if pair in set(pairs):
            return ""
        return "not among the solutions that were asked for" if asked else f"there is no solution of {' and '.join(absent)} for it"

    manifest = [entry(path, label, *pair, blocks[label].layout.size, why(pair)) for (label, pair), path in files.items()]
    manifest += [entry("", failed["label"], failed["task"], failed["seed"], None, f"its training failed at step {failed['step']}")
                 for failed in bank.failed() if failed["label"] in labels]
    return Sources(name=str(bank.path), backbone=bank.fingerprint, pairs=tuple(pairs), blocks=blocks, manifest=tuple(manifest), files=found)


def entry(path: str, kind: str, task: str, seed: int, size: int | None, reason: str = "", **more: Any) -> dict[str, Any]:
    """An entry of a manifest: used, or left out for a reason."""
    return {"path": path, "type": kind, "task": task, "seed": seed, "size": size, **more, "status": "left out" if reason else "used",
            "reason": reason}


def marks(paths: Iterable[str]) -> dict[str, str]:
    """By path, its length and time; `gone` for a file that is not there."""
    found = {}
    for path in paths:
        try:
            about = os.stat(path)
            found[path] = f"{about.st_size} {about.st_mtime_ns}"
        except OSError:
            found[path] = "gone"
    return found


def once(what: str, given: Sequence[Any]) -> None:
    """Refuse what is named twice."""
    twice = [g for i, g in enumerate(given) if g in list(given)[:i]]
    if twice:
        raise InputError(f"expected every {what} once, got {twice[0]} twice; name it once")
