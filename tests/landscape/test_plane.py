"""Planes of z: geometry, the grid against single evaluations, holes, resuming, files, bad input."""

import dataclasses
import importlib
import json

import numpy as np
import pytest

import landscape
from deltas.errors import InputError
from landscape.geometry import View, orthonormal, points
from landscape.plane import Seen, survey
from landscape.surface import Surface, read, write

K = 5


class Linear:
    """A subspace with two types of different sizes."""

    k = K
    labels = ("a", "b")
    pairs = (("copy", 0), ("copy", 1), ("reverse", 0), ("last", 0))

    def __init__(self):
        rng = np.random.default_rng(0)
        self.codes = rng.normal(size=(4, K)).astype(np.float32)
        self.basis = {"a": rng.normal(size=(K, 7)), "b": rng.normal(size=(K, 11))}

    def decode(self, label, z):
        return np.asarray(z) @ self.basis[label]


def quadratic(label, thetas):
    loss = (thetas**2).sum(1)
    return loss, np.exp(-loss / 50)


def test_gram_schmidt_gives_an_orthonormal_basis_of_the_same_plane():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, K))
    u = orthonormal(1e3 * a, a + 1e-3 * b)
    np.testing.assert_allclose(u @ u.T, np.eye(2), atol=1e-12)
    for vector in (a, b):
        np.testing.assert_allclose(vector @ u.T @ u, vector, atol=1e-6)


def test_feet_undo_points():
    rng = np.random.default_rng(2)
    origin, directions = rng.normal(size=K), orthonormal(*rng.normal(size=(2, K)))
    x, y = np.array([-1.0, 0.5, 2.0]), np.array([0.0, 3.0])
    z = points(origin, directions, x, y)
    feet, away = View(origin=origin, directions=directions).feet(z)
    np.testing.assert_allclose(feet, [(b, a) for a in y for b in x], atol=1e-12)
    np.testing.assert_allclose(away, 0, atol=1e-12)


def test_feet_on_directions_that_are_not_orthogonal_are_the_nearest_points(monkeypatch):
    """Against least squares; whole vectors and columns at a time."""
    rng = np.random.default_rng(3)
    view = View(origin=rng.normal(size=9), directions=rng.normal(size=(2, 9)))
    x = rng.normal(size=(4, 9))
    expected, squares, *_ = np.linalg.lstsq(view.directions.T, (x - view.origin).T, rcond=None)
    for width in (2**20, 4):
        monkeypatch.setattr("landscape.geometry.WIDTH", width)
        feet, away = view.feet(x)
        np.testing.assert_allclose(feet, expected.T, atol=1e-10)
        np.testing.assert_allclose(away, np.sqrt(squares), atol=1e-10)
        inside = (x - x[-1]) @ np.linalg.pinv(view.directions) @ view.directions
        assert view.share(x) == pytest.approx((inside**2).sum() / ((x - x[-1]) ** 2).sum())


def test_grid_is_the_function_at_its_points():
    space = Linear()
    surface = survey(space, quadratic, extent=(-2, 2, -1, 3), resolution=5, at_once=4)
    assert surface.loss.shape == surface.score.shape == (2, 5, 5)
    for t, label in enumerate(surface.labels):
        for i, j in [(0, 0), (2, 2), (4, 1)]:
            z = surface.origin + surface.x[j] * surface.directions[0] + surface.y[i] * surface.directions[1]
            loss, _ = quadratic(label, space.decode(label, z.astype(np.float32)[None]))
            assert surface.loss[t, i, j] == pytest.approx(loss[0], rel=1e-6)
    assert surface.loss[0, 1, 2] == pytest.approx(0.0, abs=1e-10)  # z = 0
    assert surface.axes == ("z0", "z1")


def test_three_solutions_lie_on_their_plane_inside_its_extent():
    surface = survey(Linear(), quadratic, spanned_by=[("copy", 0), ("reverse", 0), ("last", 0)], resolution=3)
    assert [mark.name for mark in surface.marks] == ["copy 0", "reverse 0", "last 0"]
    for mark in surface.marks:
        assert mark.away < 1e-6
        assert surface.x[0] < mark.x < surface.x[-1]
        assert surface.y[0] < mark.y < surface.y[-1]
    assert (surface.marks[0].x, surface.marks[0].y, surface.marks[1].y) == pytest.approx((0, 0, 0))
    np.testing.assert_allclose(np.diff(surface.x), np.diff(surface.y))  # square cells


