"""Figures are files of the right kind, the same for the same numbers, whatever is missing in them."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

import landscape
from deltas.errors import InputError
from landscape import Estimate, Mark, Surface
from landscape.charts import spread

KINDS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


def surface(types=3, resolution=7):
    axis = np.linspace(-2, 2, resolution)
    x, y = np.meshgrid(axis, axis)
    loss = np.stack([(x - 0.2 * t) ** 2 + y**2 for t in range(types)])
    marks = [Mark(name=k, x=0.3 * n, y=0.1, kind=k) for n, k in enumerate(("source", "found", "corner", "origin"))]
    return Surface(
        origin=np.zeros(4), directions=np.eye(4)[:2], x=axis, y=axis, loss=loss, score=np.exp(-loss), labels=tuple("abcdef"[:types]),
        marks=tuple(marks), task="t", metric="accuracy", split="test", axes=("z0", "z1"),
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_formats_follow_the_suffix_and_repeat(tmp_path, kind):
    paths = [landscape.plot(surface(), tmp_path / f"{n}.{kind}") for n in (1, 2)]
    assert paths[0].read_bytes().startswith(KINDS[kind])
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("types", [1, 5])
def test_any_number_of_types(tmp_path, types):
    assert landscape.plot(surface(types), tmp_path / "p.png", tolerance=0.5).stat().st_size > 5000


def test_holes_flat_and_empty_planes_are_drawn(tmp_path):
    whole = surface(2)
    holed = np.where(np.arange(7)[:, None] < 3, np.nan, whole.score)
    for n, (loss, score) in enumerate([(whole.loss, holed), (whole.loss, np.zeros_like(holed)), (holed * np.nan, holed * np.nan)]):
        landscape.plot(dataclasses.replace(whole, loss=loss, score=score), tmp_path / f"{n}.png")


def test_charts_cope_with_missing_numbers(tmp_path):
    estimate, bare = Estimate(0.5, 0.4, 0.6), Estimate(-0.2)
    landscape.curve(
        {"optimization": {2: estimate, 16: bare}, "transfer": {}}, tmp_path / "c.png", references={"transfer": {"shuffled": bare}}
    )
    landscape.matrix({("a", "b"): estimate, ("b", "a"): Estimate(float("nan"))}, tmp_path / "m.svg")
    landscape.bars({"optimization": {"joint_svd": estimate, "mean_only": bare}, "transfer": {"joint_svd": bare}}, tmp_path / "b.pdf")
    landscape.spectrum([3.0, 1.0], None, tmp_path / "s.png", k=2)
    landscape.spectrum([3.0, 1.0], [[1.0, 0.9], [1.1, 0.8]], tmp_path / "s2.png", k=9)
    landscape.seen_codes(np.eye(3), [("a", 0), ("a", 1), ("b", 0)], tmp_path / "z.png", categories={"a": "x"})
    assert len(list(tmp_path.iterdir())) == 6


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"\.png, \.svg or \.pdf"):
        landscape.plot(surface(1), tmp_path / "p.gif")
    with pytest.raises(InputError, match="k ≥ 2"):
        landscape.seen_codes(np.ones((3, 1)), [("a", 0)] * 3, tmp_path / "z.png")


def test_labels_are_pushed_apart_around_their_values():
    values = [0.0, 0.01, 0.02, 1.0]
    placed = spread(values, 0.1)
    assert min(np.diff(placed)) >= 0.1 - 1e-12
    assert np.mean(placed[:3]) == pytest.approx(np.mean(values[:3]))
    assert placed[3] == 1.0


def test_the_package_is_imported_without_matplotlib_and_draws_without_a_display(tmp_path):
    surface().save(tmp_path / "one.safetensors")
    code = f"""
import sys, landscape
assert 'matplotlib' not in sys.modules
from landscape import relief
relief.FACES = 8
relief.draw_relief(landscape.Surface.load({str(tmp_path / "one.safetensors")!r}), {str(tmp_path / "one.png")!r})
assert 'matplotlib.pyplot' not in sys.modules
"""
    without = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    subprocess.run([sys.executable, "-c", code], check=True, env=without | {"MPLBACKEND": "TkAgg"})
    assert (tmp_path / "one.png").read_bytes().startswith(KINDS["png"])
