"""Planes of θ against the package loss-landscapes: the same model, the same directions, the same losses."""

import numpy as np
import pytest
import toy

import deltas

pytestmark = pytest.mark.parity


def test_planes_are_those_of_loss_landscapes(backbone):
    """Through three models and along random directions normalised by filter: a LoRA on T5, in PyTorch and here."""
    pytest.importorskip("loss_landscapes")
    from deltaspace.bench import foreign_planes, originals

    attached = deltas.Attached.of(backbone, deltas.LoRA(rank=2))
    theta = attached.theta0 + 0.3 * np.random.default_rng(0).standard_normal(attached.layout.size).astype(np.float32)
    reading = deltas.Reading(max_input=12, max_target=3)
    found = foreign_planes.compare(attached, theta, toy.copy(rows=32), reading, originals.load(backbone, 1), steps=4)
    assert found["points"] == 16
    for name, (low, high) in found["losses"].items():
        assert high - low > 0.1
        assert found["differences"][name] < 1e-4
        assert found["aside"][name] > 1e-3  # where its documentation says that they are, they are not
    assert max(found["directions"].values()) < 1e-5
