"""A made-up finished study, with the columns and keys of a real one, for tests of the report."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from landscape.surface import Mark, Surface

COLUMNS = ("stage", "method", "k", "source", "target", "task", "seed", "control", "metric", "score", "relative", "normalised")
KS = (2, 4, 8, 16, 24)
SETTINGS = """name = "Gym study <synthetic>"
seeds = 1

[backbone]
source = "tiny"

[tasks]
folder = "gym"
sources = ["copy_plural", "copy_past", "reverse_plural", "first_tag"]

[types.lora]
rank = 8

[decomposition]
methods = ["joint_svd"]
k = [2, 4, 8, 16, 24]
main = 16

[landscape]
tolerance = 0.1
"""


def entry(mean: float, half: float = 0.05) -> dict:
    """A summary's number."""
    relative = 0.2 + 0.8 * mean
    return {
        "normalised": mean, "normalised_interval": [mean - half, mean + half], "relative": relative,
        "relative_interval": [relative - half, relative + half],
    }  # fmt: skip


def surface(labels: Sequence[str] = ("lora", "adapter", "prefix"), resolution: int = 21) -> Surface:
    """Bumps of score a little apart from each other, with a few holes."""
    axis = np.linspace(-3, 3, resolution)
    x, y = np.meshgrid(axis, axis)
    rng = np.random.default_rng(1)
    loss, score = [], []
    for t, (a, b) in enumerate([(0.6, 0.4), (0.8, 0.2), (0.5, 0.6)][: len(labels)]):
        q = (x - a) ** 2 + 1.4 * (y - b) ** 2 + 0.5 * (x - a) * (y - b)
        score.append(0.15 + 0.75 * np.exp(-(0.25 + 0.1 * t) * q) + rng.normal(0, 0.008, x.shape))
        loss.append(0.3 + np.log1p(q))
    loss[-1][0, :2] = score[-1][0, :2] = np.nan
    marks = [Mark(name="z = 0", x=0.0, y=0.0, kind="origin"), Mark(name="found", x=0.6, y=0.5, kind="found")]
    marks += [Mark(name=f"s{n}", x=float(a), y=float(b), away=2.0) for n, (a, b) in enumerate(rng.normal(size=(20, 2)))]
    return Surface(
        origin=np.zeros(16), directions=np.eye(16)[:2], x=axis, y=axis, loss=np.stack(loss), score=np.stack(score), labels=tuple(labels),
        marks=tuple(marks), task="second_reverse_plural", metric="exact_match", split="test", axes=("z0", "z1"),
    )  # fmt: skip


def write_study(
    folder: Path,
    *,
    types: Sequence[str] = ("lora", "adapter", "prefix"),
    optimization: float = 0.84,
    transfer: float = 0.68,
    shuffled: float = -0.3,
    groups: bool = True,
    planes: bool = True,
) -> Path:
    """Write results.csv, summary.json, study.toml and a plane; means are the given ones up to noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    unseen = [f"{scope}_{op}_{m}" for scope in ("all", "second") for op in ("reverse", "last") for m in ("plural", "past")]
    kinds = {task: ("unseen_new" if n % 2 else "unseen_met") if groups else "unseen" for n, task in enumerate(unseen)}
    apart = ["all_count_tag"] if groups else []
    kinds |= dict.fromkeys(apart, "unseen_met" if groups else "unseen")
    far = ["all_sort_plural"] if groups else []  # hard on purpose: were it counted, the means would show it
    kinds |= dict.fromkeys(far, "far")
    rows: list[dict] = []

    def add(stage: str, source: str, target: str, task: str, seed: int, normalised: float, control: str = "", k: int | str = 16) -> None:
        full, chance = 0.88, 0.18
        undefined = task in apart
        score = chance + (full - chance) * normalised if not undefined else 0.2 + 0.02 * normalised
        rows.append({
            "stage": stage, "method": "joint_svd", "k": k, "source": source, "target": target, "task": task, "seed": seed,
            "control": control, "metric": "exact_match", "score": score, "relative": score / full,
            "normalised": "" if undefined else normalised,
        })  # fmt: skip

    for task in ("copy_plural", "copy_past", "reverse_plural", "first_tag", *unseen, *apart, *far):
        for label in types:
            add("full", "", label, task, 0, 1.0 + rng.normal(0, 0.01), "full", "")
            add("control", "", label, task, 0, -0.18, "zero_shot", "")
            add("control", "", label, task, 0, 0.0, "chance", "")
    bases = {"": (optimization, transfer), "shuffled": (optimization - 0.05, shuffled), "random_basis": (0.08, -0.3),
             "mean_only": (-0.36, -0.36), "best_source": (0.09, None)}  # fmt: skip
    for task in (*unseen, *apart, *far):
        for source in types:
            for seed in range(3):
                for control, (tuned, moved) in bases.items():
                    add("optimization", source, source, task, seed, tuned - 0.5 * (task in far) + rng.normal(0, 0.06), control)
                    for target in types:
                        if source != target and moved is not None:
                            weaker = 0.12 * ("prefix" in (source, target)) * (control == "")
                            add("transfer", source, target, task, seed, moved - weaker + 0.06 + rng.normal(0, 0.08), control)
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    several = len(types) > 1
    fade = {2: -1.0, 4: -0.75, 8: -0.28, 16: 0.0, 24: 0.01}
    curve = [
        {"k": k, "optimization": entry(optimization + fade[k])} | ({"transfer": entry(transfer + fade[k])} if several else {}) for k in KS
    ]
    summary = {
        "optimization": {t: entry(optimization + 0.02 - 0.03 * n) for n, t in enumerate(types)},
        "transfer": {f"{s}->{t}": entry(transfer + 0.06 - 0.12 * ("prefix" in (s, t)), 0.06) for s in types for t in types if s != t},
        "controls": {
            c: {"optimization": entry(o)} | ({"transfer": entry(m)} if several and m is not None else {})
            for c, (o, m) in bases.items()
            if c
        },
        "curve": curve,
        "groups": kinds,
        "apart": apart,
        "seconds": {"train": 171.4, "decompose": 0.08, "optimize": 44.2, "transfer": 12.0, "landscape": 21.7},
        "versions": {"deltaspace": "0.1.0", "jax": "0.10.2", "flax": "0.12.8", "device": "cpu"},
        "study": {"k": 16},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "study.toml").write_text(SETTINGS)
    if planes:
        surface(types).save(folder / "landscape" / "leading.safetensors")
    return folder
