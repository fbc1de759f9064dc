"""`study convergence`: score and loss on dev rows against steps, a curve a delta type, and the steps to most of the gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .common import Preset
from .performance import SOURCE

if TYPE_CHECKING:
    from deltas import Bank

    from ..page import Page
    from .ground import Ground

CLAIMED = ("full", "adapter", "lora", "prefix", "prompt")
"""Fastest first; adapter and LoRA about alike."""
COLUMNS = ("method", "task", "seed", "step", "train_loss", "dev_loss", "dev_score", "chance")
Looks = dict[str, dict[str, list[list[dict[str, float]]]]]
"""Method → task → seed → looks at the dev rows, the first before any training."""


@dataclass(frozen=True, kw_only=True)
class Convergence(Preset):
    """Methods against steps."""

    types: tuple[str, ...] = ("full", "lora", "adapter", "prefix", "prompt", "bitfit")
    """The methods."""
    evaluate_every: int = 10
    """Steps between two looks at the dev rows, which are the points of a curve."""
    segment: int = 10
    """Steps that are run at a stretch; evaluate_every is a multiple of it."""
    share: float = 0.9
    """Of the whole gain on dev rows: how many steps it takes is counted."""

    def run(self) -> dict[str, Any]:
        """Train, read the histories, write the table, the figures and the page."""
        from deltas import InputError
        from deltas.training import attached_from

        from ..experiment import Experiment

        if not 0 < self.share <= 1:
            raise InputError(f"expected a share above 0 and at most 1, got {self.share}; 0.9 is usual")
        if self.evaluate_every > self.steps:
            raise InputError(f"expected evaluate_every of at most the {self.steps} steps, got {self.evaluate_every}; lower it, since every look "
                             "is a point of the curve")
        if self.evaluate_every % max(self.segment, 1):
            raise InputError(f"expected evaluate_every as a multiple of segment, {self.segment}, got {self.evaluate_every}; change one, since "
                             "looks come at the end of a segment")
        made = Experiment(self.out, "convergence", self)
        ground = self.begin(made)
        bank = ground.train()
        controls = ground.controls(attached_from(bank, ground.backbone, ground.labels[-1]), ["dev"])["dev"]
        looks = {label: looks_of(ground, bank, label, controls) for label in ground.labels}
        speeds = speeds_of(looks, self.share)
        draw(ground, looks)
        summary = {"speeds": speeds, "controls": controls, "failed": bank.failed(), "backbone": ground.backbone.fingerprint,
                   "histories": looks}
        return made.write(rows_of(looks, controls), COLUMNS, summary, page_of(ground, self.share, looks, speeds, controls))


def looks_of(ground: Ground, bank: Bank, label: str, controls: dict[str, dict[str, float]]) -> dict[str, list[list[dict[str, float]]]]:
    """Of one method; what failed is left out."""
    found: dict[str, list[list[dict[str, float]]]] = {}
    for task in ground.tasks:
        alone = controls[task.name]
        first = {"step": 0, "dev_score": alone["zero_shot"], "dev_loss": alone["zero_shot_loss"]}
        seeds = [seed for seed in range(ground.settings.seeds) if bank.file(label, task.name, seed).is_file()]
        found[task.name] = [[first, *bank.load(label, task.name, seed).provenance["history"]] for seed in seeds]
    return found


def speeds_of(looks: Looks, share: float) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Measure → method → task → a value a seed: steps to the share of the gain, of the fall of the loss; mean height of the score."""
    from deltas.convergence import mean_height, steps_to_share

    found: dict[str, dict[str, dict[str, list[float]]]] = {"steps": {}, "loss_steps": {}, "height": {}}
    for label, tasks in looks.items():
        for name, of in tasks.items():
            lines = [([look["step"] for look in one], [look["dev_score"] for look in one], [-look["dev_loss"] for look in one]) for one in of]
            for measure, values in (("steps", [steps_to_share(t, s, share) for t, s, _ in lines]),
                                    ("loss_steps", [steps_to_share(t, loss, share) for t, _, loss in lines]),
                                    ("height", [mean_height(t, s) for t, s, _ in lines])):
                found[measure].setdefault(label, {})[name] = [value for value in values if value is not None]
    return found


