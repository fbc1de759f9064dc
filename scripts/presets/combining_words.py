"""What was found of combinations, in words computed from the numbers, and the paper's table beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from subspace.ranking import Difference, difference, mean_of

from ..page import number
from ..report_findings import Finding
from .combining import Combined
from .combining_page import Key, by_task, gap_of, test_of

if TYPE_CHECKING:
    from .ground import Ground

Groups = Mapping[Key, Sequence[Combined]]
CLAIMED = {(): 23.7, ("adapter",): 87.4, ("bitfit",): 86.6, ("bitfit", "adapter"): 87.1, ("prompt",): 77.7, ("prompt", "adapter"): 86.6,
           ("prompt", "bitfit"): 86.5, ("prompt", "bitfit", "adapter"): 87.0}
"""RoBERTa-large, full data, no template, GLUE average, together."""


def told(d: Difference) -> str:
    """A difference and its interval."""
    return str(number(d.value, d.interval))


def ahead(groups: Groups, ours: Key, theirs: Key) -> Difference:
    """By how much one combination is ahead on test rows, task by task."""
    return difference(by_task(groups[ours], test_of), by_task(groups[theirs], test_of))


def pooled(groups: Groups, keys: Iterable[Key], value: Callable[[Combined], float]) -> dict[str, list[float]]:
    """Task → the values of several combinations."""
    values: dict[str, list[float]] = {}
    for key in keys:
        for task, own in by_task(groups[key], value).items():
            values.setdefault(task, []).extend(own)
    return values


def best(groups: Groups, where: Callable[[Key], bool]) -> Key | None:
    """The combination that is best on dev rows, so that test rows choose nothing."""
    return max((key for key in groups if where(key)), key=lambda key: mean_of(by_task(groups[key], lambda one: one.dev)), default=None)


def headline(groups: Groups) -> Finding:
    """The best combination of several types, as dev rows choose it, against the best single type."""
    first = next(iter(groups))[0]
    alone = best(groups, lambda key: key[0] == first and len(key[2]) == 1)
    several = best(groups, lambda key: key[0] == first and len(key[2]) > 1)
    if alone is None or several is None:
        return Finding("open", "With one type there is nothing to combine.")
    d = ahead(groups, several, alone)
    word = {1: "is better than", 0: "cannot be told apart from", -1: "is worse than"}[d.sign]
    return Finding("for" if d.sign > 0 else "against", f"The best combination by dev rows, {groups[several][0].name} ({several[1]}), {word} the "
                   f"best single type, {groups[alone][0].name}: {told(d)} on test rows, task by task.")


def findings(groups: Groups) -> list[Finding]:
    """What adding a type does, what the order does, what happens to the gap, what a template does."""
    found: list[str] = []
    templates = list(dict.fromkeys(key[0] for key in groups))
    for template in templates:
        labels = [key[2][0] for key in groups if key[0] == template and len(key[2]) == 1]
        where = f"template {template}" if len(templates) > 1 else ""
        found += [" ".join(filter(None, [where.capitalize() + ":" if where else "", text]))
                  for text in (*_adding(groups, template, labels), *_ordering(groups, template, labels), *_gaps(groups, template, labels))]
    return [Finding("note", text) for text in (*found, *_templates(groups, templates))]


def _adding(groups: Groups, template: str, labels: Sequence[str]) -> list[str]:
    """What each type adds to the others, over all subsets without it."""
    found = []
    for label in labels:
        pairs = [(key, (template, "together", tuple(one for one in labels if one in (*key[2], label))))
                 for key in groups if key[:2] == (template, "together") and key[2] and label not in key[2]]
        pairs = [pair for pair in pairs if pair[1] in groups]
        if pairs:
            d = difference(pooled(groups, [wider for _, wider in pairs], test_of), pooled(groups, [key for key, _ in pairs], test_of))
            word = {1: "helps", 0: "makes no difference beyond doubt", -1: "hurts"}[d.sign]
            found.append(f"Trained together, adding {label} to the others {word} ({told(d)} on test rows).")
    return found


def _ordering(groups: Groups, template: str, labels: Sequence[str]) -> list[str]:
    """All types in turn: the spread over orders, and against all at once."""
    means = {key: mean_of(by_task(members, test_of)) for key, members in groups.items()
             if key[:2] == (template, "in turn") and len(key[2]) == len(labels)}
    if len(means) < 2:
        return []
    top, low = max(means, key=lambda key: means[key]), min(means, key=lambda key: means[key])
    found = [f"All types in turn: the best of {len(means)} orders ({groups[top][0].name}) is {told(ahead(groups, top, low))} ahead of the worst "
             f"({groups[low][0].name}); both were picked by test rows, so this is the most that an order may matter."]
    whole = (template, "together", tuple(labels))
    if whole in groups:
        d = difference(pooled(groups, means, test_of), by_task(groups[whole], test_of))
        found.append(f"All types in turn, mean over orders, less all types together: {told(d)} on test rows.")
    return found


def _gaps(groups: Groups, template: str, labels: Sequence[str]) -> list[str]:
    """The gap of all types at once, and in turn, against that of the single types."""
    single = pooled(groups, [key for key in groups if key[0] == template and len(key[2]) == 1], gap_of)
    found = []
    for how in ("together", "in turn"):
        keys = [key for key in groups if key[:2] == (template, how) and len(key[2]) == len(labels) > 1]
        if keys:
            d = difference(pooled(groups, keys, gap_of), single)
            word = {1: "is wider than", 0: "cannot be told apart from", -1: "is narrower than"}[d.sign]
            found.append(f"The gap between train and test rows of all types {how} {word} that of single types ({told(d)}).")
    return found


def _templates(groups: Groups, templates: Sequence[str]) -> list[str]:
    """What a template adds, over all combinations that both have."""
    found = []
    for other in templates[1:]:
        keys = [key for key in groups if key[0] == templates[0] and key[2] and (other, *key[1:]) in groups]
        d = difference(pooled(groups, [(other, *key[1:]) for key in keys], test_of), pooled(groups, keys, test_of))
        word = {1: "better", 0: "not told apart", -1: "worse"}[d.sign]
        found.append(f"With template {other} in place of {templates[0]}, trained combinations are {word} ({told(d)} on test rows).")
    return found


def claims_of(ground: Ground, groups: Groups) -> list[tuple[str, str, str]]:
    """The paper's table beside ours, where the types are those."""
    first = next(iter(groups))[0]
    kinds = {one.label: one.name for one in ground.types}
    ours = {tuple(kinds[label] for label in key[2]): key for key in groups if key[:2] == (first, "together")}
    shared = {kind: ours[kind] for kind in CLAIMED if kind in ours}
    why = (f"The claim is of RoBERTa-large trained to the end on all of GLUE; here {len(ground.tasks)} tasks, "
           f"{ground.settings.train_rows or 'all'} rows and {ground.training.steps} steps on {ground.name} "
           f"({ground.parameters / 1e6:.1f}M weights).")
    if ground.backbone.kind == "encoder":
        why += " Its labels are ranked by a fixed way of answering, so that it starts far above the paper's untrained classifier."
    claims = []
    if len(shared) > 1:
        theirs = ", ".join(f"{' + '.join(kind) or 'none'} {CLAIMED[kind]}" for kind in shared)
        found = ", ".join(f"{' + '.join(kind) or 'none'} {100 * mean_of(by_task(groups[key], test_of)):.1f}" for kind, key in shared.items())
        claims.append((f"together, GLUE average: {theirs}", found, why))
    for text, better, worse in (("an adapter alone is ahead of a prompt alone (87.4 against 77.7)", ("adapter",), ("prompt",)),
                                ("a prompt gains by an adapter beside it (77.7 → 86.6)", ("prompt", "adapter"), ("prompt",)),
                                ("all three are no better than an adapter alone (87.0 against 87.4)", ("prompt", "bitfit", "adapter"),
                                 ("adapter",))):
        if better in shared and worse in shared:
            d = ahead(groups, shared[better], shared[worse])
            claims.append((text, f"{' + '.join(better)} − {' + '.join(worse)}: {told(d)}", "as above"))
    return claims
