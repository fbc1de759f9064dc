"""Planes of θ of one type and of the backbone's weights: where they lie, what is seen from them, what is refused."""

import dataclasses
import math
from types import SimpleNamespace as Named

import jax.numpy as jnp
import numpy as np
import pytest

import deltas
import landscape
from deltas.bank import Solution
from deltas.layout import Layout
from landscape.around import Around, change_of_weights, weights_under
from landscape.plane import survey

LAYOUT = Layout(("encoder.0.attn.q.a", "encoder.0.attn.q.b", "encoder.0.ff_norm.bias"), ((4, 3), (3, 5), (6,)))
RNG = np.random.default_rng(0)
THETA = RNG.normal(size=LAYOUT.size).astype(np.float32)


@pytest.fixture(scope="module")
def lora():
    """What an `Around` asks of an attached delta."""
    return Named(label="lora", layout=LAYOUT, config=deltas.LoRA(rank=3), backbone=Named(fingerprint="f", name="toy"))


def bowl(label, thetas):
    loss = ((thetas - THETA) ** 2).sum(1)
    return loss, -loss


def solution(theta, seed, **changes):
    facts = {"task": "copy", "seed": seed, "config": deltas.LoRA(rank=3), "layout": LAYOUT, "vector": theta, "theta0": np.zeros_like(theta),
             "backbone": "f", "theta0_fingerprint": "0", **changes}
    return Solution(**facts)


def test_a_plane_is_the_function_at_its_points_of_theta(lora):
    directions = 0.1 * RNG.normal(size=(3, LAYOUT.size))
    around = Around(attached=lora, centre=THETA, directions=directions, axes=("a", "b", "c"))
    surface = survey(around, bowl, spanned_by=(0, 2), extent=(-1, 1, -2, 2), resolution=5)
    assert (surface.space, surface.labels, surface.axes) == ("θ of lora", ("lora",), ("a", "c"))
    assert surface.loss[0, 2, 2] == 0  # the grid's centre is the point itself
    for i, j in [(0, 0), (1, 4)]:
        theta = THETA + surface.x[j] * directions[0] + surface.y[i] * directions[2]
        assert surface.loss[0, i, j] == pytest.approx(((theta - THETA) ** 2).sum(), rel=1e-5)
    (mark,) = surface.marks
    assert (mark.name, mark.kind, mark.x, mark.y, mark.away) == ("centre", "centre", 0, 0, 0)


def test_solutions_are_marked_with_their_true_distance(lora):
    """Directions that are neither orthogonal nor of length 1: the foot is the nearest point, and away is measured in θ."""
    directions = RNG.normal(size=(2, LAYOUT.size)).astype(np.float32)
    off = RNG.normal(size=LAYOUT.size)
    off -= np.linalg.pinv(directions) @ (directions @ off)
    point = THETA + 0.5 * directions[0] - 2 * directions[1] + 3 * off / np.linalg.norm(off)
    here = {"far": point.astype(np.float32), "near": THETA + directions[1]}
    surface = survey(Around(attached=lora, centre=THETA, directions=directions, solutions=here), bowl, resolution=2, found={"mine": point})
    marks = {mark.name: mark for mark in surface.marks}
    assert {name: mark.kind for name, mark in marks.items()} == {"centre": "centre", "far": "source", "near": "corner", "mine": "found"}
    for name in ("far", "mine"):
        np.testing.assert_allclose((marks[name].x, marks[name].y, marks[name].away), (0.5, -2, 3), atol=1e-5)
    assert surface.y[0] < -2 < 1 < surface.y[-1]  # the plane covers what is marked


def test_the_plane_through_three_solutions_holds_them(lora):
    thetas = RNG.normal(size=(3, LAYOUT.size)).astype(np.float32)
    solutions = [solution(theta, seed) for seed, theta in enumerate(thetas)]
    around = Around.through(lora, solutions)
    np.testing.assert_allclose(around.directions @ around.directions.T, np.eye(2), atol=1e-6)
    surface = survey(around, bowl, resolution=3)
    assert surface.axes == ("towards copy 1", "towards copy 2, orthogonal")
    for theta, mark in zip(thetas, surface.marks, strict=True):
        assert (mark.kind, mark.away) == ("corner", pytest.approx(0, abs=1e-5))
        np.testing.assert_allclose(around.decode("lora", [mark.x, mark.y]), theta, atol=1e-5)
    same = Around.through(lora, {s.task + str(s.seed): s.theta for s in solutions})
    np.testing.assert_array_equal(same.directions, around.directions)


