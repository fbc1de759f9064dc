"""Figures are drawn again from a folder's files alone, and are the same."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from pictured import EIGEN, TRACES, density, panel_titles, surface, walk

from landscape import Surface, multiples, plotting, profiles, redrawing, relief, spectral_figures
from landscape.redrawing import redraw, saved

MODULES = (plotting, relief, multiples, profiles, spectral_figures)


@pytest.fixture(autouse=True)
def few_faces(monkeypatch):
    """Reliefs of few faces, which take less time."""
    monkeypatch.setattr(relief, "FACES", 16)


def test_all_is_drawn_again_from_files(tmp_path, monkeypatch):
    for name, labels in (("one", ("a", "b")), ("two", ("a",))):
        surface(labels, task=name).save(tmp_path / f"{name}.safetensors")
        (tmp_path / f"{name}-path.safetensors").touch()
    out, titles = tmp_path / "out", {}
    for module in MODULES:  # what takes the time is to paint
        monkeypatch.setattr(module, "write", lambda figure, path: titles.update({path.stem: panel_titles(figure)}) or path)
    kinds = {"one-path": "bezier", "two-path": "straight"}
    matrix = SimpleNamespace(eigen=EIGEN["a"], trace=TRACES["a"], density=density())
    bent = {"bend-0": "b", "bend-1": "a"}
    for stem in bent:
        (tmp_path / f"{stem}.safetensors").touch()
    monkeypatch.setattr(redrawing, "_kind", lambda path: "walk" if path.stem in kinds else "bending" if path.stem in bent else "surface")
    loads = {"Walk": lambda path: walk(kinds[path.stem]),
             "Bending": lambda path: SimpleNamespace(task="one", where="z", label=bent[path.stem], matrices={"hessian": matrix})}  # fmt: skip
    stand_in = SimpleNamespace(**{name: SimpleNamespace(load=load) for name, load in loads.items()})
    monkeypatch.setattr(redrawing, "READERS", redrawing.READERS | {"walk": ("walks", "Walk"), "bending": ("walks", "Bending")})
    monkeypatch.setitem(sys.modules, "walks", stand_in)
    found = redraw(tmp_path, out, suffix="svg")
    planes = [f"one{part}.svg" for part in ("", "-relief", "-overlap", "-combined")] + ["two.svg", "two-relief.svg"]
    rest = ["tasks-score.svg", "tasks-loss.svg", "paths-one-theta-loss.svg", "paths-one-theta-score.svg", "curvature-one-z-hessian-density.svg",
            "curvature-one-z-hessian-eigenvalues.svg"]  # fmt: skip
    assert found == [out / name for name in planes + rest]
    assert titles["curvature-one-z-hessian-density"] == ["a", "b"]  # in the order of the planes, not of the files: it has their colours
    assert titles["paths-one-theta-loss"] == ["straight", "bezier"]


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
