"""What is claimed of an order of methods beside what was found, in words computed from the numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from subspace.ranking import LEAST_TASKS

from ..page import number
from ..report_findings import Finding, Verdict
from ..report_html import listed

if TYPE_CHECKING:
    from deltas import DeltaType
    from subspace.ranking import Difference

Pairs = Mapping[tuple[str, str], "Difference"]
"""(better, worse), by the claim → the difference."""


def labels_of(kinds: Sequence[str], types: Sequence[DeltaType]) -> list[str]:
    """The labels of the types of those kinds, in the order of the kinds; kinds that are not studied are passed over."""
    return [next(one.label for one in types if one.name == kind) for kind in kinds if any(one.name == kind for one in types)]


def stands(d: Difference, alike: bool) -> str:
    """What a difference says of the claim that the first is better, or that the two are alike."""
    if alike and d.tasks >= LEAST_TASKS:
        return "as claimed, not told apart" if d.sign == 0 else "told apart, not alike"
    return {1: "as claimed", 0: "not told apart", -1: "the other way round"}[d.sign]


def told(pairs: Pairs, alike: Collection[tuple[str, str]] = ()) -> str:
    """Each pair's difference and what it says of the claim; "not measured" without any."""
    parts = [f"{' − '.join(pair)} {number(d.value, d.interval)} ({stands(d, pair in alike)})" for pair, d in pairs.items()]
    return "; ".join(parts) or "not measured"


def judged(order: Sequence[str], found: Sequence[str], pairs: Pairs, alike: Collection[tuple[str, str]] = ()) -> Finding:
    """The headline: the order found, and how many neighbours in the claimed order stand as claimed, beyond the intervals."""
    start = f"The order found is {' > '.join(found)}"
    if not pairs:
        return Finding("open", f"{start}; fewer than two methods of the claimed order were studied.")
    words = [stands(d, pair in alike).split(",")[0] for pair, d in pairs.items()]
    turned = words.count("the other way round") + words.count("told apart")
    verdict: Verdict = "against" if turned else "for" if words.count("as claimed") == len(words) else "open"
    counts = [f"{words.count(word)} {word}" for word in ("as claimed", "not told apart", "the other way round", "told apart") if word in words]
    claimed = " > ".join(order)
    for pair in alike:
        claimed = claimed.replace(" > ".join(pair), " ≈ ".join(pair))
    few = min(d.tasks for d in pairs.values())
    counts[-1] += f", {few} tasks being too few to tell any apart" * (few < LEAST_TASKS)
    return Finding(verdict, f"{start}; of the {len(pairs)} neighbours in the claimed order {claimed}: {listed(counts)} (task by task, 95% "
                   "intervals).")


def sorted_by(values: Mapping[str, float]) -> list[str]:
    """Names, the largest value first."""
    return sorted(values, key=lambda name: -values[name])
