"""A task with few rows: what can be learned of it is left as small as its user has it."""

from collections import Counter
from dataclasses import replace

import numpy as np

from deltas.errors import InputError
from deltas.tasks import Example, Task


def few_shot(task: Task, rows: int, seed: int = 0, *, dev: bool = False) -> Task:
    """The task with `rows` training rows, drawn without replacement.

    Where the task has labels they are drawn in turn, so that none is missing as long as the rows last. More rows of one seed only
    append. The test rows stay: they measure.

    Args:
        rows: at least 1; all rows where the task has no more.
        seed: of the draw.
        dev: cut the dev rows to as many, so that the choice of a step has no more data than the training (Perez et al. 2021,
            arXiv 2105.11447: "true" few-shot learning).

    Example:
        found = subspace.optimize(space, backbone, subspace.few_shot(task, 16, seed=0), through="lora")
    """
    if rows < 1:
        raise InputError(f"expected at least 1 training row to be left of {task.name}, got {rows}; ask for more")
    split = {"train": drawn(task, task.train, rows, [seed, 0])}
    if dev:
        split["dev"] = drawn(task, task.dev, rows, [seed, 1])
    return replace(task, **split)


def drawn(task: Task, examples: tuple[Example, ...], rows: int, seed: list[int]) -> tuple[Example, ...]:
    """Some of the examples, in the order in which they are drawn."""
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    if task.labels:
        seen: Counter[str] = Counter()
        turns = {}
        for n in order:
            answer = examples[n].answers[0]
            turns[n] = seen[answer]
            seen[answer] += 1
        order.sort(key=turns.__getitem__)  # stable: within a turn the draw decides
    return tuple(examples[n] for n in order[:rows])
