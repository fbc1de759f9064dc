"""Tasks from a folder of tab-separated files, CrossFit style.

    FOLDER/TASK/TASK_{train,dev,test}.tsv                   all data
    FOLDER/TASK/TASK_{shots}_{seed}_{train,dev,test}.tsv    few-shot samples, chosen by `shots="16_100"`
    FOLDER/TASK/task.json                                   optional: {"metric": …, "labels": […], "category": …}

A row is `input \\t answer [\\t further answer …]` in UTF-8. There is no quoting: quotes are text.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deltas.errors import InputError
from deltas.files import read_json
from deltas.tasks.crossfit import TASK_METRICS
from deltas.tasks.metrics import check_metric
from deltas.tasks.task import MOST_LABELS, SPLITS, Example, Task, closed_answers, likely_metric

_CARD_KEYS = ("metric", "labels", "category")
_CLASSES = ("classification_f1", "matthews")  # metrics that by themselves say: the answers are classes


def load_tasks(
    folder: str | Path,
    names: Iterable[str] | None = None,
    *,
    metrics: Mapping[str, str] | None = None,
    shots: str | None = None,
) -> list[Task]:
    """The tasks in a folder, in the order of `names`.

    The metric of a task is the first known of: `metrics`; its `task.json`; CrossFit's table by task name; a guess from its answers
    (`likely_metric`). Its labels: `task.json`, or a guess from its answers (`closed_answers`).

    Args:
        folder: one sub-folder a task.
        names: exact names of sub-folders; None loads every sub-folder with tab-separated files, sorted.
        metrics: task name → name in `METRICS`.
        shots: the few-shot sample "{shots}_{seed}" to load. None loads all data or, where a task has none but a single sample, that.

    Raises:
        InputError: a folder, task, file or split that is missing or empty, an unknown name (near misses are named), or a row that
            is not input, tab, answer (file and line are named).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"expected a folder of tasks at {folder}, got no such folder; check the path")
    present = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.tsv")))
    if not present:
        raise InputError(f"expected sub-folders with <task>_train.tsv and the like in {folder}, got none; point to the folder above them")
    names = present if names is None else [names] if isinstance(names, str) else list(names)
    for name in (*names, *(metrics or {})):
        if name not in present:
            near = difflib.get_close_matches(name, present, n=3, cutoff=0.5) or present[:5]
            raise InputError(f"expected a task of {folder}, got {name!r}; did you mean {' or '.join(near)}?")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"expected each task once, got {twice!r} twice; remove one")
    return [_load(folder / name, (metrics or {}).get(name), shots) for name in names]


def _load(folder: Path, metric: str | None, shots: str | None) -> Task:
    name, card = folder.name, _card(folder / "task.json")
    prefix = _prefix(folder, shots)
    train, dev, test = (_read(folder / f"{prefix}_{split}.tsv") for split in SPLITS)
    metric = metric or card.get("metric") or TASK_METRICS.get(name)
    if metric:
        check_metric(metric, name)
    labels = card.get("labels") or closed_answers(train, dev + test, most=None if metric in _CLASSES else MOST_LABELS)
    return Task(
        name=name,
        train=train,
        dev=dev,
        test=test,
        metric=metric or likely_metric(train, labels),
        labels=tuple(labels) if labels else None,
        category=card.get("category", ""),
    )


def _prefix(folder: Path, shots: str | None) -> str:
    """What the three files are called before their split: the task's name, or the name and a few-shot sample."""
    # the whole file name is matched: TASK must never be found inside another task's name
    pattern = re.compile(re.escape(folder.name) + r"(?:_(\d+_\d+))?_(?:train|dev|test)\.tsv")
    found = {match[1] for path in folder.iterdir() if (match := pattern.fullmatch(path.name))}
    samples = sorted(sample for sample in found if sample)
    if shots is None and None not in found:
        if not samples:
            raise InputError(f"expected {folder.name}_train.tsv in {folder}, got other files only; name the files after their folder")
        if len(samples) > 1:
            raise InputError(f"expected a choice among the few-shot samples of {folder}, got none; set shots to {' or '.join(samples)}")
        shots = samples[0]
    if shots is not None and shots not in samples:
        raise InputError(
            f"expected the few-shot sample {shots!r} in {folder}, "
            f"got {', '.join(samples) or 'no few-shot samples'}; {'choose one of these' if samples else 'leave shots out'}"
        )
    return f"{folder.name}_{shots}" if shots else folder.name


def _read(path: Path) -> tuple[Example, ...]:
    """The rows of one split."""
    if not path.is_file():
        raise InputError(f"expected the file {path.name} in {path.parent}, got none; a task needs train, dev and test")
    examples = []
    with open(path, "rb") as file:  # bytes break at \n only: other line separators are text, and a bad row is known by its line
        for line, raw in enumerate(file, start=1):
            try:
                row = raw.decode("utf-8-sig" if line == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise InputError(f"expected UTF-8 text, got other bytes in {path} line {line}; convert the file") from None
            text, *answers = row.split("\t")
            answers = tuple(answer.strip() for answer in answers)
            if not answers:
                raise InputError(f"expected input, tab, answer, got a row without a tab in {path} line {line}; mend or remove the row")
            if not all(answers):
                raise InputError(f"expected an answer after each tab, got an empty one in {path} line {line}; mend or remove the row")
            examples.append(Example(text, answers))
    if not examples:
        raise InputError(f"expected rows in {path}, got an empty file; fill it or leave the task out")
    return tuple(examples)


def _card(path: Path) -> dict[str, Any]:
    """What a `task.json` says, checked."""
    if not path.exists():
        return {}
    card = read_json(path)
    if not isinstance(card, dict):
        raise InputError(f"expected a JSON object in {path}, got {type(card).__name__}; write {{\"metric\": …}}")
    for key, value in card.items():
        if key not in _CARD_KEYS:
            near = difflib.get_close_matches(key, _CARD_KEYS, n=1, cutoff=0)[0]
            raise InputError(f"expected {', '.join(_CARD_KEYS)} in {path}, got {key!r}; did you mean {near!r}?")
        words = isinstance(value, list) and len(value) > 0 and all(isinstance(word, str) and word for word in value)
        if not (words if key == "labels" else isinstance(value, str)):
            kind = "a list of words" if key == "labels" else "a word"
            raise InputError(f"expected {kind} as {key} in {path}, got {value!r}; correct it")
    return card
