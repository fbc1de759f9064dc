"""The table of the combinability study, what it says, and its figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .combining import Combined
from .performance import SOURCE

if TYPE_CHECKING:
    from ..page import Page
    from ..report_findings import Finding
    from .common import Ground

CLAIMED = {(): 23.7, ("adapter",): 87.4, ("bitfit",): 86.6, ("bitfit", "adapter"): 87.1, ("prompt",): 77.7, ("prompt", "adapter"): 86.6,
           ("prompt", "bitfit"): 86.5, ("prompt", "bitfit", "adapter"): 87.0}
"""RoBERTa-large, full data, no template, GLUE average, together."""
Key = tuple[str, str, tuple[str, ...]]
"""(template, how, types in order)"""


def grouped(found: Sequence[Combined]) -> dict[Key, list[Combined]]:
    """By combination, in the order they were made."""
    groups: dict[Key, list[Combined]] = {}
    for one in found:
        groups.setdefault((one.template, one.how, one.types), []).append(one)
    return groups


def by_task(members: Sequence[Combined], value: Callable[[Combined], float]) -> dict[str, list[float]]:
    """Task → a value a seed."""
    values: dict[str, list[float]] = {}
    for one in sorted(members, key=lambda one: (one.task, one.seed)):
        values.setdefault(one.task, []).append(value(one))
    return values


def test_of(one: Combined) -> float:
    """The test score."""
    return one.test


def summary_of(ground: Ground, found: Sequence[Combined]) -> dict[str, Any]:
    """Every combination's means with their intervals."""
    from subspace.ranking import mean_of
    from subspace.scores import interval

    rows = []
    for (template, how, types), members in grouped(found).items():
        told: dict[str, Any] = {"template": template, "how": how, "types": list(types), "parameters": members[0].parameters}
        for name in ("train", "test", "gap", "dev"):
            values = by_task(members, lambda one, name=name: getattr(one, name))
            told |= {name: mean_of(values), f"{name}_interval": interval(values)}
        rows.append(told)
    return {"combinations": rows, "tasks": [task.name for task in ground.tasks], "chance": chances(ground), "backbone": ground.backbone.fingerprint}


def chances(ground: Ground) -> dict[str, float]:
    """Task → the score of always giving the most frequent training answer."""
    from .common import majority

    return {task.name: majority(ground.exam(task)) for task in ground.tasks}


def draw(out: Path, found: Sequence[Combined]) -> None:
    """figures/combinability-TEMPLATE.png: train and test score of every combination."""
    from landscape.dots import dots
    from landscape.style import Estimate
    from subspace.ranking import mean_of
    from subspace.scores import interval

    groups = grouped(found)
    for template in dict.fromkeys(key[0] for key in groups):
        here = {key: members for key, members in groups.items() if key[0] == template}
        series = {f"{split} rows": {members[0].name: Estimate(mean_of(values), *(interval(values) or ()))
                                    for members in here.values() for values in [by_task(members, lambda one, split=split: getattr(one, split))]}
                  for split in ("test", "train")}
        dots(series, out / "figures" / f"combinability-{template}.png", groups={members[0].name: key[1] for key, members in here.items()},
             xlabel="score, mean over tasks and seeds")


def page_of(ground: Ground, found: Sequence[Combined]) -> Page:
    """The page."""
    from subspace.ranking import mean_of
    from subspace.scores import interval

    from ..page import Main, Page, Section, number, plain

    groups, names, chance = grouped(found), [task.name for task in ground.tasks], chances(ground)
    templates = list(dict.fromkeys(key[0] for key in groups))
    rows: list[list[object]] = []
    single: list[list[object]] = []
    for (template, how, _), members in groups.items():
        values = [by_task(members, value) for value in (test_of, lambda one: one.train, lambda one: one.gap)]
        rows.append([members[0].name, how, template, *(number(mean_of(v), interval(v)) for v in values)])
        single.append([members[0].name, how, template, *(float(sum(values[0][n]) / len(values[0][n])) if n in values[0] else float("nan")
                                                         for n in names)])
    own = {name: [value] for name, value in chance.items()}
    rows.append(["chance", "–", "–", number(mean_of(own), interval(own)), number(None), number(None)])
    texts = {name: ground.settings.templates[name] for name in templates}  # type: ignore[attr-defined]
    return Page(
        title="Combinability of delta types", asked="Do delta types do better together than alone, trained at once or one after the other, and what "
        "does a combination do to the gap between train and test rows?",
        headline=headline(groups), findings=findings(groups),
        main=Main(heads=["types", "trained", "template", "test", "train", "gap"], rows=rows, words=3,
                  caption=f"Means over {len(names)} tasks and {ground.settings.seeds} seeds with 95% intervals (tasks and seeds drawn). Gap: train − test; "
                  f"train: the {ground.settings.train_rows or 'whole'} rows trained on. In turn: each type is trained with those before it in place and "
                  "frozen, from the same start, and with as many steps as all of them have together when trained at once."),
        claims=claims_of(ground, groups),
        sections=[Section(title="Train and test", words=[f"Template {name}: {text}" for name, text in texts.items()],
                          figures={f"combinability-{name}": f"Template {name}: every combination on the rows it was trained on and on test rows." for name in
                                   templates}),
                  Section(title="By task", tables=[plain(["types", "trained", "template", *names], single, "Test scores, mean over seeds.", words=3)])],
        caveats=["A combination in turn has had more updates in all: its last type has as many as a single type, after those before it had theirs.",
                 "Each type keeps its own learning rate in every combination, chosen for the type alone.",
                 "Few tasks and rows: intervals of means are wide, and combinations are compared task by task."],
        source=SOURCE)


