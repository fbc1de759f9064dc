"""`study combinability`: every subset of the delta types trained together and every order one after the other, on train and test rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .combining import COLUMNS, Combined, combine
from .common import Preset

if TYPE_CHECKING:
    from deltas import Reading

    from .ground import Ground


@dataclass(frozen=True, kw_only=True)
class Combinability(Preset):
    """Subsets and orders of types, with and without a template."""

    types: tuple[str, ...] = ("prompt", "bitfit", "adapter")
    """What is combined."""
    train_rows: int | None = 128
    """Train rows that are trained on and scored, the first ones: few, so that there is a gap to the test rows to see."""
    templates: dict[str, str] = field(default_factory=lambda: {"plain": "{input}"})
    """How a text is read, by name: {input} is the text, {task} the task's name."""
    in_turn: bool = True
    """Whether every order is trained one after the other too."""

    def run(self) -> dict[str, Any]:
        """Train and score every combination; write the table, the figure and the page."""
        from ..experiment import Experiment
        from .combining_page import draw, page_of, summary_of

        made = Experiment(self.out, "combinability", self)
        ground = self.begin(made)
        readings = readings_of(self, ground)
        found: list[Combined] = []
        wanted, attached = ways(ground.labels, self.in_turn), {}
        with made.bars.stage("combine", len(wanted) * len(ground.tasks) * self.seeds * len(readings)) as bar:
            for name, reading in readings.items():
                found += combine(ground, name, reading, wanted, attached, bar)
        draw(self.out, found)
        return made.write([one.row() for one in found], COLUMNS, summary_of(ground, found), page_of(ground, found))


def ways(labels: list[str], in_turn: bool) -> list[tuple[str, tuple[str, ...]]]:
    """(how, types in order): nothing, every subset together, then every order one after the other."""
    from deltas.combining import orders, subsets

    return [("together", chosen) for chosen in subsets(labels)] + [("in turn", order) for order in (orders(labels) if in_turn else ())]


def readings_of(settings: Combinability, ground: Ground) -> dict[str, Reading]:
    """Template → the reading with it; a text without {input} is refused, and so are no templates."""
    from deltas import InputError

    if not settings.templates:
        raise InputError("expected at least one of templates, got none; give one, as plain = \"{input}\"")
    if joint := [label for label in ground.labels if "-" in label]:
        raise InputError(f"expected labels without -, which joins those of a combination, got {joint[0]}; give the type another label")
    found = {name: dataclasses.replace(ground.reading, input=text) for name, text in settings.templates.items()}
    for name, reading in found.items():
        if not name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"expected names of templates of letters, digits, - and _, got {name!r}; they become folders' names")
        ground.check_bank(ground.folder / name, reading)
    return found
