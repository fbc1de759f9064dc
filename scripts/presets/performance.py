"""`study performance`: what each delta type reaches on each task, how much of the backbone it trains, beside full fine-tuning and controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .common import Preset

if TYPE_CHECKING:
    from deltas import Bank

    from ..page import Page
    from .ground import Ground

CLAIMED = ("full", "lora", "adapter", "prefix", "prompt")
"""Best first: of T5-base, over 100 tasks."""
COLUMNS = ("method", "task", "seed", "control", "metric", "parameters", "share", "dev", "score")
SOURCE = ("Ding et al., Parameter-efficient fine-tuning of large-scale pre-trained language models, Nature Machine Intelligence 5, 220–235 "
          "(2023).")


@dataclass(frozen=True, kw_only=True)
class Performance(Preset):
    """Methods × tasks."""

    types: tuple[str, ...] = ("full", "lora", "adapter", "prefix", "prompt", "bitfit")
    """The methods."""

    def run(self) -> dict[str, Any]:
        """Train, score, rank; write the table, the figure and the page."""
        from deltas.training import attached_from
        from subspace.ranking import mean_ranks, neighbours

        from ..experiment import Experiment

        made = Experiment(self.out, "performance", self)
        ground = self.begin(made)
        bank = ground.train()
        scores = {label: ground.scored(bank, label) for label in ground.labels}
        controls = ground.controls(attached_from(bank, ground.backbone, ground.labels[-1]))["test"]
        ranks = mean_ranks(scores)
        pairs = neighbours(labels_claimed(ground), scores)
        draw(ground, scores, controls)
        summary = {"ranks": ranks, "controls": controls, "failed": bank.failed(), "backbone": ground.backbone.fingerprint,
                   "parameters": {label: bank.start(label).layout.size for label in ground.labels} | {"backbone": ground.parameters},
                   "neighbours": {" > ".join(pair): one._asdict() for pair, one in pairs.items()}}
        page = page_of(ground, bank, scores, controls, ranks, pairs)
        return made.write(rows_of(ground, bank, controls), COLUMNS, summary, page)


def labels_claimed(ground: Ground) -> list[str]:
    """The claimed order, of the types that are studied."""
    from .orders import labels_of

    return labels_of(CLAIMED, ground.types)


def rows_of(ground: Ground, bank: Bank, controls: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """A row a solution, and the controls."""
    rows: list[dict[str, Any]] = []
    for label in ground.labels:
        size = bank.start(label).layout.size
        for task in ground.tasks:
            for seed in range(ground.settings.seeds):
                if bank.file(label, task.name, seed).is_file():
                    found = bank.scores(label, task.name, seed)
                    rows.append({"method": label, "task": task.name, "seed": seed, "metric": task.metric, "parameters": size,
                                 "share": round(size / ground.parameters, 8), "dev": found["dev"], "score": found["test"]})
    return rows + [{"control": name, "task": task.name, "metric": task.metric, "score": controls[task.name][name]}
                   for name in ("zero_shot", "chance") for task in ground.tasks]


def draw(ground: Ground, scores: dict[str, dict[str, list[float]]], controls: dict[str, dict[str, float]]) -> None:
    """figures/performance.png."""
    from landscape.dots import draw_dots
    from landscape.style import Estimate
    from subspace.ranking import mean_of
    from subspace.scores import interval

    means = {label: Estimate(mean_of(of), *(interval(of) or ())) for label, of in scores.items()}
    order = sorted(means, key=lambda label: -means[label].value)
    points = {label: {task: sum(v) / len(v) for task, v in scores[label].items() if v} for label in order}
    references = {name.replace("_", "-"): sum(one[name] for one in controls.values()) / len(controls) for name in ("zero_shot", "chance")}
    draw_dots({"mean over tasks": {label: means[label] for label in order}}, ground.settings.out / "figures" / "performance.png", points=points,
              references=references, xlabel="test score")


def page_of(ground: Ground, bank: Bank, scores: Any, controls: Any, ranks: dict[str, float], pairs: Any) -> Page:
    """The table and what it says."""
    from subspace.ranking import mean_of
    from subspace.scores import interval

    from ..page import Main, Page, Section, number
    from .orders import judged, sorted_by, told

    names = [task.name for task in ground.tasks]
    rows: list[list[object]] = []
    for label in sorted_by({label: mean_of(of) for label, of in scores.items()}):
        size, of = bank.start(label).layout.size, scores[label]
        rows.append([label, f"{100 * size / ground.parameters:.3g}%", number(mean_of(of), interval(of)), ranks[label],
                     *(number(sum(of[n]) / len(of[n]) if of[n] else None) for n in names)])
    for name in ("zero_shot", "chance"):
        own = {task: [one[name]] for task, one in controls.items()}
        rows.append([name.replace("_", "-"), "0%", number(mean_of(own), interval(own)), number(None),
                     *(number(controls[n][name]) for n in names)])
    order = labels_claimed(ground)
    headline = judged(order, [str(row[0]) for row in rows[:-2]], pairs)
    why = (f"{len(names)} tasks and {ground.training.steps} steps of {ground.training.batch_size} rows on {ground.name} "
           f"({ground.parameters / 1e6:.1f}M weights); the claim is of T5-base (220M) trained to the end on over 100 tasks. With so few steps, "
           "how fast a method learns decides as much as what it could reach: see the convergence study.")
    return Page(
        title="Performance of delta types", asked="How near does each delta type come to full fine-tuning, and with how many trained numbers?",
        headline=headline,
        main=Main(heads=["method", "trained", "score", "mean rank", *names], rows=rows, words=2,
                  caption=f"Test scores: mean over {ground.drawn}, then each task's mean over seeds. "
                  "Trained: numbers of the delta, as a share of the backbone's weights."),
        claims=[(f"{' > '.join(CLAIMED)} on T5-base, over 100 tasks", told(pairs), why)],
        sections=[Section(title="Score by method", figures={
            "performance": "Large dots: mean over tasks with its 95% interval; small marks: each task's mean over seeds; dashed: controls."})],
        caveats=["Learning rates are one a method, chosen on dev rows; each solution is the one of its best look at the dev rows.",
                 "Few tasks: an interval over them is wide, and differences between methods are drawn task by task.", ground.grain()],
        source=SOURCE)
