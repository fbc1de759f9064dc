"""The picture of sharpness shows the rises that were found, and what a quadratic allows, which a quadratic keeps to and others do not."""

import dataclasses

import numpy as np
import pytest
from bent import bending, crowded, seen
from matplotlib.colors import to_hex
from pictured import panel_titles, words

from landscape import sharpness_figure
from landscape.curvature import Eigen
from landscape.sharpness_figure import LOWER, draw_sharpness, quadratic_average, quadratic_worst
from landscape.style import colours

THREE = {"lora": bending("lora", slope=0.3), "adapter": bending("adapter", values=(2.0, 0.3, 0.1), quartic=3.0),
         "prefix": bending("prefix", values=(3.0, -1.0, 0.5), slope=0.1, probes=8)}  # fmt: skip


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure that would be written."""
    kept = {}
    monkeypatch.setattr(sharpness_figure, "write", lambda figure, path: kept.update(figure=figure) or path)

    def draw(found, **options):
        draw_sharpness(found, tmp_path / "f.png", **options)
        return kept["figure"]

    return draw


def points(ax, marker, row):
    """Where a marker stands in a row."""
    lines = [line for line in ax.lines if line.get_marker() == marker and len(line.get_ydata()) and np.all(np.asarray(line.get_ydata()) == row)]
    return [np.asarray(line.get_xdata(), float).tolist() for line in lines]


# ------------------------------------------------------------ what a quadratic does
@pytest.mark.parametrize("slope", [0.0, 0.05, 0.4, 3.0])
@pytest.mark.parametrize("values", [(4.0, 1.0, -0.5, 0.2), (-0.1, -1.0, -2.0)])
def test_a_quadratic_keeps_to_its_interval(values, slope):
    found = bending(values=values, slope=slope, steps=200)
    low, high = quadratic_worst(found)
    assert low == pytest.approx(0.125 * max(*values, 0))
    assert low * 0.999 <= found.worst.value <= high * 1.001 + 1e-9
    assert high - low == pytest.approx(0.5 * slope)
    mean = quadratic_average(found)[1]
    assert mean == pytest.approx(0.25 * sum(values) / (2 * len(values)))
    assert found.average.low <= mean <= found.average.high


def test_what_is_no_quadratic_leaves_it():
    found = bending(quartic=3.0, slope=0.1)
    assert found.worst.value > quadratic_worst(found)[1]
    assert found.average.low > quadratic_average(found)[2]


def test_the_largest_eigenvalue_may_not_be_known():
    found = bending(values=(-4.0, -3.0, 1.0, 0.5))
    eigen = found.matrices["hessian"].eigen
    few = Eigen(values=eigen.values[:2], vectors=eigen.vectors[:2], errors=eigen.errors[:2])
    partly = dataclasses.replace(found, matrices={"hessian": dataclasses.replace(found.matrices["hessian"], eigen=few)})
    assert quadratic_worst(found) == pytest.approx((0.125, 0.125))
    assert quadratic_worst(partly) is None
    bare = dataclasses.replace(found, matrices={"gauss_newton": found.matrices["hessian"]})  # of another matrix
    assert (quadratic_worst(bare), quadratic_average(bare)) == (None, None)


# ------------------------------------------------------------ what is drawn
def test_rises_stand_in_their_rows_and_colours(drawn):
    worst, average = drawn(THREE).axes
    tint = colours(list(THREE))
    for row, (label, one) in enumerate(THREE.items()):
        assert [x[0] for x in points(worst, "o", row)] == [one.worst.first, one.worst.value]
        assert {to_hex(line.get_color()).lower() for line in worst.lines if line.get_marker() == "o" and line.get_ydata()[0] == row} \
            == {tint[label].lower()}  # fmt: skip
        assert points(worst, "|", row + LOWER) == [list(quadratic_worst(one))]
        assert points(average, "o", row) == [[one.average.value]]
        assert points(average, "|", row + LOWER) == [list(quadratic_average(one))]
    bars = [segment[:, 0].tolist() for c in average.collections for segment in c.get_segments()]
    np.testing.assert_allclose(bars, [[one.average.low, one.average.high] for one in THREE.values()])
    assert worst.get_ylim()[0] > worst.get_ylim()[1]  # the first on top


def test_words_say_what_was_measured(drawn):
    figure = drawn(THREE)
    assert panel_titles(figure) == ["at the worst in the ball", "on average over its sphere"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["rise of the loss, ‖ε‖ ≤ 0.5", "rise of the loss, ‖ε‖ = 0.5"]
    wanted = {"one · sharpness in z", "found in 40 steps up the gradient", "8 pairs of draws", "after SAM's first step", "lora", "loss 0.25",
              "if quadratic: ρ²λ₁/2 to ρ²λ₁/2 + ρ‖∇f‖", "if quadratic: ρ² tr H / 2n, 95% interval"}  # fmt: skip
    assert wanted <= set(words(figure))
    exact = words(drawn({"lora": THREE["lora"]}, title="mine"))
    assert {"mine", "if quadratic: ρ² tr H / 2n"} <= set(exact)
    bare = {"lora": dataclasses.replace(THREE["lora"], matrices={})}
    assert not any("quadratic" in word for word in words(drawn(bare)))


def test_the_radius_is_in_the_label_or_at_each_type(drawn):
    share = {name: bending(name, radius=0.05 * length, length=length, where="theta") for name, length in (("a", 2.0), ("b", 30.0))}
    figure = drawn(share)
    assert figure.axes[0].get_xlabel().endswith("‖ε‖ ≤ 0.05 ‖θ‖")
    assert {"loss 0.25, ρ = 0.1", "loss 0.25, ρ = 1.5", "one · sharpness in θ"} <= set(words(figure))
    figure = drawn({"a": share["a"], "b": dataclasses.replace(share["b"], length=1.0)})
    assert figure.axes[1].get_xlabel().endswith("‖ε‖ = ρ")


def test_rises_of_many_sizes_have_a_scale_by_decades(drawn):
    flat = bending("b", values=(0.004, 0.001, 0.0002), steps=5)
    sunk = dataclasses.replace(flat, average=dataclasses.replace(flat.average, low=-1e-5))
    none = dataclasses.replace(flat, matrices={}, worst=dataclasses.replace(flat.worst, value=0.0, first=0.0),
                               average=dataclasses.replace(flat.average, value=0.0, low=0.0, high=0.0))  # fmt: skip
    assert [ax.get_xscale() for ax in drawn(THREE).axes] == ["linear", "linear"]
    assert [ax.get_xscale() for ax in drawn({"a": THREE["lora"], "b": flat}).axes] == ["log", "log"]
    assert [ax.get_xscale() for ax in drawn({"a": THREE["lora"], "b": sunk}).axes] == ["log", "symlog"]
    assert drawn({"b": none}).axes[0].get_xlim()[1] > 0
    for ax in drawn({"a": THREE["lora"], "b": sunk}).axes:
        low, high = ax.get_xlim()
        shown = np.concatenate([np.asarray(line.get_xdata(), float) for line in ax.lines if line.get_marker() in ("o", "|")])
        assert low < shown.min()
        assert shown.max() < high


@pytest.mark.parametrize("found", [THREE, {"lora": THREE["lora"]}, {f"a_rather-long_name of {n}": bending(radius=0.1 + n) for n in range(7)}])
def test_words_have_room_and_can_be_read(drawn, found):
    figure = drawn(found)
    assert crowded(figure) == []
    assert min(text.get_fontsize() for text, _ in seen(figure)) >= 7
    assert 5 < figure.get_size_inches()[0] < 10


def test_types_without_sharpness_are_left_out(drawn):
    found = {"lora": bending("lora", sharp=False), "adapter": THREE["adapter"]}
    figure = drawn(found)
    assert "lora" not in words(figure)
    label = next(text for text, _ in seen(figure) if text.get_text() == "adapter")
    assert label.get_color() == colours(list(found))["adapter"]  # its own, whoever is left out


def test_refusals(tmp_path, refused):
    to = tmp_path / "f.png"
    with refused("sharpness of one type", "got none"):
        draw_sharpness({}, to)
    with refused("sharpness of one type", "radius above 0"):
        draw_sharpness({"lora": bending(sharp=False)}, to)
    with refused("one task", "one, two"):
        draw_sharpness({"a": THREE["lora"], "b": bending(task="two")}, to)
    with refused("one space", "z, theta"):
        draw_sharpness({"a": THREE["lora"], "b": bending(where="theta")}, to)
    assert not list(tmp_path.iterdir())


def test_files_can_be_edited_and_repeat(tmp_path):
    first, second = (draw_sharpness(THREE, tmp_path / f"{n}.svg").read_bytes() for n in (1, 2))
    assert b"SAM" in first
    assert first == second
