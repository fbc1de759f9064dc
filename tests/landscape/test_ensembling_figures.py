"""Figures of weight ensembling: written whole, and refused where the numbers do not fit."""

import numpy as np
import pytest

from landscape import Estimate, draw_blocks, draw_gains, draw_weights


def test_figures_are_written(tmp_path):
    weights = np.array([[np.nan, 0.4, 0.6], [0.9, np.nan, 0.1]])
    paths = [draw_weights(dict.fromkeys("abcde", weights), ["t", "u"], ["t", "u", "v"], tmp_path / "weights.png"),
             draw_gains({"loss": {"untuned": Estimate(1.0, 0.0, 2.0), "tuned": None}}, tmp_path / "gains.png", xlabel="points"),
             draw_blocks({"GraNd": {"encoder.0": Estimate(0.5, 0.2, 0.9), "encoder.1": None}}, tmp_path / "blocks.png")]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths)


@pytest.mark.parametrize("matrices", [{}, {"loss": np.zeros((2, 2))}])
def test_weights_of_other_shapes_are_refused(matrices, refused, tmp_path):
    with refused("[2, 3]"):
        draw_weights(matrices, ["t", "u"], ["t", "u", "v"], tmp_path / "weights.png")
    assert not list(tmp_path.iterdir())
