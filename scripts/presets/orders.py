"""What is claimed of an order of methods beside what was found, in words computed from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..page import number
from ..report_findings import Finding, Verdict
from ..report_html import listed

if TYPE_CHECKING:
    from deltas import DeltaType
    from subspace.ranking import Difference

HOW = {1: "as claimed", 0: "cannot be told apart", -1: "the other way round"}


def labels_of(kinds: Sequence[str], types: Sequence[DeltaType]) -> list[str]:
    """The labels of the types of those kinds, in the order of the kinds; kinds that are not studied are passed over."""
    return [next(one.label for one in types if one.name == kind) for kind in kinds if any(one.name == kind for one in types)]


def told(pairs: Mapping[tuple[str, str], Difference], unit: str = "") -> str:
    """Each pair's difference and what it says of the claim."""
    parts = [f"{first} − {second} {number(d.value, d.interval)}{unit} ({HOW[d.sign]})" for (first, second), d in pairs.items()]
    return "; ".join(parts)


def judged(order: Sequence[str], found: Sequence[str], pairs: Mapping[tuple[str, str], Difference]) -> Finding:
    """The headline: the order found, and how many of the claimed order's neighbours stand as claimed, beyond the intervals."""
    signs = [d.sign for d in pairs.values()]
    held, turned = signs.count(1), signs.count(-1)
    verdict: Verdict = "against" if turned else "for" if signs and held == len(signs) else "open"
    words = [f"{held} stand as claimed"] * (held > 0) + [f"{turned} the other way round"] * (turned > 0)
    words += [f"{len(signs) - held - turned} cannot be told apart"] * (held + turned < len(signs))
    return Finding(verdict, f"The order found is {' > '.join(found)}; of the {len(signs)} neighbours in the claimed order {' > '.join(order)}, "
                   f"{listed(words) or 'none was measured'} (task by task, 95% intervals).")


def sorted_by(values: Mapping[str, float]) -> list[str]:
    """Names, the largest value first."""
    return sorted(values, key=lambda name: -values[name])