def ahead(groups: dict[Key, list[Combined]], ours: Key, theirs: Key, value: Callable[[Combined], float] = test_of) -> Any:
    """The difference task by task."""
    from subspace.ranking import difference

    return difference(by_task(groups[ours], value), by_task(groups[theirs], value))


def best(groups: dict[Key, list[Combined]], where: Callable[[Key], bool]) -> Key | None:
    """The combination that is best on dev rows, so that test rows choose nothing."""
    from subspace.ranking import mean_of

    return max((key for key in groups if where(key)), key=lambda key: mean_of(by_task(groups[key], lambda one: one.dev)), default=None)


def headline(groups: dict[Key, list[Combined]]) -> Finding:
    """The best combination of several, as dev rows choose it, against the best single type."""
    from ..page import number
    from ..report_findings import Finding

    first = next(iter(groups))[0]
    alone = best(groups, lambda key: key[0] == first and len(key[2]) == 1)
    several = best(groups, lambda key: key[0] == first and len(key[2]) > 1)
    if alone is None or several is None:
        return Finding("open", "With one type there is nothing to combine.")
    d = ahead(groups, several, alone)
    told = {1: "is better than", 0: "cannot be told apart from", -1: "is worse than"}[d.sign]
    return Finding("for" if d.sign > 0 else "against", f"The best combination by dev rows, {groups[several][0].name} ({several[1]}), {told} the best single "
                   f"type, {groups[alone][0].name}: {number(d.value, d.interval)} on test rows, task by task.")


def findings(groups: dict[Key, list[Combined]]) -> list[Finding]:
    """What adding a type does, what the order does, what happens to the gap, what a template does."""
    from ..report_findings import Finding

    found: list[Finding] = []
    for template in dict.fromkeys(key[0] for key in groups):
        labels = [key[2][0] for key in groups if key[0] == template and len(key[2]) == 1]
        found += [Finding("note", text) for text in (*_adding(groups, template, labels), *_ordering(groups, template, labels))]
    found += [Finding("note", text) for text in _gaps(groups)]
    return found + [Finding("note", text) for text in _templates(groups)]


def _adding(groups: dict[Key, list[Combined]], template: str, labels: list[str]) -> list[str]:
    """Each type: what it adds to the others, over all subsets without it."""
    from subspace.ranking import Difference, mean_of
    from subspace.scores import interval

    from ..page import number

    told = []
    for label in labels:
        gains: dict[str, list[float]] = {}
        for key in [key for key in groups if key[:2] == (template, "together") and key[2] and label not in key[2]]:
            wider = (template, "together", tuple(one for one in labels if one in (*key[2], label)))
            before, after = by_task(groups[key], test_of), by_task(groups[wider], test_of) if wider in groups else {}
            for task, values in after.items():
                if len(before.get(task, [])) == len(values):
                    gains.setdefault(task, []).extend(a - b for a, b in zip(values, before[task], strict=True))
        if gains:
            d = Difference(mean_of(gains), interval(gains), len(gains))
            word = {1: "helps", 0: "makes no difference beyond doubt", -1: "hurts"}[d.sign]
            told.append(f"Template {template}, together: adding {label} to one or more others {word} ({number(d.value, d.interval)} on test rows).")
    return told