def test_random_directions_have_the_lengths_of_what_they_move_and_reach_from_minus_one_to_one(lora):
    around = Around.random(lora, solution(THETA, 0), normalise="layer")
    for direction in around.directions:
        for name, part in LAYOUT.unflatten(direction).items():
            own = np.linalg.norm(LAYOUT.unflatten(THETA)[name])
            assert np.linalg.norm(part) == pytest.approx(own, rel=1e-4)
    surface = survey(around, bowl, resolution=3)
    np.testing.assert_array_equal(surface.x, (-1, 0, 1))
    assert surface.axes == ("random 1, by layer", "random 2, by layer")
    np.testing.assert_array_equal(survey(around, bowl, resolution=3, extent=0.5).x, (-0.5, 0, 0.5))


def test_the_plane_along_an_optimizers_way_marks_it_with_its_share(lora):
    leading = RNG.normal(size=(2, LAYOUT.size))
    steps = np.cumsum(RNG.normal(size=(9, 2)), axis=0) @ leading + 0.1 * RNG.normal(size=(9, LAYOUT.size))
    surface = survey(Around.along(lora, steps, name="adam"), bowl, resolution=2)
    (trail,) = surface.trails
    squares = np.linalg.svd(steps - steps[-1], compute_uv=False) ** 2
    assert trail.share == pytest.approx(squares[:2].sum() / squares.sum(), rel=1e-4)
    assert 0.9 < trail.share < 1
    assert (trail.x[-1], trail.y[-1]) == pytest.approx((0, 0), abs=1e-5)
    assert surface.x[0] < trail.x.min() < trail.x.max() < surface.x[-1]
    moved = survey(Around(attached=lora, centre=THETA, directions=leading), bowl, resolution=2, trails={"adam": steps})
    assert moved.trails[0].share == pytest.approx(squares[:2].sum() / squares.sum(), abs=0.01)


def test_points_that_were_evaluated_are_kept_for_the_next_run(lora, tmp_path, monkeypatch):
    asked = []

    def evaluator(attached, exam, corners, *, in_flight=None):
        assert attached is lora
        return lambda thetas: asked.append(len(thetas)) or [Named(loss=loss, score=score) for loss, score in zip(*bowl("lora", thetas))]

    monkeypatch.setattr("deltas.evaluation.Exam.of", lambda *arguments: None)
    monkeypatch.setattr("landscape.steady.evaluator", evaluator)
    task = Named(name="copy", metric="exact_match", fingerprint="t")
    around = Around(attached=lora, centre=THETA, directions=np.eye(2, LAYOUT.size))
    for config, evaluations in ((lora.config, 9), (lora.config, 9), (deltas.LoRA(rank=3, alpha=1.0), 18)):
        lora.config = config  # what the numbers of θ mean is part of the key
        landscape.plane(around, lora.backbone, task, resolution=3, cache=tmp_path)  # type: ignore[arg-type]
        assert sum(asked) == evaluations


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"directions": np.stack([THETA, 2 * THETA])}, "parallel"),
        ({"directions": np.stack([THETA, 0 * THETA])}, "not zero"),
        ({"directions": np.stack([THETA, np.nan * THETA])}, "finite"),
        ({"directions": np.stack([*np.eye(2, LAYOUT.size), np.eye(2, LAYOUT.size).sum(0)])}, "combination"),
        ({"directions": np.eye(2)}, f"directions [m, {LAYOUT.size}]"),
        ({"centre": THETA[1:]}, f"{LAYOUT.size} finite numbers"),
        ({"centre": np.nan * THETA}, "finite numbers"),
        ({"axes": ("one",)}, "a name for each of 2"),
        ({"solutions": {"s": np.ones(3)}}, "finite numbers, got shape"),
        ({"centre": solution(THETA, 7, backbone="other")}, "copy 7 of lora, which has others"),
        ({"centre": solution(THETA, 7, layout=Layout(("x",), ((33,),)))}, "which has others"),
    ],
)
def test_bad_input_is_one_sentence(lora, refused, arguments, words):
    with refused(words):
        Around(**{"attached": lora, "centre": THETA, "directions": np.eye(2, LAYOUT.size), **arguments})