def rows_of(looks: Looks, controls: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """A row a look."""
    return [{"method": label, "task": task, "seed": seed, "chance": controls[task]["chance"], **look}
            for label, tasks in looks.items() for task, of in tasks.items() for seed, one in enumerate(of) for look in one]


def draw(ground: Ground, looks: Looks) -> None:
    """figures/convergence.png: score and loss against steps."""
    from landscape.courses import draw_courses
    from landscape.style import Estimate
    from subspace.ranking import mean_of
    from subspace.scores import interval

    panels = {}
    for name, key in (("dev score", "dev_score"), ("dev loss", "dev_loss")):
        panels[name] = {}
        for label, tasks in looks.items():
            steps = [look["step"] for look in next(one for of in tasks.values() for one in of)]
            at = {step: {task: [one[n][key] for one in of] for task, of in tasks.items() if of} for n, step in enumerate(steps)}
            panels[name][label] = {step: Estimate(mean_of(of), *(interval(of) or ())) for step, of in at.items()}
    draw_courses(panels, ground.settings.out / "figures" / "convergence.png")


def page_of(ground: Ground, part: float, looks: Looks, speeds: Any, controls: dict[str, dict[str, float]]) -> Page:
    """The table and what it says."""
    from subspace.ranking import mean_of, neighbours
    from subspace.scores import interval

    from ..page import Main, Page, Section, number
    from .orders import judged, labels_of, sorted_by, told

    share = f"{part:.0%}"
    final = {label: {task: [max(look["dev_score"] for look in one) for one in of] for task, of in tasks.items()}
             for label, tasks in looks.items()}
    found = sorted_by({label: mean_of(of) for label, of in speeds["height"].items()})
    rows: list[list[object]] = []
    for label in found:
        cells = [(of[label], interval(of[label])) for of in (speeds["steps"], speeds["loss_steps"], speeds["height"], final)]
        gained = sum(map(len, speeds["steps"][label].values()))
        rows.append([label, *(number(mean_of(of), between) for of, between in cells), f"{gained} of {sum(map(len, final[label].values()))}"])
    for name in ("zero_shot", "chance"):
        own = {task: [one[name]] for task, one in controls.items()}
        rows.append([name.replace("_", "-"), number(None), number(None), number(None), number(mean_of(own), interval(own)), "–"])
    order = labels_of(CLAIMED, ground.types)
    pairs = neighbours(order, speeds["height"])
    alike = [pair for pair in pairs if pair == tuple(labels_of(("adapter", "lora"), ground.types))]
    why = (f"By the mean height of the dev score over {ground.training.steps} steps, on {ground.name}; the learning rate of each "
           "method is its own, chosen on dev rows, and what is called fast depends on it. Scale was not varied.")
    return Page(
        title="Convergence of delta types", headline=judged(order, found, pairs, alike),
        asked="How fast does each delta type get to where it ends?",
        main=Main(heads=["method", f"steps to {share} of the gain", f"steps to {share} of the fall of the loss", "mean score over the course",
                         "best score", "gained"], rows=rows,
                  caption=f"On dev rows, means over {ground.drawn}. Steps are to a share of the "
                  "method's own gain over the backbone alone, so a method that gains little may be done soon; those that gained nothing are "
                  "left out."),
        claims=[("full, then adapter ≈ LoRA, then prefix, then prompt; faster with scale", told(pairs, alike), why)],
        sections=[Section(title="Curves", figures={
            "convergence": "Mean over tasks and seeds on dev rows, with 95% intervals; step 0 is the backbone alone."})],
        caveats=["Warm-up and cosine decay are part of every curve: the last steps are small ones for all methods.",
                 "The dev rows are those on which the best look is kept, so the best score is a little high; test scores are in the performance "
                 "study.", ground.grain()],
        source=SOURCE)