def _ordering(groups: dict[Key, list[Combined]], template: str, labels: list[str]) -> list[str]:
    """All types in turn: the spread over orders, and against all at once."""
    from subspace.ranking import mean_of

    from ..page import number

    means = {key: mean_of(by_task(members, test_of)) for key, members in groups.items()
             if key[:2] == (template, "in turn") and len(key[2]) == len(labels)}
    if len(means) < 2:
        return []
    top, low = max(means, key=lambda key: means[key]), min(means, key=lambda key: means[key])
    d = ahead(groups, top, low)
    told = [f"Template {template}, all in turn: the best of {len(means)} orders ({groups[top][0].name}) is {number(d.value, d.interval)} ahead of the worst "
            f"({groups[low][0].name}); picked as extremes on test rows, so that this is the most that an order may matter."]
    at_once = (template, "together", tuple(labels))
    if at_once in groups:
        pooled = {task: [v for key in means for v in by_task(groups[key], test_of).get(task, [])] for task in by_task(groups[at_once], test_of)}
        from subspace.ranking import difference

        d = difference(pooled, by_task(groups[at_once], test_of))
        told.append(f"Template {template}: all in turn, mean over orders, less all together: {number(d.value, d.interval)}.")
    return told


def _gaps(groups: dict[Key, list[Combined]]) -> list[str]:
    """The gap of the largest combination against that of the single types."""
    from subspace.ranking import difference

    from ..page import number

    told = []
    for template in dict.fromkeys(key[0] for key in groups):
        singles = [key for key in groups if key[0] == template and len(key[2]) == 1]
        whole = (template, "together", tuple(key[2][0] for key in singles))
        if len(singles) < 2 or whole not in groups:
            continue
        pooled: dict[str, list[float]] = {}
        for key in singles:
            for task, values in by_task(groups[key], lambda one: one.gap).items():
                pooled.setdefault(task, []).extend(values)
        d = difference(by_task(groups[whole], lambda one: one.gap), pooled)
        word = {1: "widens", 0: "does not change beyond doubt", -1: "narrows"}[d.sign]
        told.append(f"Template {template}: combining all types at once {word} the gap between train and test rows, against single types "
                    f"({number(d.value, d.interval)}).")
    return told


def _templates(groups: dict[Key, list[Combined]]) -> list[str]:
    """What a template adds, over all combinations that both have."""
    from subspace.ranking import difference

    from ..page import number

    templates = list(dict.fromkeys(key[0] for key in groups))
    told = []
    for other in templates[1:]:
        sides: list[dict[str, list[float]]] = [{}, {}]
        for key in [key for key in groups if key[0] == templates[0] and key[2] and (other, *key[1:]) in groups]:
            for side, own in zip(sides, (key, (other, *key[1:])), strict=True):
                for task, values in by_task(groups[own], test_of).items():
                    side.setdefault(task, []).extend(values)
        d = difference(sides[1], sides[0])
        word = {1: "better", 0: "the same within the interval", -1: "worse"}[d.sign]
        told.append(f"With template {other} in place of {templates[0]}, trained combinations are {word} ({number(d.value, d.interval)}).")
    return told


def claims_of(ground: Ground, groups: dict[Key, list[Combined]]) -> list[tuple[str, str, str]]:
    """The paper's table beside ours, where the types are those."""
    from subspace.ranking import mean_of

    from ..page import number

    first = next(iter(groups))[0]
    kinds = {one.label: one.name for one in ground.types}
    ours = {tuple(kinds[label] for label in key[2]): key for key in groups if key[:2] == (first, "together")}
    shared = [kind for kind in CLAIMED if kind in ours]
    why = (f"The claim is of RoBERTa-large trained to the end on all of GLUE; here {len(ground.tasks)} tasks, {ground.settings.train_rows or 'all'} rows and "
           f"{ground.training.steps} steps on {ground.backbone.name} ({ground.parameters / 1e6:.1f}M weights), whose answers are ranked.")
    claims = []
    if len(shared) > 1:
        claims.append(("together, GLUE average: " + ", ".join(f"{' + '.join(kind) or 'none'} {CLAIMED[kind]}" for kind in shared),
                       ", ".join(f"{' + '.join(kind) or 'none'} {100 * mean_of(by_task(groups[ours[kind]], test_of)):.1f}" for kind in shared), why))
    if ("prompt",) in ours and ("adapter",) in ours:
        d = ahead(groups, ours["prompt",], ours["adapter",])
        claims.append(("a prompt alone stays behind (77.7 against 87.4)", f"prompt − adapter {number(d.value, d.interval)}", why))
        if ("prompt", "adapter") in ours:
            d = ahead(groups, ours["prompt", "adapter"], ours["adapter",])
            claims.append(("a prompt beside an adapter adds nothing (86.6 against 87.4)", f"prompt + adapter − adapter {number(d.value, d.interval)}",
                           "the same setting"))
    return claims
