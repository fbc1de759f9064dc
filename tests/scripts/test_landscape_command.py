"""`deltaspace landscape` as a user runs it: of a subspace, of a bank, drawn again, gone on with, and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import toy
from deltaspace.__main__ import main

import deltas
import subspace
from landscape import Surface, Walk, bending, joining
from subspace import Subspace

TASKS = (toy.classify(rows=32), toy.copy(rows=32), toy.constant(rows=32))


@pytest.fixture(scope="module")
def made(tmp_path_factory, attached, folder):
    """A bank, its subspace, points found in it, and the options that every command has."""
    root = tmp_path_factory.mktemp("landscape")
    for task in TASKS:
        (root / "tasks" / task.name).mkdir(parents=True)
        for split in ("train", "dev", "test"):
            lines = (f"{e.input}\t{e.answers[0]}\n" for e in task.split(split))
            (root / "tasks" / task.name / f"{task.name}_{split}.tsv").write_text("".join(lines))
    bank = deltas.Bank(root / "bank", create=True)
    for one in (attached["lora"], attached["adapter"]):
        bank.add_start(one)
        for n, task in enumerate(TASKS):
            vector = 0.3 * np.random.default_rng([n, one.layout.size]).standard_normal(one.layout.size).astype(np.float32)
            bank.add(deltas.Solution(task=task.name, seed=0, config=one.config, layout=one.layout, vector=vector, theta0=one.theta0,
                                     backbone=one.backbone.fingerprint, theta0_fingerprint=one.theta0_fingerprint))
    space = subspace.joint_svd(subspace.gather(bank), 2)
    space.save(root / "space")
    points = [{"task": "has_ba", "through": label, "seed": 0, "z": [0.3 * n, 0.4]} for n, label in enumerate(space.labels)]
    (root / "found.json").write_text(json.dumps(points))
    on = ["--backbone", str(folder), "--tasks", str(root / "tasks"), "--max-input", "20", "--max-target", "4", "--names", "has_ba",
          "--resolution", "3", "--rows", "4", "--parts", "2", "--steps", "4"]
    return root, on


def ran(made, out, given, *more):
    root, on = made
    assert main(["landscape", str(root / given), *on, "--out", str(out), *more]) == 0
    return json.loads((out / "summary.json").read_text())


@pytest.mark.slow
def test_everything_around_points_of_z(made, tmp_path, monkeypatch):
    """Planes, paths and curvature; the second time nothing is evaluated, and figures are drawn again from the arrays alone."""
    root, _ = made
    options = ("space", "--found", str(root / "found.json"), "--draw", "plane", "paths", "curvature", "--pages")
    first = ran(made, tmp_path, *options)
    assert first["space"] == "z"
    assert {one["kind"] for one in first["paths"]} == {"straight", "bezier"}
    assert {one["label"] for one in first["curvature"]} == {"lora", "adapter"}
    assert set(first["regions"]["has_ba"]["held"]) == {"lora's point", "adapter's point", "z = 0"}
    walk = Walk.load(tmp_path / "has_ba-z-path-straight.safetensors")
    np.testing.assert_allclose(walk.path.knots, [[0.0, 0.4], [0.3, 0.4]], atol=1e-6)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert {"has_ba.png", "has_ba-relief.png", "has_ba-overlap.png", "paths-has_ba-z-loss.png"} <= drawn
    assert (tmp_path / "has_ba.html").is_file()

    def never(*_, **__):
        raise AssertionError("evaluated again")

    for module, name in ((joining, "_look"), (bending, "_bend"), (__import__("deltas.evaluation").evaluation, "evaluate_each")):
        monkeypatch.setattr(module, name, never)
    again = ran(made, tmp_path, *options)
    assert {name: first[name] for name in ("regions", "paths", "curvature")} == {name: again[name] for name in ("regions", "paths", "curvature")}
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert main(["landscape", "--redraw", "--out", str(tmp_path), "--suffix", "svg"]) == 0
    assert {path.stem for path in tmp_path.glob("*.svg")} == {name.removesuffix(".png") for name in drawn}


def test_leading_directions_of_a_subspace(made, tmp_path):
    """Of several tasks on one plane it is said whether they share a basin; figures have the format that was asked for."""
    found = ran(made, tmp_path, "space", "--names", "has_ba", "always_maybe", "--suffix", "svg", "--resolution", "2", "--adaptive", "0.5",
                "--metric", "classification_f1")
    assert {(tuple(row["tasks"]), row["label"]) for row in found["overlaps"]} == {
        (("has_ba", "always_maybe"), label) for label in ("lora", "adapter", "all types")}
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".svg", ".safetensors", ".json"}
    surface = Surface.load(tmp_path / "has_ba.safetensors")
    assert (surface.axes, surface.metric) == (("z0", "z1"), "classification_f1")
    assert [mark.name for mark in surface.marks if mark.kind == "source"] == ["always_maybe 0", "first_word 0", "has_ba 0"]


@pytest.mark.parametrize(("options", "space", "named"), [
    (("--where", "theta", "--through", "adapter"), "θ of adapter", "has_ba 0"),
    (("--where", "weights", "--solutions", "has_ba", "first_word.0", "always_maybe", "--through", "lora"), "weights", "first_word.0"),
    pytest.param(("--where", "weights", "--through", "adapter", "--span", "curvature"), "weights", "has_ba 0", marks=pytest.mark.slow),
    pytest.param(("--span", "curvature", "--extent", "0.5"), "θ of lora", "has_ba 0", marks=pytest.mark.slow),
])
def test_planes_of_a_bank(made, backbone, tmp_path, options, space, named):
    """The centre is the solution itself: the surface has its loss there."""
    found = ran(made, tmp_path, "bank", *("--through", "lora") * ("--through" not in options), *options)
    (path,) = tmp_path.glob("*.safetensors")
    surface = Surface.load(path)
    assert (surface.space, found["space"]) == (space, "weights" if space == "weights" else "theta")
    assert named in {mark.name for mark in surface.marks}
    if named == "has_ba 0":
        root, _ = made
        bank, task = deltas.Bank(root / "bank"), TASKS[0]
        label = "adapter" if "adapter" in options else "lora"
        solution = bank.load(label, task.name, 0)
        (score,) = deltas.evaluate(deltas.Attached.of(backbone, solution.config, theta0=solution.theta0), solution.theta[None], task, rows=4,
                                   reading=deltas.Reading(max_input=20, max_target=4))
        assert surface.loss[0, 1, 1] == pytest.approx(score.loss, rel=1e-4)


@pytest.mark.parametrize("where", ["space", "bank"])
def test_the_way_of_an_optimizer(made, tmp_path, where):
    """It is drawn from its start to its end, and its plane holds what two directions of it can hold."""
    ran(made, tmp_path, where, "--span", "way", "--steps", "20")
    (path,) = tmp_path.glob("*.safetensors")
    surface = Surface.load(path)
    assert len(surface.trails) == (2 if where == "space" else 1)
    for trail in surface.trails:
        assert 0 < trail.share <= 1 + 1e-6
        assert len(trail.x) == 21
    assert surface.trails[0].share > 0.9


@pytest.mark.slow
def test_paths_of_theta_and_of_two_types(made, tmp_path):
    root, _ = made
    found = ran(made, tmp_path / "theta", "bank", "--draw", "paths", "--through", "lora", "--solutions", "has_ba", "first_word", "--align",
                "procrustes", "--curves", "polygonal")
    assert [one["kind"] for one in found["paths"]] == ["straight", "polygonal"]
    found = ran(made, tmp_path / "z", "space", "--draw", "paths", "--bank", str(root / "bank"), "--solutions", "lora:has_ba",
                "adapter:first_word.0")
    assert found["paths"][0]["ends"] == ["has_ba 0 (lora)", "first_word 0 (adapter)"]
    assert all(0 <= missed <= 1 for missed in found["paths"][0]["missed"])
    space = Subspace.load(root / "space")
    bank = deltas.Bank(root / "bank")
    knots = Walk.load(tmp_path / "z" / "has_ba-z-path-straight.safetensors").path.knots
    np.testing.assert_allclose(knots[0], space.encode("lora", bank.load("lora", "has_ba", 0).theta), atol=1e-4)


class TestBadInput:
    @pytest.mark.parametrize(("given", "more", "words"), [
        (None, [], ("folder of a subspace, a study or a bank", "--redraw")),
        ("nothing", [], ("nothing",)),
        ("bank", ["--where", "z"], ("decompose it first",)),
        ("bank", ["--through", "prefix"], ("--through of", "'prefix'")),
        ("bank", ["--span", "leading"], ("--span of theta", "leading")),
        ("bank", ["--where", "weights", "--span", "way"], ("--span of weights", "way")),
        ("bank", ["--draw", "paths"], ("two --solutions",)),
        ("bank", ["--solutions", "has_ba", "first_word"], ("0 or 1 or 3 solutions for plane", "got 2")),
        ("bank", ["--solutions", "has_baa"], ("has_baa",)),
        ("bank", ["--draw", "plane", "--resolution", "1"], ("at least 2 points",)),
        ("space", ["--draw", "curvature"], ("point of z to look around",)),
        ("space", ["--draw", "paths"], ("two points of z to join",)),
        ("space", ["--solutions", "lora:has_ba"], ("--bank",)),
        ("space", ["--solutions", "has_b"], ("source of the subspace", "'has_b'")),
        ("space", ["--directions", "0", "7"], ("direction between 0 and 1, got 7",)),
        ("space", ["--directions", "1", "1"], ("parallel",)),
        ("space", ["--adaptive", "0"], ("tolerance above 0",)),
        ("space", ["--found", "no.json"], ("found.json",)),
        ("space", ["--metric", "accuraci"], ("among", "did you mean 'accuracy'")),
        ("space", ["--metric", "pearson"], ("numbers", "choose another metric")),
    ])
    def test_one_sentence_and_nothing_begun(self, made, tmp_path, refuses, given, more, words):
        root, on = made
        refuses(*words, args=["landscape", *([str(root / given)] if given else []), *on, "--out", str(tmp_path / "out"), *more])
        assert not (tmp_path / "out").exists()

    def test_points_of_another_subspace(self, made, tmp_path, refuses):
        root, on = made
        file = tmp_path / "found.json"
        file.write_text(json.dumps([{"task": "has_ba", "through": "lora", "seed": 0, "z": [1.0]}]))
        refuses("1 numbers", args=["landscape", str(root / "space"), *on, "--out", str(tmp_path / "out"), "--found", str(file)])

    def test_nothing_to_draw_again(self, tmp_path, refuses):
        Path(tmp_path / "empty").mkdir()
        refuses("saved surfaces, paths or curvature", args=["landscape", "--redraw", "--out", str(tmp_path / "empty")])
