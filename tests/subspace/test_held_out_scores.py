"""Scores of held-out tasks: those of a subspace fitted without them, and what their means say."""

from dataclasses import replace

import numpy as np
import pytest
import toy

import deltas
import subspace
from deltas.bank import Bank, Solution
from deltas.evaluation import evaluate
from deltas.tasks import chance
from subspace import held_out_scores
from subspace.held_out_scores import HeldOutScores, cross_validated_scores

READING = deltas.Reading(max_input=16, max_target=4, decode="rank")
TASKS = [toy.classify(f"task{i}", rows=320, seed=i) for i in range(5)]
LABELS = ["adapter", "lora"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, attached, backbone):
    """A bank of five tasks, one of them with two seeds, by two types that share two directions; the tasks."""
    bank = Bank(tmp_path_factory.mktemp("held") / "bank", create=True)
    codes = np.random.default_rng(0).standard_normal((6, 2))
    pairs = [(task.name, 0) for task in TASKS] + [("task0", 1)]
    for number, label in enumerate(LABELS):
        one, rng = attached[label], np.random.default_rng(number + 1)
        bank.add_start(one)
        size = one.layout.size
        rows = 0.6 * codes @ rng.standard_normal((2, size)) + 0.2 * rng.standard_normal((6, size)) + 0.3 * rng.standard_normal(size)
        for (task, seed), row in zip(pairs, rows.astype(np.float32), strict=True):
            bank.add(Solution(task=task, seed=seed, config=one.config, layout=one.layout, vector=row, theta0=one.theta0,
                              backbone=backbone.fingerprint, theta0_fingerprint=one.theta0_fingerprint, scores={}))
    return bank


def scored(bank, backbone, **options):
    return cross_validated_scores(bank, (1, 3), backbone=backbone, tasks=TASKS, reading=READING, rows=32, **options)


def lines_of(found, **fields):
    return [line for line in found.lines if all(line[name] == value for name, value in fields.items())]


def test_they_are_scores_of_subspaces_fitted_without_the_task(made, attached, backbone):
    found, differing = scored(made, backbone), set()
    assert (found.ks, found.labels) == ((0, 1, 3), ("adapter", "lora"))
    for task in TASKS:
        rest = [pair for pair in made.pairs() if pair[0] != task.name]
        for k in (1, 3):
            space = subspace.joint_svd(made, k, pairs=rest)
            for seed in sorted(seed for name, seed in made.pairs() if name == task.name):
                for source in LABELS:
                    z = space.encode(source, made.load(source, task.name, seed).theta)
                    for target in LABELS:
                        theta = np.asarray(space.decode(target, z))
                        expected = evaluate(attached[target], theta[None], task, "dev", reading=READING, rows=32)[0].score
                        (line,) = lines_of(found, task=task.name, seed=seed, source=source, target=target, k=k, control="")
                        assert line["score"] == expected
                        differing.add(expected)
    assert len(differing) > 4  # or the equality above would say little


def test_controls_are_scored_on_the_same_rows(made, attached, backbone):
    found = scored(made, backbone)
    for task in TASKS:
        rest = [pair for pair in made.pairs() if pair[0] != task.name]
        for label in LABELS:
            one = attached[label]
            mean = one.theta0 + np.mean([made.rows(label, [pair])[0] for pair in rest], axis=0)
            theta = np.stack([mean, made.load(label, task.name, 0).theta])
            expected = [s.score for s in evaluate(one, theta, task, "dev", reading=READING, rows=32)]
            assert [lines_of(found, task=task.name, seed=0, target=label, **what)[0]["score"]
                    for what in ({"k": 0}, {"control": "full"})] == expected
        assert lines_of(found, task=task.name, control="chance")[0]["score"] == chance(task, "dev", 32)
        start = evaluate(attached["adapter"], attached["adapter"].theta0[None], task, "dev", reading=READING, rows=32)[0].score
        assert {line["score"] for line in lines_of(found, task=task.name, control="zero_shot")} == {start}
    wrong = lines_of(found, control="shuffled")
    assert {(line["source"], line["target"]) for line in wrong} == {("adapter", "lora"), ("lora", "adapter")}
    assert len(wrong) == 6 * 2 * 2  # solutions, directions, ks