def test_two_named_directions_go_through_a_point():
    space = Linear()
    point, u = np.arange(K, dtype=float), np.eye(K)[2] + np.eye(K)[3]
    surface = survey(space, quadratic, spanned_by=[("steepest", u), 0], through=("found", point), extent=1.0, resolution=3)
    assert surface.axes == ("steepest", "z0")
    (mark,) = surface.marks
    assert (mark.name, mark.kind, mark.x, mark.y) == ("found", "corner", 0, 0)
    expected = quadratic("a", space.decode("a", (point + u / np.sqrt(2))[None]))[0][0]
    assert surface.loss[0, 1, 2] == pytest.approx(expected, rel=1e-6)


def test_a_plane_does_not_depend_on_which_of_two_solutions_comes_first():
    """Swapping the spanning directions mirrors the plane in its diagonal."""
    one, two = (survey(Linear(), quadratic, spanned_by=pair, extent=2.0, resolution=4) for pair in ((0, 3), (3, 0)))
    np.testing.assert_allclose(one.loss, two.loss.transpose(0, 2, 1), rtol=1e-6)


def test_found_solutions_are_marked_with_their_distance():
    z = np.array([0.5, -0.5, 3.0, 0, 4.0])
    surface = survey(Linear(), quadratic, found={"mine": z}, resolution=2)
    mark = surface.marks[-1]
    assert (mark.name, mark.kind, mark.x, mark.y, mark.away) == ("mine", "found", 0.5, -0.5, 5.0)
    assert len([m for m in surface.marks if m.kind == "source"]) == 4


def test_not_finite_points_are_counted_as_holes():
    def broken(label, thetas):
        loss, score = quadratic(label, thetas)
        return np.where(loss > 20, np.inf if label == "a" else np.nan, loss), score

    surface = survey(Linear(), broken, extent=3.0, resolution=5)
    for t, label in enumerate(surface.labels):
        assert surface.holes[label] == np.isnan(surface.loss[t]).sum() == np.isnan(surface.score[t]).sum() > 0
    assert np.isfinite(surface.loss).any()


def stopping_after(calls):
    """The quadratic, which is interrupted; and what it was asked."""
    asked = []

    def evaluate(label, thetas):
        asked.append((label, len(thetas)))
        if len(asked) > calls:
            raise KeyboardInterrupt
        return quadratic(label, thetas)

    return evaluate, asked


