"""The table of the combinability study, what it says, and its figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .combining import Combined
from .performance import SOURCE

if TYPE_CHECKING:
    from ..page import Page
    from .ground import Ground

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


def gap_of(one: Combined) -> float:
    """Train − test."""
    return one.gap


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
    return {"combinations": rows, "tasks": [task.name for task in ground.tasks], "chance": chances(ground),
            "backbone": ground.backbone.fingerprint}


def chances(ground: Ground) -> dict[str, float]:
    """Task → the score of always giving the most frequent training answer."""
    from deltas.tasks import chance

    return {task.name: chance(task, "test", ground.rows("test")) for task in ground.tasks}


def draw(out: Path, found: Sequence[Combined]) -> None:
    """figures/combinability-TEMPLATE.png: train and test score of every combination."""
    from landscape.dots import draw_dots
    from landscape.style import Estimate
    from subspace.ranking import mean_of
    from subspace.scores import interval

    groups = grouped(found)
    for template in dict.fromkeys(key[0] for key in groups):
        here = {key: members for key, members in groups.items() if key[0] == template}
        series = {f"{split} rows": {members[0].name: Estimate(mean_of(values), *(interval(values) or ()))
                                    for members in here.values() for values in [by_task(members, lambda one, split=split: getattr(one, split))]}
                  for split in ("test", "train")}
        draw_dots(series, out / "figures" / f"combinability-{template}.png", groups={members[0].name: key[1] for key, members in here.items()},
             xlabel="score, mean over tasks and seeds")


def page_of(ground: Ground, found: Sequence[Combined]) -> Page:
    """The page."""
    from ..page import Main, Page, Section
    from .combining_words import claims_of, findings, headline

    groups = grouped(found)
    settings, templates = ground.settings, list(dict.fromkeys(key[0] for key in groups))
    texts: dict[str, str] = getattr(settings, "templates", {})
    figures = {f"combinability-{name}": f"Template {name}: every combination on the rows it was trained on and on test rows."
               for name in templates}
    return Page(
        title="Combinability of delta types", headline=headline(groups), findings=findings(groups),
        asked="Do delta types do better together than alone, trained at once or one after the other, and what does a combination do to the gap "
        "between train and test rows?",
        main=Main(heads=["types", "trained", "template", "test", "train", "gap"], rows=main_rows(ground, groups), words=3,
                  caption=f"Means over {ground.drawn}. Gap: "
                  f"train − test; train: the {settings.train_rows or 'whole'} rows trained on. Together: all types move at once, "
                  f"{settings.steps} steps. In turn: one after the other, {settings.steps} steps each, those before in place and frozen, "
                  "those after not yet there."),
        claims=claims_of(ground, groups),
        sections=[Section(title="Train and test", words=[f"Template {name}: {texts.get(name, '')}" for name in templates], figures=figures),
                  Section(title="By task", tables=[task_table(ground, groups)])],
        caveats=["A combination in turn has had as many updates for each of its types as a single type has in all.",
                 "Each type keeps the learning rate that was chosen for it alone, and its own start, in every combination.",
                 "Few tasks and rows: intervals of means are wide, and combinations are compared task by task.", ground.grain()],
        source=SOURCE)


def main_rows(ground: Ground, groups: dict[Key, list[Combined]]) -> list[list[object]]:
    """A row a combination, and chance."""
    from subspace.ranking import mean_of
    from subspace.scores import interval

    from ..page import number

    rows: list[list[object]] = []
    for (template, how, _), members in groups.items():
        values = [by_task(members, value) for value in (test_of, lambda one: one.train, gap_of)]
        rows.append([members[0].name, how if members[0].types else "–", template, *(number(mean_of(v), interval(v)) for v in values)])
    own = {name: [value] for name, value in chances(ground).items()}
    return [*rows, ["chance", "–", "–", number(mean_of(own), interval(own)), number(None), number(None)]]


def task_table(ground: Ground, groups: dict[Key, list[Combined]]) -> str:
    """Test scores by task."""
    from ..page import plain

    names, rows = [task.name for task in ground.tasks], []
    for (template, how, types), members in groups.items():
        own = by_task(members, test_of)
        means = [float(sum(own[name]) / len(own[name])) if name in own else float("nan") for name in names]
        rows.append([members[0].name, how if types else "–", template, *means])
    return plain(["types", "trained", "template", *names], rows, "Test scores, mean over seeds.", words=3)