def test_a_method_that_is_not_nested_and_one_type(made, backbone):
    again = scored(made, backbone, nested=False)
    assert sorted(map(str, again.lines)) == sorted(map(str, scored(made, backbone).lines))  # joint_svd is: one fit gives every k
    alone = cross_validated_scores(subspace.gather(made, ["lora"]), (1,), backbone=backbone, tasks=TASKS[:2], reading=READING, folds=2)
    assert not alone.across
    assert {line["control"] for line in alone.lines} == {"", "full", "chance", "zero_shot"}
    assert {line["task"] for line in alone.lines} == {"task0", "task1"}  # the others have a part in the fit alone


def test_a_job_goes_on_from_what_is_kept(made, backbone, tmp_path, monkeypatch):
    first = scored(made, backbone, kept=tmp_path)
    assert len(list(tmp_path.glob("scores.*.json"))) == len(TASKS)
    next(tmp_path.glob("scores.*.json")).unlink()
    told, run = [], held_out_scores.evaluate_each
    monkeypatch.setattr(held_out_scores, "evaluate_each", lambda *a, **o: told.append(len(a[1])) or run(*a, **o))
    assert scored(made, backbone, kept=tmp_path).lines == first.lines
    of_one_task = sum(told)
    told.clear()
    scored(made, backbone, kept=tmp_path)
    assert told == []
    scored(made, backbone, kept=tmp_path, seed=1)  # another job
    assert sum(told) > 2 * of_one_task


def by_hand():
    """Two tasks that count and one that does not; k = 2 is best, k = 1 only where the second task is concerned."""
    lines = []
    for task, full, at in (("a", 1.0, {0: 0.5, 1: 0.6, 2: 0.9}), ("b", 0.9, {0: 0.4, 1: 0.8, 2: 0.8}), ("flat", 0.55, {0: 0.0, 1: 0.0, 2: 0.0})):
        for source in LABELS:
            lines.append({"source": source, "target": source, "k": "", "control": "full", "score": full, "task": task, "seed": 0})
            for target in LABELS:
                lines += [{"source": source, "target": target, "k": k, "control": "", "score": score - (source != target) * 0.1 * (k > 0),
                           "task": task, "seed": 0} for k, score in at.items() if k or source == target]
        lines.append({"source": "", "target": "", "k": "", "control": "chance", "score": 0.5, "task": task, "seed": ""})
    return HeldOutScores(ks=(0, 1, 2), labels=tuple(LABELS), lines=tuple({"stage": "held_out", **line} for line in lines))


def test_means_by_hand():
    found = by_hand()
    assert found.apart == ["flat"]
    within = {k: found.mean(k, across=False)["normalised"] for k in found.ks}
    np.testing.assert_allclose([within[k] for k in (0, 1, 2)], [-0.1 / 0.9, 0.4 / 0.9, 0.7 / 0.9])
    np.testing.assert_allclose([found.mean(k, across=True)["normalised"] for k in (0, 1, 2)], [-0.1 / 0.9, 0.2 / 0.9, 0.5 / 0.9])
    assert found.mean(1, across=True, control="shuffled")["normalised"] is None
    rows = {(row["source"], row["target"], row["k"]): row for row in found.rows()}
    np.testing.assert_allclose(rows["lora", "adapter", 2]["share"], 0.5 / 0.9)
    assert len(rows) == 12
    assert rows["lora", "lora", 1]["low"] <= rows["lora", "lora", 1]["share"] <= rows["lora", "lora", 1]["high"]
    assert found.recommended == 1  # on task b as good as 2
    better = replace(found, lines=tuple({**line, "score": line["score"] - 0.2 * (line["k"] == 1)} for line in found.lines))
    assert better.recommended == 2
    nothing = replace(found, lines=tuple(line for line in found.lines if line["task"] == "flat"))
    assert nothing.recommended is None
    assert nothing.rows() == []


def test_refusals(made, backbone, refused):
    with refused("factors", "product"):
        scored(subspace.in_product_space(subspace.gather(made, ["lora"])), backbone)
    with refused("task0", "other"):
        cross_validated_scores(made, (1,), backbone=backbone, tasks=[replace(TASKS[0], name="other")], reading=READING)
    with refused("backbone"):
        scored(replace(subspace.gather(made), backbone="another"), backbone)
    with refused("k between 1 and 3"):
        cross_validated_scores(made, (4,), backbone=backbone, tasks=TASKS, reading=READING)