def test_what_no_plane_can_be_made_of_is_refused(lora, refused):
    around = Around(attached=lora, centre=THETA, directions=np.eye(2, LAYOUT.size))
    with refused("three different solutions", "got 1"):
        Around.through(lora, [solution(THETA, 0)] * 3)
    with refused("parallel"):
        Around.through(lora, {"a": THETA, "b": 2 * THETA, "c": 3 * THETA})
    with refused("'adapter'"):
        around.decode("adapter", [0, 0])
    with refused("between 0 and 1"):
        survey(around, bowl, spanned_by=(0, 2))
    with refused("33 numbers for the trail w"):
        survey(around, bowl, trails={"w": np.eye(2)})
    with refused("a full delta"):
        weights_under(lora)
    with refused("the backbone toy"):
        other = Named(fingerprint="g", name="other")
        from landscape.plane import _attached

        _attached(around, other, "lora")


# ---------------------------------------------------------------- weights
@pytest.fixture(scope="module")
def full(backbone):
    return deltas.Attached.of(backbone, deltas.Full())


@pytest.fixture(scope="module")
def small(backbone):
    return deltas.Attached.of(backbone, deltas.LoRA(rank=2, sites=("encoder.0.attn.q", "decoder.0.cross.v")))


@pytest.fixture(scope="module")
def trained(small):
    vector = 0.1 * np.random.default_rng(5).normal(size=small.layout.size).astype(np.float32)
    return Solution(task="copy", seed=0, config=small.config, layout=small.layout, vector=vector, theta0=small.theta0,
                    backbone=small.backbone.fingerprint, theta0_fingerprint=small.theta0_fingerprint)


def test_random_directions_of_weights_have_their_filters_lengths_around_the_bare_backbone_and_a_merged_solution(full, trained):
    merged = change_of_weights(full, trained)
    for centre in (np.zeros(full.layout.size, np.float32), merged):
        around = Around.random(full, centre)
        assert around.perturbed == "weights"
        weights = full.layout.unflatten(weights_under(full) + centre)
        for name, part in full.layout.unflatten(around.directions[1]).items():
            if part.ndim > 1:
                np.testing.assert_allclose(np.linalg.norm(part, axis=0), np.linalg.norm(weights[name], axis=0), rtol=1e-3)
            else:
                assert not part.any()
    assert survey(around, lambda label, thetas: (thetas.sum(1), thetas.sum(1)), resolution=2).space == "weights"


def test_the_change_of_weights_is_the_solutions_product(full, small, trained):
    changes = full.layout.unflatten(change_of_weights(full, trained))
    parameters = small.layout.unflatten(trained.theta)
    moved = {name.removesuffix(".a") + ".kernel" for name in parameters if name.endswith(".a")}
    assert {name for name, change in changes.items() if np.abs(change).max() > 1e-7} == moved
    name = min(moved).removesuffix("kernel")
    product = parameters[name + "a"] @ parameters[name + "b"]
    ratio = changes[name + "kernel"] / product
    assert np.std(ratio) < 1e-3 * abs(np.mean(ratio))
    assert math.isclose(np.mean(ratio), trained.config.alpha / trained.config.rank, rel_tol=1e-3)


def test_weights_that_the_full_delta_lacks_and_solutions_that_are_no_change_of_weights_are_refused(full, backbone, small, trained, refused):
    some = deltas.Attached.of(backbone, deltas.Full(sites=("ff.out",)))
    with refused("cross.v.kernel", "attach"):
        change_of_weights(some, trained)
    one = deltas.Attached.of(backbone, deltas.Adapter(bottleneck=2, sites=("encoder.0.ff",)))
    adapter = dataclasses.replace(trained, config=one.config, layout=one.layout, vector=one.theta0, theta0=one.theta0)
    with refused("merge"):
        change_of_weights(full, adapter)
    with refused("a full delta"):
        change_of_weights(small, trained)


def test_the_backbone_stays_as_it_is(full, backbone, trained):
    before = weights_under(full)
    assert np.abs(change_of_weights(full, trained)).max() > 0
    np.testing.assert_array_equal(weights_under(full), before)
    assert jnp.size(before) == full.layout.size
