"""What a task is: named text-to-text examples in three splits, a metric, and perhaps a closed set of label words."""

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from deltas.errors import InputError
from deltas.files import sha256
from deltas.tasks.metrics import METRICS, OF_CLASSES, check_metric

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

MOST_LABELS = 20
"""More distinct answers than this are not taken for a label set, unless the metric says that they are one."""
ROWS_A_LABEL = 5
"""Training rows that a label has on average; answers seen less often are free text."""
LONG_ANSWER = 12
"""Words; answers longer than this on average are scored by overlap, since nobody writes them word for word."""


@dataclass(frozen=True)
class Example:
    """One input text and the answers that count as right; the first answer is the one trained on."""

    input: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A text-to-text task.

    Args:
        name: unique among the tasks of a study.
        train, dev, test: the splits, none of them empty.
        metric: a name in `METRICS`.
        labels: the label words if the answers form a closed set, so that they can be ranked by likelihood; otherwise None.
        category: a family of tasks, for tables and splits; may be empty.

    Raises:
        InputError: an unknown metric, an empty split, or a training answer outside the labels.
    """

    name: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    metric: str
    labels: tuple[str, ...] | None = None
    category: str = ""

    def __post_init__(self) -> None:
        check_metric(self.metric, self.name)
        for split in SPLITS:
            if not self.split(split):
                raise InputError(f"expected rows in the {split} split of task {self.name}, got none; add some or leave the task out")
        if self.labels is not None:
            stray = {e.answers[0] for e in self.train} - set(self.labels)
            if stray:
                raise InputError(
                    f"expected every training answer of task {self.name} among its labels ({', '.join(self.labels)}), "
                    f"got {min(stray)!r}; complete the labels or leave them out"
                )

    def scored_by(self, metric: str | None) -> "Task":
        """The task with another metric; None leaves its own.

        Raises:
            InputError: an unknown metric, or one that its answers do not have: a score of classes without labels, pearson of words.
        """
        if metric is None or check_metric(metric, self.name) == self.metric:
            return self
        if metric in OF_CLASSES and self.labels is None:
            raise InputError(f"expected a metric that {self.name} has, got {metric}, which is of classes, and its answers are free text; choose "
                             "exact_match, qa_f1 or rouge_l")
        for split in SPLITS if metric == "pearson" else ():  # refuses answers that are no numbers
            METRICS[metric](["0"] * len(self.split(split)), [example.answers for example in self.split(split)])
        return replace(self, metric=metric)

    def split(self, name: str) -> tuple[Example, ...]:
        """The examples of "train", "dev" or "test"."""
        if name not in SPLITS:
            raise InputError(f"expected a split named {', '.join(SPLITS)}, got {name!r}; use one of these")
        return getattr(self, name)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any text, its order, the metric or the labels (not with the category)."""
        rows = [[[e.input, *e.answers] for e in self.split(split)] for split in SPLITS]
        return sha256(json.dumps([self.name, self.metric, self.labels, rows], ensure_ascii=False))


def closed_answers(train: Sequence[Example], others: Iterable[Example], *, most: int | None = MOST_LABELS) -> tuple[str, ...] | None:
    """The label words if the answers look like classes, otherwise None.

    They do when every row has a single answer, training shows at most `most` distinct ones (None: any number), each at least
    `ROWS_A_LABEL` times on average, and every other row's answer is among them. A guess, for tasks that come without a word about it.

    Returns:
        The labels in alphabetical order.
    """
    labels = {e.answers[0] for e in train}
    if most is not None and len(labels) > most:
        return None
    single = {(label,) for label in labels}
    if len(train) < ROWS_A_LABEL * len(labels) or any(e.answers not in single for e in (*train, *others)):
        return None
    return tuple(sorted(labels))


def likely_metric(train: Sequence[Example], labels: Sequence[str] | None) -> str:
    """A metric for a task about which nothing is known: accuracy on labels, rouge_l on long answers, otherwise exact_match."""
    if labels:
        return "accuracy"
    words = sum(len(e.answers[0].split()) for e in train) / max(len(train), 1)
    return "rouge_l" if words > LONG_ANSWER else "exact_match"
