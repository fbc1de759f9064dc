"""The power of scale: delta types on backbones of several sizes, at their usual sites and at random ones with as many parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import Answering

if TYPE_CHECKING:
    import deltas
    from deltas.types import DeltaType

    from ..progress import Bar
    from ..trials import Trials

LOOKS = 6
"""At the dev rows, a training: what convergence is read from."""
USUAL, RANDOM, TENSORS = "usual sites", "random sites", "random tensors"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Train each type on each backbone, at its usual sites, at random sites of the same count, and as many of the backbone's own numbers.

    What may differ between backbones is one value for all or one a backbone, in their order.
    """

    out: Path
    """Where the table, the figure and the report are written"""
    backbones: tuple[str, ...] = ("tiny",)
    """Hugging Face folders or hub ids, or "tiny" """
    tasks: tuple[str, ...] = ("gym",)
    """A folder of tasks, or "gym" (one for all, or one a backbone)"""
    names: tuple[str, ...] = ("middle.last.kind",)
    """The tasks of a backbone, joined by + (one for all, or one a backbone)"""
    decode: tuple[Answering, ...] = ("rank",)
    """Answers by greedy generation, or by ranking the labels (one for all, or one a backbone)"""
    types: tuple[str, ...] = ("lora:rank=8", "adapter:bottleneck=24,bias=true,sites=ff")
    """Delta types, lora or adapter, with settings; at fewer sites than they could stand at, so that others can be drawn"""
    exclude: tuple[str, ...] = ("",)
    """Patterns of sites, joined by +, that nothing random is drawn from (one for all, or one a backbone)"""
    selections: int = 2
    """Random selections of each kind"""
    seeds: int = 2
    """Trainings of each"""
    steps: tuple[int, ...] = (60,)
    """Updates of each training (one for all, or one a backbone)"""
    batch_size: int = 8
    """Rows an update"""
    rates: tuple[float, ...] = (0.003,)
    """Peak learning rate (one for all, or one a backbone)"""
    part: float = 0.9
    """Of the way from chance to the best dev score: the steps to there are those of convergence"""
    max_input: int = 32
    """Tokens kept of an input; all are padded to it, so that a type compiles once"""
    max_target: int = 8
    """Tokens kept of an answer"""
    dev_rows: int = 64
    """Dev rows looked at"""
    test_rows: int | None = None
    """Test rows; all where not given"""

    def run(self) -> None:
        """Check everything, train, draw, write."""
        from ..options import use_devices

        use_devices(None)
        from ..experiment import Experiment
        from ..trials import Trials, parameters_of
        from .scale_page import write

        plans = self.plans()
        made = Experiment(self.out, "scale", self)
        rows: list[dict[str, Any]] = []
        sizes = {plan["name"]: parameters_of(plan["backbone"]) for plan in plans}
        with made.bars.stage("train", sum(plan["steps"] * len(plan["configs"]) * len(plan["tasks"]) * self.seeds for plan in plans)) as bar:
            for plan in plans:
                trials = Trials(made, plan["name"], plan["backbone"], plan["tasks"], plan["reading"], self.test_rows)
                rows += self.controls(trials) + [row for line in plan["configs"] for row in self.trained(trials, plan, line, bar)]
        write(made, rows, sizes)

    def plans(self) -> list[dict[str, Any]]:
        """What is trained on each backbone; all input is checked here.

        Raises:
            InputError: any setting that is out of range, or has neither one value nor one a backbone.
        """
        import deltas
        from deltas.verbalizer import can_answer

        from ..options import load_tasks, parse_type
        from ..trials import counted, of_backbone, patterns_of

        counted({"backbones": len(self.backbones), "selections": self.selections, "seeds": self.seeds, "batch_size": self.batch_size,
                 "steps": min(self.steps, default=0), "dev_rows": self.dev_rows, "test_rows": 1 if self.test_rows is None else self.test_rows})
        if not 0 < self.part <= 1:
            raise deltas.InputError(f"expected a part above 0 and at most 1, got {self.part}; choose another")
        types = [parse_type(text) for text in self.types]
        for config in types:
            if config.name not in ("lora", "adapter"):
                raise deltas.InputError(f"expected types among lora and adapter, got {config.name}; sites are drawn for these")
        plans = []
        for number, source in enumerate(self.backbones):
            own = {field: of_backbone(self, field, number) for field in ("tasks", "names", "decode", "exclude", "steps", "rates")}
            backbone = deltas.load_backbone(source)
            reading = deltas.Reading(max_input=self.max_input, max_target=self.max_target, decode=own["decode"], buckets=(self.max_input,))
            exclude = patterns_of(own["exclude"], deltas.sites(backbone.module))
            tasks = load_tasks(own["tasks"], tuple(filter(None, own["names"].split("+"))))
            can_answer(backbone, tasks, reading)
            plans.append({"name": Path(source).name, "backbone": backbone, "tasks": tasks, "reading": reading, "steps": own["steps"],
                          "rate": own["rates"], "configs": [line for config in types for line in self.selected(backbone, config, exclude)]})
        return plans

    def selected(self, backbone: deltas.Backbone, config: DeltaType, exclude: tuple[str, ...]) -> Iterator[tuple[str, str, int, DeltaType]]:
        """(method, selection, key, type): the type itself, and what is drawn in its place with as many parameters, or a few less.

        Raises:
            InputError: the type stands at every site that it can, and there is nothing to draw.
        """
        import deltas

        fields = {name: getattr(config, name) for name in ("rank", "alpha", "bottleneck") if hasattr(config, name)}
        places = deltas.sites(backbone.module)
        whole = deltas.Arbitrary(budget=1, share=1.0, kinds=(config.name,), exclude=exclude, **fields).groups(places)
        usual = set(config.choose(places))
        budget = sum(group.size for group in whole if group.site in usual)
        if usual >= {group.site for group in whole}:
            raise deltas.InputError(f"expected sites of {config.label} that leave others to draw from, got all {len(usual)}; name fewer, as in "
                                    f"{config.name}:sites=ff")
        yield config.label, USUAL, 0, config
        for key in range(self.selections):
            yield config.label, RANDOM, key, deltas.Arbitrary(
                label=f"{config.label}-sites{key}", budget=budget, structure=key, share=1.0, kinds=(config.name,), exclude=exclude, **fields)
        for key in range(self.selections):
            yield config.label, TENSORS, key, deltas.Arbitrary(
                label=f"{config.label}-tensors{key}", budget=budget, structure=key, share=0.0, kinds=("tensor",), exclude=exclude)

    def trained(self, trials: Trials, plan: dict[str, Any], line: tuple[str, str, int, DeltaType], bar: Bar) -> Iterator[dict[str, Any]]:
        """The rows of one type on all tasks of a backbone."""
        import deltas
        from deltas.tasks import chance

        method, selection, key, config = line
        training = deltas.Training(steps=plan["steps"], batch_size=self.batch_size, learning_rate=plan["rate"], dev_rows=self.dev_rows,
                                   evaluate_every=max(plan["steps"] // LOOKS, 1), segment=max(plan["steps"] // LOOKS, 1))
        for task in plan["tasks"]:
            for seed in range(self.seeds):
                found = trials.trial(config, training, task, seed)
                yield {"backbone": plan["name"], "method": method, "selection": selection, "key": key, "task": task.name, "seed": seed,
                       "metric": task.metric, "control": "", "parameters": found["parameters"], "score": found["score"], "dev": found["dev"],
                       "converged": converged(found["history"], chance(task, "dev", self.dev_rows), self.part)}
                bar(plan["steps"], f"{plan['name']} {config.label}")

    def controls(self, trials: Trials) -> list[dict[str, Any]]:
        """Chance and the bare backbone on each task."""
        return [{"backbone": trials.name, "task": task.name, "metric": task.metric, "control": name, "score": score}
                for task in trials.tasks for name, score in trials.controls(task).items()]


def converged(history: list[dict[str, float]], chance: float, part: float) -> int | None:
    """The first look at the dev rows whose score is `part` of the way from chance to the best; None where no look is above chance."""
    best = max((look["dev_score"] for look in history), default=chance)
    if best <= chance:
        return None
    return next(int(look["step"]) for look in history if look["dev_score"] >= chance + part * (best - chance))
