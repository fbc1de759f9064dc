"""What is learned in which order: the classes of classification tasks, cut into steps, and their rows as tokens."""

from collections.abc import Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int32

from deltas.backbones.loading import Backbone
from deltas.errors import InputError
from deltas.tasks import Example, Reading, Task
from deltas.tasks.batches import tokens, turned

Classes = Mapping[str, tuple[Task, str]]
"""class → the task that it is of, and its label there."""


@dataclass(frozen=True)
class Sequence:
    """Classes by step, in the order in which they arrive.

    Raises:
        InputError: no step, a step without a class, or a class that appears twice: what is learned once must not come again.
    """

    steps: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.steps or not all(self.steps):
            raise InputError(f"expected steps of at least one class each, got {[len(step) for step in self.steps]} classes; name some")
        first: dict[str, int] = {}
        for number, step in enumerate(self.steps, 1):
            for name in step:
                if name in first:
                    where = f"in step {number}" if first[name] == number else f"in steps {first[name]} and {number}"
                    raise InputError(f"expected every class once in a sequence, got {name!r} twice, {where}; take it out of one")
                first[name] = number

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """All of them, in order; the number of a class is its place here."""
        return tuple(name for step in self.steps for name in step)

    def of(self, step: int) -> Bool[np.ndarray, " C"]:
        """Which classes arrive with a step."""
        return np.isin(self.classes, self.steps[step])

    def seen(self, step: int) -> Bool[np.ndarray, " C"]:
        """Which classes have arrived by the end of a step."""
        return np.arange(len(self.classes)) < sum(map(len, self.steps[: step + 1]))

    @property
    def step_of(self) -> Int32[np.ndarray, " C"]:
        """The step of each class."""
        return np.repeat(np.arange(len(self.steps), dtype=np.int32), list(map(len, self.steps)))


def named_classes(tasks: Listed[Task], min_rows: int = 1) -> dict[str, tuple[Task, str]]:
    """The classes of the tasks that have at least `min_rows` training rows: by their label, and as task:label where two tasks share it.

    Raises:
        InputError: a task that is named twice or has no labels, or fewer than two classes in all.
    """
    names = [task.name for task in tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"expected every task once, got {twice[0]!r} twice, whose classes would appear in two steps; name it once")
    found: list[tuple[Task, str]] = []
    for task in tasks:
        if not task.labels:
            raise InputError(f"expected tasks of classes, got {task.name}, whose answers are free text; leave it out")
        answers = [example.answers[0] for example in task.train]
        found += [(task, label) for label in task.labels if answers.count(label) >= min_rows]
    if len(found) < 2:
        raise InputError(f"expected at least two classes of {min_rows} training rows, got {len(found)}; name more tasks or lower min_rows")
    labels = [label for _, label in found]
    return {label if labels.count(label) == 1 else f"{task.name}:{label}": (task, label) for task, label in found}


def in_order(names: Listed[str], per_step: int, seed: int) -> Sequence:
    """The classes in the order of a seed, `per_step` a step; the last step has what is left, a single class that is left joins it."""
    order = [names[int(i)] for i in np.random.default_rng([seed, 6]).permutation(len(names))]
    steps = [tuple(order[first : first + per_step]) for first in range(0, len(order), per_step)]
    if len(steps) > 1 and len(steps[-1]) == 1 < per_step:  # nothing is told apart within one class
        steps[-2:] = [steps[-2] + steps[-1]]
    return Sequence(tuple(steps))


@dataclass(frozen=True, eq=False)
class ClassRows:
    """R rows of known classes as tokens."""

    ids: Int32[np.ndarray, "R S"]
    lengths: Int32[np.ndarray, " R"]
    classes: Int32[np.ndarray, " R"]
    """The number of each row's class in the sequence."""

    @property
    def mask(self) -> Int32[np.ndarray, "R S"]:
        """1 where there is a token."""
        return (np.arange(self.ids.shape[1]) < self.lengths[:, None]).astype(np.int32)

    def where(self, classes: Bool[np.ndarray, " C"]) -> Int32[np.ndarray, " n"]:
        """The numbers of the rows whose class is among those."""
        return np.flatnonzero(classes[self.classes]).astype(np.int32)


def rows_of(
    backbone: Backbone, classes: Classes, sequence: Sequence, split: str, reading: Reading, *, most: int | None = None, seed: int = 0
) -> ClassRows:
    """The rows of a split of every class of the sequence, at most `most` of each, chosen by the seed.

    Every row is padded to `reading.max_input` tokens, so that one compiled program serves every step.

    Raises:
        InputError: a class of the sequence that is not among the classes, or one without a row in the split.
    """
    texts: list[str] = []
    numbers: list[int] = []
    for number, name in enumerate(sequence.classes):
        if name not in classes:
            raise InputError(f"expected classes among {', '.join(classes)}, got {name!r}; choose others")
        task, label = classes[name]
        of_class = [Example(e.input, e.answers[:1]) for e in task.split(split) if e.answers[0] == label]
        if not of_class:
            raise InputError(f"expected {split} rows of every class, got none of {name!r}; raise min_rows, or leave its task out")
        chosen = np.sort(np.random.default_rng([seed, 7, number]).permutation(len(of_class))[:most])
        texts += turned([of_class[i] for i in chosen], task.name, reading)
        numbers += [number] * len(chosen)
    ids, lengths = tokens(texts, backbone.tokenizer, reading, reading.max_input, backbone.config.pad_token_id, backbone.before, backbone.after)
    ids = np.pad(ids, ((0, 0), (0, reading.max_input - ids.shape[1])), constant_values=backbone.config.pad_token_id)
    return ClassRows(ids, lengths, np.asarray(numbers, np.int32))
