"""Planes of z: geometry, the grid against single evaluations, holes, resuming, files, bad input."""

import dataclasses
import importlib

import numpy as np
import pytest

import landscape
from deltas.errors import InputError
from landscape.plane import orthonormal, points, project, survey
from landscape.surface import Surface

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


def test_project_undoes_points():
    rng = np.random.default_rng(2)
    origin, directions = rng.normal(size=K), orthonormal(*rng.normal(size=(2, K)))
    x, y = np.array([-1.0, 0.5, 2.0]), np.array([0.0, 3.0])
    z = points(origin, directions, x, y)
    for n, point in enumerate(z):
        np.testing.assert_allclose(project(origin, directions, point), (x[n % 3], y[n // 3], 0.0), atol=1e-12)


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


def test_resuming_evaluates_only_what_is_missing_and_gives_the_same():
    kept: dict = {}
    whole = survey(Linear(), quadratic, resolution=4, at_once=3)
    calls = 0

    def stopping(label, thetas):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return quadratic(label, thetas)

    known = lambda label, z: kept.get(label)  # noqa: E731
    keep = lambda label, z, loss, score: kept.update({label: (loss, score)})  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        survey(Linear(), stopping, resolution=4, at_once=3, known=known, on_chunk=keep)
    assert [len(v[0]) for v in kept.values()] == [16, 3]
    seen = []
    again = survey(
        Linear(), lambda label, t: seen.append((label, len(t))) or quadratic(label, t), resolution=4, at_once=3, known=known, on_chunk=keep
    )
    assert sum(n for _, n in seen) == 13
    assert {label for label, _ in seen} == {"b"}
    np.testing.assert_array_equal(again.loss, whole.loss)


def test_surface_survives_a_file(tmp_path):
    surface = survey(Linear(), quadratic, resolution=3, found={"é": np.ones(K)})
    surface = dataclasses.replace(surface, task="copy", metric="exact_match", split="test")
    surface.loss[0, 0, 0] = np.nan
    surface.save(tmp_path / "deep" / "plane.safetensors")
    back = Surface.load(tmp_path / "deep" / "plane.safetensors")
    for field in dataclasses.fields(Surface):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(surface, field.name))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["plane.safetensors"]


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
    ],
)
def test_bad_input_is_one_sentence(arguments, words):
    with pytest.raises(InputError, match=words) as error:
        survey(Linear(), quadratic, **arguments)
    assert "\n" not in str(error.value)


def test_plane_resumes_from_its_cache_and_forgets_it_when_anything_changes(tmp_path, monkeypatch):
    from types import SimpleNamespace as Named

    space, evaluated = Linear(), []

    def evaluate_each(attached, thetas, exams, *, in_flight=None):
        evaluated.append(len(thetas))
        return [Named(loss=float(loss), score=float(score)) for loss, score in zip(*quadratic(attached, thetas))]

    monkeypatch.setattr("deltas.evaluation.Exam.of", lambda *arguments: None)
    monkeypatch.setattr("deltas.evaluation.evaluate_each", evaluate_each)
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