@pytest.mark.parametrize("adaptive", [None, 0.05])
def test_resuming_evaluates_only_what_is_missing_and_gives_the_same(adaptive):
    kept: dict = {}
    options = {"extent": 2.0, "resolution": 12, "at_once": 10, "adaptive": adaptive}
    everything, in_all = stopping_after(999)
    whole = survey(Linear(), everything, **options)
    callbacks = {"known": lambda label, z: kept.get(label), "on_chunk": lambda label, z, seen: kept.update({label: seen})}
    stopping, before = stopping_after(5)
    with pytest.raises(KeyboardInterrupt):
        survey(Linear(), stopping, **options, **callbacks)
    evaluated = sum(n for _, n in before[:-1])
    assert sum(seen.known.sum() for seen in kept.values()) == evaluated
    going_on, after = stopping_after(999)
    again = survey(Linear(), going_on, **options, **callbacks)
    assert sum(n for _, n in after) == sum(n for _, n in in_all) - evaluated == whole.known.sum() - evaluated
    for name in ("loss", "score", "known", "error"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_an_adaptive_plane_is_within_its_error_of_the_dense_one_and_says_what_it_evaluated():
    told: list = []
    options = {"extent": 2.0, "resolution": 17}
    dense = survey(Linear(), quadratic, **options)
    surface = survey(Linear(), quadratic, **options, adaptive=0.05, on_progress=lambda *told_now: told.append(told_now))
    assert (~surface.known).any()
    np.testing.assert_array_equal(dense.known, np.ones_like(surface.known))
    assert dense.error == (0.0, 0.0)
    for t, label in enumerate(surface.labels):
        known, size = surface.known[t], np.ptp(dense.loss[t])
        np.testing.assert_array_equal(surface.loss[t][known], dense.loss[t][known])
        np.testing.assert_array_equal(surface.score[t][known], dense.score[t][known])
        assert np.abs(surface.loss[t] - dense.loss[t]).max() <= surface.error[t] <= 0.05 * size
        assert np.abs(surface.score[t] - dense.score[t]).max() <= 0.05 * np.ptp(dense.score[t])
        mine = [done for name, done, total in told if name == label]
        assert mine == sorted(mine)
        assert known.sum() in mine
        assert mine[-1] == 17 * 17


def test_few_points_of_large_deltas_are_decoded_at_once(monkeypatch):
    monkeypatch.setattr(importlib.import_module("landscape.plane"), "NUMBERS", 23)
    evaluate, asked = stopping_after(999)
    survey(Linear(), evaluate, resolution=3)
    assert asked == [("a", 3)] * 3 + [("b", 2)] * 4 + [("b", 1)]  # of 7 and of 11 numbers


def test_no_filled_in_score_is_better_than_all_that_were_evaluated():
    def steps(label, thetas):
        loss, _ = quadratic(label, thetas)
        return loss, (loss < 8).astype(float)

    surface = survey(Linear(), steps, extent=2.0, resolution=17, adaptive=0.1)
    assert (~surface.known).any()
    assert set(np.unique(surface.score[surface.known])) == {0.0, 1.0}
    assert surface.score.min() >= 0
    assert surface.score.max() <= 1


def test_holes_stay_holes_on_an_adaptive_plane():
    def broken(label, thetas):
        loss, score = quadratic(label, thetas)
        return np.where(loss > 20, np.nan, loss), score

    surface = survey(Linear(), broken, extent=3.0, resolution=17, adaptive=0.05)
    np.testing.assert_array_equal(np.isnan(surface.loss), np.isnan(surface.score))
    assert np.isnan(surface.loss).any()
    assert np.isfinite(surface.loss).any()


def test_trails_are_marked_with_the_share_of_their_motion_that_the_plane_holds():
    way = np.array([[3.0, 0, 4, 0, 0], [3, 4, 0, 0, 0], [0, 0, 0, 0, 0]])
    surface = survey(Linear(), quadratic, trails={"adam": way}, found={"end": way[-1]}, resolution=2)
    (trail,) = surface.trails
    np.testing.assert_allclose((trail.x, trail.y), way[:, :2].T, atol=1e-12)
    assert (trail.name, trail.share) == ("adam", pytest.approx((9 + 25) / (25 + 25)))
    wide = survey(Linear(), quadratic, trails={"adam": 10 * way}, resolution=2)
    assert wide.y[-1] > 40  # a trail is covered as marks are


def test_surface_survives_a_file(tmp_path):
    surface = survey(Linear(), quadratic, resolution=3, found={"é": np.ones(K)}, trails={"ü": np.eye(K)[:3], "o": 2 * np.eye(K)})
    surface = dataclasses.replace(surface, task="copy", metric="exact_match", split="test", space="θ of a", error=(0.5, np.inf))
    surface.loss[0, 0, 0] = np.nan
    surface.known[1, 2, 0] = False
    surface.save(tmp_path / "deep" / "plane.safetensors")
    back = Surface.load(tmp_path / "deep" / "plane.safetensors")
    for field in dataclasses.fields(Surface):
        if field.name != "trails":
            np.testing.assert_array_equal(getattr(back, field.name), getattr(surface, field.name))
    for mine, theirs in zip(surface.trails, back.trails, strict=True):
        assert (mine.name, mine.share) == (theirs.name, theirs.share)
        np.testing.assert_array_equal((mine.x, mine.y), (theirs.x, theirs.y))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["plane.safetensors"]


def test_a_file_of_before_trails_is_read(tmp_path):
    surface = survey(Linear(), quadratic, resolution=3)
    surface.save(tmp_path / "new")
    arrays, header = read(tmp_path / "new")
    facts = {name: value for name, value in json.loads(header["surface"]).items() if name not in ("trails", "error")}
    write(tmp_path / "old", {name: value for name, value in arrays.items() if name != "known"}, {"surface": json.dumps(facts)})
    back = Surface.load(tmp_path / "old")
    assert back.trails == ()
    assert back.known.all()
    assert back.known.shape == back.loss.shape
    assert back.error == (0.0, 0.0)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "plane.safetensors"
    survey(Linear(), quadratic, resolution=3).save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="damaged"):
        Surface.load(path)
    with pytest.raises(InputError, match="no file"):
        Surface.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"spanned_by": (0, 0)}, "parallel"),
        ({"spanned_by": (0, np.zeros(K))}, "zero|length 0"),
        ({"spanned_by": [("copy", 0), ("reverse", 0), ("last", 0)], "through": np.ones(K)}, "leave one of both out"),
        ({"spanned_by": (0, 9)}, "direction between 0 and 4, got 9"),
        ({"spanned_by": (0, True)}, "vector of 5 finite numbers"),
        ({"spanned_by": (0,)}, "two directions or three solutions"),
        ({"spanned_by": [("copy", 0), ("copy", 0), ("last", 0)]}, "three different solutions"),
        ({"spanned_by": [np.zeros(K), np.ones(K), 2 * np.ones(K)]}, "parallel"),
        ({"spanned_by": [("copy", 0), ("revers", 0), ("last", 0)]}, "did you mean 'reverse'"),
        ({"spanned_by": [np.zeros(K), np.ones(3), np.ones(K)]}, "vector of 5"),
        ({"spanned_by": (0, "z1")}, "vector of 5"),
        ({"resolution": 1}, "resolution of at least 2"),
        ({"resolution": 2.5}, "resolution of at least 2"),
        ({"labels": ["a", "c"]}, "types of the subspace"),
        ({"extent": (1, 1, 0, 2)}, "extent"),
        ({"extent": -1.0}, "extent"),
        ({"extent": (0, 1, 2)}, "extent"),
        ({"adaptive": 0.0}, "tolerance above 0"),
        ({"trails": {"w": np.ones((3, 2))}}, "two finite points of 5 numbers for the trail w"),
        ({"trails": {"w": np.ones((3, K))}}, "a trail that moves"),
    ],
)
def test_bad_input_is_one_sentence(arguments, words):
    with pytest.raises(InputError, match=words) as error:
        survey(Linear(), quadratic, **arguments)
    assert "\n" not in str(error.value)


