"""Scores beside what they mean: relative to the full delta, normalised by chance, with bootstrap intervals over tasks and seeds.

    relative   = score / full              normalised = (score − chance) / (full − chance)                of one score
    relative   = mean of score / full      normalised = Σ_tasks (score − chance) / Σ_tasks (full − chance)    of several tasks

A quotient of sums and not a mean of quotients: where a task's full delta is hardly better than chance on the test rows, its own quotient is
noise without bound, and a mean of them is that task's. The sums are over the same tasks for whatever is compared.

`full` is the score of the TARGET type tuned alone on the same task (mean over its seeds), `chance` that of always giving the training
split's most frequent answer. Where full − chance < 0.1 on dev rows for some type, a normalised score divides by about nothing: the
task is listed apart and is in no mean. That is decided by dev rows, before any subspace is fitted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]
"""A line of results.csv: stage, method, k, source, target, task, seed, control, metric, score[, relative, normalised]."""

LEAST = 0.1
"""full − chance on dev below which a task is listed apart."""
DRAWS = 2000
SCALES = ("relative", "normalised")
STAGES = ("optimization", "transfer")


def relative(score: float, full: float) -> float | None:
    """score / full; None where the full delta scores nothing."""
    return score / full if full > 0 else None


def normalised(score: float, full: float, chance: float) -> float | None:
    """(score − chance) / (full − chance); None where the full delta is no better than chance."""
    return (score - chance) / (full - chance) if full - chance > 1e-9 else None


def apart(dev: Mapping[str, Mapping[str, float]], least: float = LEAST) -> list[str]:
    """The tasks whose full delta is less than `least` above chance on dev, for some type.

    Args:
        dev: task → {"chance": its score, label: the full delta's score, …}, all on dev rows.
    """
    return sorted(task for task, scores in dev.items()
                  if not all(score - scores["chance"] >= least for label, score in scores.items() if label != "chance"))


def interval(
    values: Mapping[str, Sequence[float]], *, over: Mapping[str, Sequence[float]] | None = None, draws: int = DRAWS, seed: int = 0,
    level: float = 0.95,
) -> list[float] | None:
    """[low, high] of the mean over tasks of each task's mean, by a cluster bootstrap.

    Tasks are drawn with replacement, and within each drawn task its values (one a seed) with replacement.

    Args:
        values: task → one value a seed; tasks may differ in how many they have.
        over: of the same shape; the interval is of the quotient of the two means, draws in which the second is not above 0 aside.

    Returns:
        None where there are fewer than two values in all.
    """
    tasks = [task for task in sorted(values) if len(values[task])]
    counts = np.array([len(values[task]) for task in tasks])
    if counts.sum() < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(tasks), size=(draws, len(tasks)))
    inner = (rng.random((draws, len(tasks), counts.max())) * counts[drawn][..., None]).astype(np.int64)
    used = np.arange(counts.max()) < counts[drawn][..., None]

    def means(of: Mapping[str, Sequence[float]]) -> np.ndarray:
        table = np.array([np.pad(np.asarray(of[task], np.float64), (0, counts.max() - len(of[task]))) for task in tasks])
        return ((table[drawn[..., None], inner] * used).sum(-1) / counts[drawn]).mean(axis=1)

    found = means(values)
    if over is not None:
        below = means(over)
        found = found[below > 0] / below[below > 0]
    return np.quantile(found, [(1 - level) / 2, (1 + level) / 2]).tolist() if len(found) else None


def mean(rows: Iterable[Row], scale: str, seed: int = 0) -> tuple[float | None, list[float] | None]:
    """Mean over tasks, then seeds, of one column of the rows that have it, and its interval; "normalised" is the quotient of two such means.

    Several rows of one task and seed (types, or pairs of types) are averaged first: they are no independent evidence.
    """
    rows = list(rows)
    if scale != "normalised":
        values = _by_task(rows, scale)
        return _mean(values), interval(values, seed=seed)
    gain, room = _by_task(rows, "gain"), _by_task(rows, "room")
    below = _mean(room)
    if below is None or below <= 1e-9:
        return None, None
    return (_mean(gain) or 0.0) / below, interval(gain, over=room, seed=seed)


def difference(rows: Iterable[Row], others: Iterable[Row], seed: int = 0) -> tuple[float | None, list[float] | None]:
    """The normalised mean of the rows less that of others, and its interval, over the tasks that both have.

    Tasks differ more from each other than two results on one task do: the difference of each task is what is drawn, and two means with wide
    intervals that overlap can be told apart by it.

    Args:
        rows, others: of `scaled`.
    """
    rows, others = list(rows), list(others)
    ours, theirs, room = _by_task(rows, "gain"), _by_task(others, "gain"), _by_task(rows, "room")
    ahead = {task: [float(np.mean(ours[task]) - np.mean(theirs[task]))] for task in ours if task in theirs}
    below = {task: [float(np.mean(room[task]))] for task in ahead}
    mean_room = _mean(below)
    if mean_room is None or mean_room <= 1e-9:
        return None, None
    return (_mean(ahead) or 0.0) / mean_room, interval(ahead, over=below, seed=seed)


def _by_task(rows: Sequence[Row], column: str) -> dict[str, list[float]]:
    """Task → one value a seed, of the rows that have it."""
    cells: dict[str, dict[Any, list[float]]] = {}
    for row in rows:
        if row.get(column) is not None:
            cells.setdefault(row["task"], {}).setdefault(row["seed"], []).append(row[column])
    return {task: [float(np.mean(v)) for _, v in sorted(seeds.items(), key=str)] for task, seeds in cells.items()}


def _mean(values: Mapping[str, Sequence[float]]) -> float | None:
    return float(np.mean([np.mean(v) for v in values.values()])) if values else None


def entry(rows: Iterable[Row], seed: int = 0) -> dict[str, Any]:
    """{relative, normalised: `mean` of the rows; relative_interval, normalised_interval}."""
    rows, found = list(rows), {}
    for scale in SCALES:
        found[scale], found[f"{scale}_interval"] = mean(rows, scale, seed)
    return found


def scaled(rows: Iterable[Row], *, undefined: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The rows with `relative` and `normalised`, from the rows `full` (by target type) and `chance` among them; and what the latter is the
    quotient of, `gain` = score − chance and `room` = full − chance.

    A row without a target type (zero_shot, chance) is set against the mean of all types' full scores. None where there is no full
    score; `normalised`, `gain` and `room` are None for the tasks in `undefined` too.
    """
    rows, undefined = [dict(row) for row in rows], set(undefined)
    full: dict[tuple[str, str], list[float]] = {}
    chance = {row["task"]: row["score"] for row in rows if row["control"] == "chance"}
    for row in rows:
        if row["control"] == "full":
            full.setdefault((row["task"], row["target"]), []).append(row["score"])
    means = {key: float(np.mean(scores)) for key, scores in full.items()}
    for row in rows:
        task, target = row["task"], row["target"]
        own = [mean for (name, label), mean in means.items() if name == task and (label == target or not target)]
        row["relative"] = relative(row["score"], float(np.mean(own))) if own else None
        known = own and task in chance and task not in undefined
        row["normalised"] = normalised(row["score"], float(np.mean(own)), chance[task]) if known else None
        row["gain"] = row["score"] - chance[task] if known else None
        row["room"] = float(np.mean(own)) - chance[task] if known else None
    return rows


def summarise(
    rows: Iterable[Row], *, dev: Mapping[str, Mapping[str, float]], k: int, method: str, groups: Mapping[str, str], seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows with their scales, and the sections of summary.json made of them.

    Means are over the tasks whose group begins with "unseen" (over all in `groups` where none does), less those listed apart.

    Args:
        rows: of results.csv, without scales.
        dev: the full deltas' and chance's dev scores by task, see `apart`.
        k, method: of the tables; the curve has every k of that method.
        groups: task → group.
        seed: of the bootstrap.

    Returns:
        rows, {"optimization": {type: entry}, "transfer": {"lora->adapter": entry}, "controls": {name: {stage: entry}},
        "curve": [{"k", "optimization", "transfer"}], "methods": {method: {k: {stage: entry}}}, "controls_by_k": the same by control,
        "by_group": {group: {stage: entry}}, "groups", "apart"}, where an entry is that
        of `entry`.
    """
    outside = apart(dev)
    rows = scaled(rows, undefined=outside)
    unseen = {task for task, group in groups.items() if group.startswith("unseen")} or set(groups)
    counted = [row for row in rows if row["task"] in unseen - set(outside)]

    def of(where: Callable[[Row], bool]) -> list[Row]:
        return [row for row in counted if where(row)]

    ours = of(lambda r: r["method"] == method and not r["control"] and r["stage"] in STAGES)
    tables = _tables(counted, method, k)
    summary: dict[str, Any] = {}
    for stage, name in (("optimization", "{target}"), ("transfer", "{source}->{target}")):
        cells: dict[str, list[Row]] = {}
        for row in tables:
            if row["stage"] == stage:
                cells.setdefault(name.format(**row), []).append(row)
        summary[stage] = {cell: entry(members, seed) for cell, members in cells.items()}
    names = dict.fromkeys(row["control"] for row in counted if row["control"])
    summary["controls"] = {name: _control(of(lambda r, name=name: r["control"] == name and r["k"] in (k, "", None)), name, seed)
                           for name in names}
    points = sorted({row["k"] for row in ours})
    summary["curve"] = [{"k": point} | _stages([row for row in ours if row["k"] == point], seed) for point in points]
    summary["methods"] = _by_k([row for row in counted if not row["control"] and row["stage"] in STAGES], "method", seed)
    summary["controls_by_k"] = _by_k([row for row in counted if row["control"] and row["stage"] in STAGES], "control", seed)
    summary["by_group"] = {group: _stages([row for row in _tables(rows, method, k) if groups.get(row["task"]) == group
                                           and row["task"] not in outside], seed) for group in dict.fromkeys(groups.values())}
    return rows, {**summary, "groups": dict(groups), "apart": outside}


def _tables(rows: Iterable[Row], method: str, k: int) -> list[Row]:
    """What was tuned and transferred by the method at the k of the tables."""
    return [row for row in rows if row["method"] == method and not row["control"] and row["stage"] in STAGES and row["k"] == k]


def _by_k(rows: Sequence[Row], column: str, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Every method, or control, at every k it was measured at."""
    cells: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        cells.setdefault(row[column], {}).setdefault(str(row["k"]), []).append(row)
    return {name: {k: _stages(members, seed) for k, members in points.items()} for name, points in cells.items()}


def _stages(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    found = {stage: [row for row in rows if row["stage"] == stage] for stage in STAGES}
    return {stage: entry(members, seed) for stage, members in found.items() if members}


def _control(rows: Sequence[Row], name: str, seed: int) -> dict[str, Any]:
    """A control by stage. Where nothing was tuned there is one score a target type, which both stages are to be compared with; the best
    source solution stands for optimization alone, since it is chosen by the target type's own dev rows."""
    found = _stages(rows, seed)
    if not found:
        found = {"optimization": entry(rows, seed)}
    if "transfer" not in found and name in ("mean_only", "zero_shot", "chance", "full"):
        found["transfer"] = found["optimization"]
    return found
