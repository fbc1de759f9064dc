"""Paths between real deltas on a tiny T5: what is seen along them is what evaluation says, curves get lower, and what is stopped goes on."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_spaces import READING, random_bank

import subspace
from deltas import evaluate
from deltas.errors import InputError
from landscape.ends import End, Ground, code_end, theta_ends
from landscape.joining import TRAINING, Curve, join
from landscape.walk import Walk
from subspace.gauges import sites_of

KINDS = ("lora", "adapter")
LOOK = {"split": "train", "rows": 12, "parts": 3, "points": 5, "reading": READING, "at_once": 2}


@pytest.fixture(scope="module")
def bank(tmp_path_factory, attached):
    return random_bank(tmp_path_factory.mktemp("bank"), [attached[label] for label in KINDS])


@pytest.fixture(scope="module")
def space(bank):
    return subspace.joint_svd(bank, 2)


@pytest.fixture(scope="module")
def ground(space, attached):
    return Ground.of_z(space, [attached[label] for label in KINDS])


@pytest.fixture(scope="module")
def ends(space, bank):
    """Solutions of different types and seeds, as codes."""
    return code_end(space, bank.load("lora", "random", 0)), code_end(space, bank.load("adapter", "random", 3))


@pytest.fixture(scope="module")
def line(ground, ends, small_tasks):
    return join(ground, small_tasks[0], *ends, **LOOK)


def test_the_ends_are_the_solutions_codes(space, bank, ends):
    for end, label, seed in zip(ends, KINDS, (0, 3), strict=True):
        theta = bank.load(label, "random", seed).theta
        np.testing.assert_allclose(end.point, space.encode(label, theta), atol=1e-5)
        left = np.linalg.norm(theta - space.decode(label, end.point)) / np.linalg.norm(theta - space.part(label).offset)
        assert end.missed == pytest.approx(left, rel=1e-3)
        assert end.name == f"random {seed} ({label})"


def test_what_is_seen_is_what_evaluation_says(line, space, attached, small_tasks):
    assert (line.labels, line.where, line.rows, line.through) == (KINDS, "z", 12, ())
    for label in KINDS:
        thetas = space.decode(label, line.path.at(line.t).astype(np.float32))
        wanted = evaluate(attached[label], thetas, small_tasks[0], "train", reading=READING, rows=12)
        np.testing.assert_allclose(line.values(label), [score.loss for score in wanted], rtol=1e-4)
        np.testing.assert_allclose(line.values(label, "score"), [score.score for score in wanted])
        np.testing.assert_allclose(line.score[line.labels.index(label)].mean(0), line.values(label, "score"))  # of parts of one size
        low, high = line.interval(label)
        assert np.all((low < line.values(label)) & (line.values(label) < high))
    facts = json.loads(json.dumps(line.to_json(), allow_nan=False))
    assert [row["label"] for row in facts["types"]] == list(KINDS)
    assert facts["types"][0]["loss"]["barrier"] == pytest.approx(line.barrier("lora"))
    assert facts["missed"] == list(line.missed)


def test_a_curve_is_lower_than_the_line_and_goes_on_where_it_stopped(ground, ends, small_tasks, tmp_path, line):
    curve, told = Curve(steps=20, learning_rate=0.1, batch_size=8, through=("lora",)), []
    file = tmp_path / "out" / "curve.safetensors"
    whole = join(ground, small_tasks[0], *ends, curve=curve, **LOOK)
    assert whole.through == ("lora",)
    assert whole.path.detour > 1.001
    assert whole.values("lora").mean() < line.values("lora").mean()
    np.testing.assert_allclose(whole.loss[..., [0, -1]], line.loss[..., [0, -1]], rtol=1e-5)  # its ends stay

    class Killed(Exception):
        pass

    def stop_at(stage, number):
        def tell(*state):
            told.append(state)
            if state[:2] == (stage, number):
                raise Killed

        return tell

    for stage, number in ((TRAINING, 11), (TRAINING, 17), ("lora", 4), ("adapter", 2)):
        with pytest.raises(Killed):
            join(ground, small_tasks[0], *ends, curve=curve, file=file, on_progress=stop_at(stage, number), **LOOK)
    assert Walk.load(file).done.tolist() == [5, 2]
    told.clear()
    found = join(ground, small_tasks[0], *ends, curve=curve, file=file, on_progress=lambda *state: told.append(state), **LOOK)
    assert told == [("adapter", 4, 5), ("adapter", 5, 5)]
    np.testing.assert_array_equal(found.path.knots, whole.path.knots)
    np.testing.assert_array_equal(found.loss, whole.loss)
    again = Walk.load(file)
    assert json.dumps(again.to_json()) == json.dumps(found.to_json())
    assert again.path.history == whole.path.history
    # another call has another file's worth of work
    told.clear()
    join(ground, small_tasks[0], *ends, curve=replace(curve, seed=1, steps=1), file=file, on_progress=lambda *state: told.append(state), **LOOK)
    assert told[0] == (TRAINING, 1, 1)


def test_training_began_again_from_what_was_kept(ground, ends, small_tasks, tmp_path):
    """Of 20 steps killed after 11, ten are not done again."""
    seen: list = []

    def tell(stage, done, total):
        seen.append(done)
        if stage == TRAINING and done == 11 and len(seen) == 11:
            raise KeyboardInterrupt

    call = {"curve": Curve(steps=20, batch_size=8, through=("lora",)), "file": tmp_path / "a.safetensors", **LOOK, "points": 3}
    with pytest.raises(KeyboardInterrupt):
        join(ground, small_tasks[0], *ends, on_progress=tell, **call)
    seen.clear()
    join(ground, small_tasks[0], *ends, on_progress=tell, **call)
    assert seen[0] == 11


def test_gauges_of_one_lora_have_a_barrier_until_they_are_aligned(bank, attached, small_tasks):
    """The same function at other coordinates: between A B and (A G)(Gᵀ B) lies another function."""
    first = bank.load("lora", "random", 1)
    rng, theta = np.random.default_rng(0), first.theta.astype(np.float64)
    for site in sites_of(first.config, first.layout):
        values = site.read(theta)
        gauge, _ = np.linalg.qr(rng.standard_normal((2, 2)))
        site.write(theta, {"a": -2 * values["a"] @ gauge, "b": -gauge.T @ values["b"] / 2})
    second = replace(first, seed=9, vector=(theta - first.theta0).astype(np.float32))
    ground = Ground.of_theta(attached["lora"])
    far, near = (join(ground, small_tasks[0], *theta_ends(first, second, align=how), **LOOK) for how in ("none", "procrustes"))
    for walk in (far, near):
        np.testing.assert_allclose(walk.values("lora")[[0, -1]], far.values("lora")[0], rtol=1e-4)
    assert np.ptp(near.values("lora")) < 1e-4
    assert np.ptp(far.values("lora")) > 0.01


def test_a_broken_point_is_a_hole(ground, small_tasks):
    walk = join(ground, small_tasks[0], End(name="a", point=np.zeros(2, np.float32)), End(name="b", point=np.float32([3e38, 0])), **LOOK)
    facts = json.loads(json.dumps(walk.to_json(), allow_nan=False))
    assert facts["types"][0]["holes"] >= 1
    assert facts["types"][0]["loss"]["barrier"] is None
    assert walk.barrier("lora") == np.inf


def test_refusals(ground, ends, bank, attached, small_tasks, tmp_path, refused):
    task = small_tasks[0]
    with refused("ends of 2 numbers", "(3,)"):
        join(ground, task, End(name="x", point=np.zeros(3, np.float32)), ends[1], **LOOK)
    with refused("parts", "13"):
        join(ground, task, *ends, **{**LOOK, "parts": 13})
    with refused("3 points"):
        join(ground, task, *ends, **{**LOOK, "points": 2})
    with refused("different finite points"):
        join(ground, task, ends[0], ends[0], **LOOK)
    with refused("types of the ground", "'prefix'"):
        join(ground, task, *ends, curve=Curve(through=("prefix",)), **LOOK)
    with refused("'none' or 'procrustes'"):
        theta_ends(bank.load("lora", "random", 0), bank.load("lora", "random", 1), align="canonical")  # type: ignore[arg-type]
    with refused("one type", "through z"):
        theta_ends(bank.load("lora", "random", 0), bank.load("adapter", "random", 1))
    with refused("delta type of the subspace", "'prefix'"):
        Ground.of_z(ground.space, [attached["prefix"]])
    with refused("at least one delta type"):
        Ground.of_z(ground.space, [])
    with refused("looked at through", "'prefix'"):
        join(ground, task, *ends, **LOOK).values("prefix")
    with pytest.raises(InputError, match="no file"):
        Walk.load(tmp_path / "none.safetensors")