def test_plane_resumes_from_its_cache_and_forgets_it_when_anything_changes(tmp_path, monkeypatch):
    from types import SimpleNamespace as Named

    space, evaluated = Linear(), []

    def evaluator(attached, exam, corners, *, in_flight=None):
        assert len(corners) == 4

        def scores(thetas):
            evaluated.append(len(thetas))
            return [Named(loss=float(loss), score=float(score)) for loss, score in zip(*quadratic(attached, thetas))]

        return scores

    monkeypatch.setattr("deltas.evaluation.Exam.of", lambda *arguments: None)
    monkeypatch.setattr("landscape.steady.evaluator", evaluator)
    monkeypatch.setattr(importlib.import_module("subspace.optimize"), "attach_to", lambda space, backbone, label: label)
    backbone, task = Named(fingerprint="b"), Named(name="copy", metric="exact_match", fingerprint="t")
    seen = []
    first = landscape.plane(space, backbone, task, resolution=3, cache=tmp_path, on_progress=lambda *progress: seen.append(progress))  # type: ignore[arg-type]
    assert sum(evaluated) == 18
    assert seen[-1] == ("b", 9, 9)
    assert (first.task, first.metric, first.split) == ("copy", "exact_match", "test")
    again = landscape.plane(space, backbone, task, resolution=3, cache=tmp_path)  # type: ignore[arg-type]
    assert sum(evaluated) == 18
    np.testing.assert_array_equal(first.score, again.score)
    landscape.plane(space, backbone, task, resolution=3, cache=tmp_path, rows=5, labels=["a"])  # type: ignore[arg-type]
    assert sum(evaluated) == 27
    space.basis["a"] = 2 * space.basis["a"]  # a subspace fitted anew
    landscape.plane(space, backbone, task, resolution=3, cache=tmp_path)  # type: ignore[arg-type]
    assert sum(evaluated) == 36
    (path,) = [p for p in tmp_path.iterdir() if p.name.startswith("b-")]
    arrays, _ = read(path)
    write(path, {name: arrays[name][:4] for name in ("loss", "score")}, {})  # as the first points were kept before
    again = landscape.plane(space, backbone, task, resolution=3, cache=tmp_path)  # type: ignore[arg-type]
    assert sum(evaluated) == 41
    np.testing.assert_array_equal(again.score[1], first.score[1])
    path.unlink()
    Seen.nothing(9).save(path)
    sparse = landscape.plane(space, backbone, task, resolution=3, cache=tmp_path, adaptive=0.1)  # type: ignore[arg-type]
    np.testing.assert_array_equal(sparse.known[0], np.ones((3, 3), bool))  # what an earlier run evaluated is not filled in
