"""The pictures of continual learning show every number they are given."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from landscape import Estimate, accuracies, draw_accuracy_matrices, draw_accuracy_steps


@pytest.fixture
def drawn(monkeypatch) -> dict[str, Figure]:
    kept: dict[str, Figure] = {}
    monkeypatch.setattr(accuracies, "write", lambda figure, path: kept.update(figure=figure) or path)
    return kept


def test_every_cell_of_every_matrix_is_written(drawn, tmp_path, refused):
    table = np.array([[1.0, np.nan], [0.25, 0.5]])
    draw_accuracy_matrices({("lora", "LAE"): table, ("prefix", "joint"): table / 2}, tmp_path / "f.png")
    panels = [ax for ax in drawn["figure"].axes if ax.images]
    assert [[text.get_text() for text in ax.texts] for ax in panels[:2]] == [["100", "25", "50"], ["50", "12", "25"]]
    assert sum(bool(ax.images) for ax in drawn["figure"].axes[:4]) == 2  # two pairs were not given
    with refused("one size", "(1, 1)"):
        draw_accuracy_matrices({("a", "b"): table, ("a", "c"): table[:1, :1]}, tmp_path / "f.png")
    with refused("one size", "[]"):
        draw_accuracy_matrices({}, tmp_path / "f.png")


def test_a_line_for_every_method_of_a_panel(drawn, tmp_path, refused):
    lines = {"LAE": [Estimate(0.9, 0.8, 1.0), Estimate(0.5, 0.4, 0.6)], "chance": [Estimate(0.5), Estimate(0.25)]}
    draw_accuracy_steps({"lora": lines, "prefix": {"chance": lines["chance"]}}, tmp_path / "f.png", references={"lora": {"joint": 0.7}})
    first, second = drawn["figure"].axes[:2]
    assert {line.get_label(): list(line.get_ydata()) for line in first.lines[:2]} == {"LAE": [0.9, 0.5], "chance": [0.5, 0.25]}
    assert first.lines[2].get_ydata()[0] == 0.7
    assert first.texts[0].get_text() == "joint"
    assert len(second.lines) == 1
    assert [text.get_text() for text in drawn["figure"].legends[0].get_texts()] == ["LAE", "chance"]
    with refused("panel"):
        draw_accuracy_steps({}, tmp_path / "f.png")


def test_they_are_files(tmp_path):
    path = draw_accuracy_matrices({("lora", "LAE"): np.ones((1, 1))}, tmp_path / "f.png")
    assert path.read_bytes().startswith(b"\x89PNG")
