"""Figures of the delta-tuning presets: what is in them, the same bytes for the same numbers, bad input."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from landscape import courses, dots, transfer_map
from landscape.style import Estimate


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure that a function writes, kept."""
    kept = {}

    def write(figure: Figure, path):
        figure.savefig(path)
        kept["figure"] = figure
        return path

    for module in (courses, dots, transfer_map):
        monkeypatch.setattr(module, "write", write)
    return lambda make, *args, **options: (make(*args, tmp_path / "it.png", **options), kept["figure"])[1]


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_the_map_is_grouped_by_category_and_reads_source_by_target(drawn):
    matrix = np.array([[0.5, -0.1, 0.0], [0.2, 0.4, 0.1], [0.0, 0.3, np.nan]])
    figure = drawn(transfer_map.draw_transfer, matrix, ["n", "z", "a"], categories={"n": "2", "z": "1", "a": "1"})
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "z", "n"]
    np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), matrix[::-1, ::-1])
    assert texts(figure)[-8:] == ["30", "0", "10", "40", "20", "0", "−10", "50"]  # no number where there is none
    assert ax.images[0].norm.vmin == -ax.images[0].norm.vmax == -0.5


def test_dots_of_two_series_with_controls_and_groups(drawn):
    series = {"test": {"a": Estimate(0.4, 0.3, 0.5), "b": Estimate(0.6)}, "train": {"a": Estimate(0.7, 0.6, 0.8), "b": Estimate(0.9)}}
    figure = drawn(dots.draw_dots, series, references={"chance": 0.2}, groups={"a": "one", "b": "two"}, points={"a": {"x": 0.35}})
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert {"chance", "one", "two"} <= set(texts(figure))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x", "test", "train"]


def test_courses_have_one_colour_a_method(drawn):
    line = {0: Estimate(0.1, 0.0, 0.2), 10: Estimate(0.5, 0.4, 0.6)}
    figure = drawn(courses.draw_courses, {"score": {"lora": line, "full": line}, "loss": {"full": line, "lora": line}})
    first, second = figure.axes
    assert {drawn.get_label(): drawn.get_color() for drawn in first.lines} == {drawn.get_label(): drawn.get_color() for drawn in second.lines}
    assert (second.get_xlabel(), second.get_ylabel()) == ("steps", "loss")


def test_the_same_numbers_give_the_same_file(tmp_path):
    for make, value in ((transfer_map.draw_transfer, np.eye(2)), (dots.draw_dots, {"s": {"a": Estimate(0.4)}}),
                        (courses.draw_courses, {"p": {"m": {0: Estimate(1)}}})):
        args = (["a", "b"],) if make is transfer_map.draw_transfer else ()
        paths = [make(value, *args, tmp_path / f"{n}.png") for n in range(2)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_bad_figures(tmp_path, refused):
    with refused("matrix [2, 2]", "(3, 3)"):
        transfer_map.draw_transfer(np.eye(3), ["a", "b"], tmp_path / "it.png")
    with refused("row"):
        dots.draw_dots({}, tmp_path / "it.png")
    with refused("curve"):
        courses.draw_courses({}, tmp_path / "it.png")
