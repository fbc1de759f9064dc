"""Controls: subspaces that lack one thing each, under the same contract.

mean_only     no directions: every z decodes to the mean solution. A subspace whose scores are no better found nothing but the mean.
random_basis  directions that know nothing of the solutions: any k dimensions of that scale.
shuffled      real directions of every type, paired wrongly between types: tuning through one type still works, transfer must not.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Int

from deltas.bank import Bank
from deltas.errors import InputError
from deltas.files import sha256
from subspace.base import Subspace
from subspace.fastfood import fastfood
from subspace.gram import unexplained
from subspace.joint_svd import fit, joint_svd, within_reach
from subspace.sources import Pair, Sources, gather


def mean_only(bank: Bank | Sources, k: int = 1, *, labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None) -> Subspace:
    """decode(z) = θ0 + μ for every z: the basis is zero. k only sets how long the z it ignores is."""
    space = joint_svd(bank, k, labels=labels, pairs=pairs)
    parts = {label: replace(part, basis=np.zeros_like(part.basis)) for label, part in space.parts.items()}
    return replace(space, method="mean_only", codes=np.zeros_like(space.codes), parts=parts, energy=dict.fromkeys(parts, 0.0),
                   spectrum=np.zeros(0), null=np.zeros(0))


def random_basis(
    bank: Bank | Sources, k: int, *, labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None,
    kind: Literal["gaussian", "fastfood"] = "gaussian", seed: int = 0
) -> Subspace:
    """Random directions, drawn for each type on its own, around the same mean.

    "gaussian": every entry of U_t is N(0, ‖U_t‖²_F / kD) with the norm of joint_svd's U_t, so that a step in z moves θ as far as it does
    there. "fastfood": the structured draw of `subspace.fastfood`, scaled to the same norm. The draw depends on the kind, the seed, the
    label and the layout alone. A source's code is the mean of its types' least-squares codes: tiny, since k random directions hold about
    k/D of a solution.

    Raises:
        InputError: another kind, or what joint_svd refuses.
    """
    if kind not in ("gaussian", "fastfood"):
        raise InputError(f"expected a random basis of the kind 'gaussian' or 'fastfood', got {kind!r}; choose one of them")
    sources = gather(bank, labels, pairs)
    space, parts = joint_svd(sources, k), {}
    for label, part in space.parts.items():
        rng = np.random.default_rng([seed, 4, int(sha256(label, str(part.layout.to_json())), 16)])
        drawn = rng.standard_normal((k, len(part.mean)), np.float32) if kind == "gaussian" else fastfood(k, len(part.mean), rng)
        drawn *= np.linalg.norm(part.basis) / np.linalg.norm(drawn)
        parts[label] = replace(part, basis=drawn)
    space = replace(space, method="random_basis", parts=parts, spectrum=np.zeros(0), null=np.zeros(0), settings={"kind": kind, "seed": seed})
    codes, seen = np.zeros((len(sources.pairs), k)), np.zeros((len(sources.pairs), 1))
    for label, block in sorted(sources.blocks.items()):
        for i, n in enumerate(block.members):
            codes[n] += space.encode(label, block.theta0 + block.rows[i])
            seen[n] += 1
    codes /= seen
    left = {label: unexplained(block.rows, parts[label].mean, codes[block.members], parts[label].basis)
            for label, block in sources.blocks.items()}
    return replace(space, codes=codes.astype(np.float32), energy={label: 1 - rest / total for label, (rest, total) in left.items()})


def shuffled(
    bank: Bank | Sources, k: int, *, labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None, seed: int = 0
) -> Subspace:
    """joint_svd of types whose rows are paired with other tasks' rows.

    The first type (by label) keeps its order and gives `pairs` their meaning; every other one is deranged: none of its rows stands beside
    the same task, whatever the seed of the solution. Where there are tasks enough, no two of the other types agree either. A single
    type has no pairing to break, and is decomposed as it is.

    Raises:
        InputError: one task has more than half of the solutions, so that there is no such derangement.
    """
    sources = gather(bank, labels, pairs)
    within_reach(k, len(sources.pairs))
    sources.needs_all("shuffled")
    turn = dict(zip(sorted(sources.labels), derangements(sources.pairs, len(sources.labels), seed), strict=True))
    blocks = {label: replace(block, rows=block.rows.take(turn[label].tolist())) for label, block in sources.blocks.items()}
    return fit(replace(sources, blocks=blocks), k, "shuffled", {"seed": seed}, seed)


def derangements(pairs: Sequence[Pair], types: int, seed: int) -> list[Int[np.ndarray, " N"]]:
    """For each type the row that stands at every place: the identity first, then orders in which no place keeps its task.

    Tasks are laid on a ring in random order, their rows side by side, and type t is turned by t·N/types places: two types that are turned
    against each other by at least the rows of the largest task never share a task at any place.
    """
    n, rng = len(pairs), np.random.default_rng([seed, 5])
    tasks = sorted({task for task, _ in pairs})
    largest = max(sum(task == other for other, _ in pairs) for task in tasks)
    if types > 1 and 2 * largest > n:
        raise InputError(f"expected solutions to shuffle of which no task has more than half, got {largest} of one task among {n}; "
                         "train more tasks")
    place = {task: int(p) for task, p in zip(tasks, rng.permutation(len(tasks)), strict=True)}
    ring = np.array(sorted(range(n), key=lambda i: (place[pairs[i][0]], pairs[i])))
    found = []
    for t in range(types):
        turn = t * n // types if n // types >= largest else min(t, 1) * largest
        order = np.empty(n, np.int64)
        order[ring] = np.roll(ring, -turn)
        found.append(order)
    return found
