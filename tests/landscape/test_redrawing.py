"""Figures are drawn again from a folder's files alone, and are the same."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from bent import bending
from pictured import density, panel_titles, surface, walk, words

from landscape import Mark, Surface, multiples, overlap_maps, plotting, profiles, redrawing, relief, sharpness_figure, spectral_figures
from landscape.redrawing import redraw, saved

MODULES = (plotting, relief, multiples, profiles, spectral_figures, overlap_maps, sharpness_figure)


@pytest.fixture(autouse=True)
def few_faces(monkeypatch):
    """Reliefs of few faces, which take less time."""
    monkeypatch.setattr(relief, "FACES", 16)


@pytest.fixture
def painted(monkeypatch):
    """{name of the file: figure} of what would be drawn: what takes the time is to paint."""
    kept = {}
    for module in MODULES:
        monkeypatch.setattr(module, "write", lambda figure, path: kept.update({path.stem: figure}) or path)
    return kept


def bent(label, task="one", **others):
    """Curvature with a density, as it is saved."""
    found = bending(label, task=task, **others)
    return dataclasses.replace(found, matrices={"hessian": dataclasses.replace(found.matrices["hessian"], density=density())})


def test_all_is_drawn_again_from_files(tmp_path, monkeypatch, painted):
    for name, labels in (("one", ("a", "b")), ("two", ("a",)), ("three", ("a", "b"))):
        surface(labels, task=name, shift=0.2).save(tmp_path / f"{name}.safetensors")
    for stem, label in (("bend-0", "b"), ("bend-1", "a")):
        bent(label).save(tmp_path / f"{stem}.safetensors")
    kinds = {"one-path": "bezier", "two-path": "straight"}
    for stem in kinds:
        (tmp_path / f"{stem}.safetensors").touch()
    known = redrawing._kind
    monkeypatch.setattr(redrawing, "_kind", lambda path: "walk" if path.stem in kinds else known(path))
    monkeypatch.setattr(redrawing, "READERS", redrawing.READERS | {"walk": ("walks", "Walk")})
    monkeypatch.setitem(sys.modules, "walks", SimpleNamespace(Walk=SimpleNamespace(load=lambda path: walk(kinds[path.stem]))))
    out = tmp_path / "out"
    found = redraw(tmp_path, out, suffix="svg")
    planes = [f"{name}{part}.svg" for name in ("one", "three") for part in ("", "-relief", "-overlap", "-combined")]
    planes += ["two.svg", "two-relief.svg"]
    rest = ["tasks-score.svg", "tasks-loss.svg", "overlaps-z-test.svg", "paths-one-theta-loss.svg", "paths-one-theta-score.svg",
            "curvature-one-z-hessian-density.svg", "curvature-one-z-hessian-eigenvalues.svg", "sharpness-one-z.svg"]  # fmt: skip
    assert found == [out / name for name in planes + rest]
    # in the order of the planes, not of the files: they have their colours
    assert panel_titles(painted["curvature-one-z-hessian-density"]) == ["a", "b"]
    assert [word for word in words(painted["sharpness-one-z"]) if word in ("a", "b")] == ["a", "b"]
    assert panel_titles(painted["paths-one-theta-loss"]) == ["straight", "bezier"]
    assert panel_titles(painted["overlaps-z-test"]) == ["a", "b", "all types"]
    assert {"one", "three", "shared basins · test split · plane of z"} <= set(words(painted["overlaps-z-test"]))
    assert "two" not in words(painted["overlaps-z-test"])  # of other types


def test_points_of_one_type_are_told_apart(tmp_path, painted):
    for stem, label, others in (("first", "a", {}), ("second", "a", {"values": (1.0, 0.5)}), ("third", "b", {"sharp": False}),
                                ("other", "a", {"task": "two", "sharp": False})):  # fmt: skip
        bent(label, **others).save(tmp_path / f"{stem}.safetensors")
    drawn = [path.stem for path in redraw(tmp_path)]
    assert [stem for stem in drawn if stem.startswith("sharpness")] == ["sharpness-one-z"]
    assert panel_titles(painted["curvature-one-z-hessian-density"]) == ["first", "second", "b"]
    assert panel_titles(painted["curvature-two-z-hessian-density"]) == ["a"]
    assert {"first", "second"} <= set(words(painted["sharpness-one-z"]))


def test_basins_of_every_plane(tmp_path, painted, monkeypatch):
    """Two planes of z, and one of θ that was drawn of one task twice."""
    monkeypatch.setattr(redrawing, "_surface", lambda *given: [])
    monkeypatch.setattr(redrawing, "draw_multiples", lambda rows, path, **others: path)
    away = np.ones(4)
    through = (Mark(name="sst2 0", x=0.0, y=0.0, kind="corner"), Mark(name="sst2 1", x=1.0, y=0.0, kind="corner"))
    for n, others in enumerate([{"task": "one"}, {"task": "two"}, {"task": "one", "origin": away}, {"task": "two", "origin": away},
                                {"task": "one", "origin": 2 * away}, *[{"task": "one", "space": "θ of lora", "marks": through}] * 2]):
        dataclasses.replace(surface(), **others).save(tmp_path / f"{n}.safetensors")
    stems = [path.stem for path in redraw(tmp_path) if path.stem.startswith("overlaps")]
    assert stems == ["overlaps-z-test", "overlaps-z-test-2", "overlaps-theta_of_lora-test"]
    assert {"one", "two"} <= set(words(painted["overlaps-z-test-2"]))
    assert {"5", "6", "shared basins · test split · plane of θ of lora"} <= set(words(painted["overlaps-theta_of_lora-test"]))


def test_what_is_drawn_again_is_the_same(tmp_path):
    one = Surface(**{f.name: getattr(surface(("a",)), f.name) for f in dataclasses.fields(Surface)})
    one.save(tmp_path / "one.safetensors")
    before = [plotting.plot(one, tmp_path / "plot.svg"), relief.draw_relief(one, tmp_path / "relief.svg")]
    found = redraw(tmp_path, suffix="svg")
    assert found == [tmp_path / "one.svg", tmp_path / "one-relief.svg"]
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in before]


def test_only_what_was_saved_for_it_is_read(tmp_path, refused):
    from safetensors.numpy import save_file

    save_file({"loss": np.zeros(3)}, tmp_path / "points.safetensors")
    with refused("got none", "deltaspace landscape"):
        saved(tmp_path)
    surface().save(tmp_path / "one.safetensors")
    assert {kind: list(found) for kind, found in saved(tmp_path).items()} == {"surface": ["one"], "walk": [], "bending": []}
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with refused("torn.safetensors"):
        saved(tmp_path)


def test_refusals(tmp_path, refused):
    with refused("nothing at"):
        redraw(tmp_path / "nowhere")
    with refused("'gif'"):
        redraw(tmp_path, suffix="gif")
