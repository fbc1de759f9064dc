"""Regions on analytic bowls, whose areas are known."""

import json

import numpy as np
import pytest

from deltas.errors import InputError
from landscape.region import LAYERS, REFINE, combined, refine, region
from landscape.surface import Mark, Surface


def bowls(*centres, resolution=41, half=2.0, peak=1.0, marks=()):
    """score_t = peak − |p − c_t|²: {score ≥ peak (1 − τ)} is a disc of radius √(peak τ)."""
    axis = np.linspace(-half, half, resolution)
    x, y = np.meshgrid(axis, axis)
    squares = np.stack([(x - a) ** 2 + (y - b) ** 2 for a, b in centres])
    labels = tuple("abcdef"[: len(centres)])
    return Surface(
        origin=np.zeros(2), directions=np.eye(2), x=axis, y=axis, loss=1 + squares, score=peak - squares, labels=labels, marks=tuple(marks)
    )


def lens(radius, distance):
    """Area common to two discs."""
    return 2 * radius**2 * np.arccos(distance / (2 * radius)) - distance / 2 * np.sqrt(4 * radius**2 - distance**2)


@pytest.mark.parametrize("tolerance", [0.1, 0.25, 0.8])
def test_one_bowl_is_a_disc(tolerance):
    area = region(bowls((0.1, -0.2)), tolerance=tolerance, best={"a": 1.0})
    assert area.area == pytest.approx(np.pi * tolerance, rel=0.03)
    assert area.fraction == pytest.approx(area.area / 16)
    assert area.components == 1


def test_two_bowls_meet_in_a_lens():
    area = region(bowls((-0.3, 0.0), (0.3, 0.0)), tolerance=0.36, best={"a": 1, "b": 1})
    assert area.area == pytest.approx(lens(0.6, 0.6), rel=0.02)
    assert area.areas == pytest.approx((np.pi * 0.36,) * 2, rel=0.02)


def test_loss_and_score_of_the_same_bowl_agree():
    by = [region(bowls((0.0, 0.0), (0.4, 0.1)), tolerance=0.5, by=what, best={"a": 1, "b": 1}) for what in ("score", "loss")]
    assert by[0].area == pytest.approx(by[1].area, rel=1e-6)


def test_bowls_too_far_apart_share_nothing():
    area = region(bowls((-1, 0), (1, 0)), tolerance=0.25)
    assert (area.area, area.fraction, area.components) == (0.0, 0.0, 0)


def test_two_peaks_are_two_pieces():
    surface = bowls((-1, 0), (1, 0))
    both = np.maximum(surface.score[0], surface.score[1])
    surface = Surface(**{**vars(surface), "score": both[None], "loss": surface.loss[:1], "labels": ("a",)})
    area = region(surface, tolerance=0.25)
    assert area.components == 2
    assert area.area == pytest.approx(2 * np.pi * 0.25, rel=0.03)


def test_the_region_does_not_depend_on_the_order_of_types_and_grows_with_tolerance():
    ab, ba = (region(bowls(*c), tolerance=0.4) for c in ([(0, 0), (0.5, 0.2)], [(0.5, 0.2), (0, 0)]))
    assert ab.area == ba.area
    sizes = [region(bowls((0, 0), (0.5, 0.2)), tolerance=t).area for t in (0.2, 0.4, 0.6)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_a_negative_best_still_has_a_region_that_holds_the_best_point():
    area = region(bowls((0, 0), peak=-0.5), tolerance=0.1)
    assert area.thresholds[0] == pytest.approx(-0.55)
    assert area.area > 0


def test_a_floor_makes_the_tolerance_relative_to_what_there_is_to_gain():
    area = region(bowls((0, 0)), tolerance=0.5, floor=0.6, best={"a": 1.0})
    assert area.thresholds[0] == pytest.approx(0.8)
    assert area.area == pytest.approx(np.pi * 0.2, rel=0.03)


def test_marks_inside_are_named_only_where_they_lie_on_the_plane():
    marks = [
        Mark(name="in", x=0.1, y=0.1),
        Mark(name="foot", x=0.1, y=0.1, away=2.0),
        Mark(name="out", x=1.5, y=0),
        Mark(name="off", x=9, y=0),
    ]
    assert region(bowls((0, 0), marks=marks), tolerance=0.3).marks == ("in",)


def test_holes_are_outside_and_counted():
    surface = bowls((0, 0))
    whole = region(surface, tolerance=0.5)
    surface.score[0, 20, 20] = np.nan
    holed = region(surface, tolerance=0.5, best={"a": 1.0})
    assert holed.holes == 1
    assert holed.area == pytest.approx(whole.area - 4 * 0.1**2, abs=0.01)  # the four cells around it


def test_a_flat_type_is_named():
    surface = bowls((0, 0), (0, 0))
    surface.score[1] = 0.5
    assert region(surface, tolerance=0.1).flat == ("b",)


def test_refining_keeps_the_grid_and_is_linear_between():
    values = np.random.default_rng(0).normal(size=(4, 6))
    fine = refine(values)
    np.testing.assert_allclose(fine[::REFINE, ::REFINE], values)
    np.testing.assert_allclose(fine[REFINE // 2, 0], (values[0, 0] + values[1, 0]) / 2)
    assert fine.max() == values.max()


def test_summary_is_json():
    facts = json.loads(json.dumps(region(bowls((0, 0), (0.1, 0))).summary()))
    assert facts["labels"] == ["a", "b"]
    assert set(facts["best"]) == {"a", "b"}
    assert facts["area"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tolerance": 1.0}, "tolerance"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"by": "f1"}, "'score' or 'loss'"),
        ({"best": {}}, "none for a"),
        ({"best": {"b": 1.0}}, "none for a"),
        ({"floor": {"b": 0.0}}, "none for a"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(InputError, match=words):
        region(bowls((0, 0)), **arguments)


def test_the_largest_piece_and_what_is_held():
    marks = [Mark(name="in", x=1, y=0), Mark(name="out", x=0, y=0), Mark(name="foot", x=1, y=0, away=1.0), Mark(name="off", x=9, y=0)]
    surface = bowls((-1, 0), (1, 0), marks=marks)
    score = np.maximum(surface.score[0] - 0.3, surface.score[1])[None]  # discs of radius √0.2 and √0.5
    surface = Surface(**{**vars(surface), "score": score, "loss": surface.loss[:1], "labels": ("a",)})
    found = region(surface, tolerance=0.5)
    assert found.components == 2
    assert found.largest == pytest.approx(0.5 / 0.7, rel=0.01)
    assert found.held == {"in": True, "out": False}
    assert json.loads(json.dumps(found.summary()))["held"] == found.held
    assert region(bowls((0, 0))).largest == 1
    assert region(bowls((-1, 0), (1, 0)), tolerance=0.25).largest == 0


def test_layers_over_types():
    surface = bowls((-0.3, 0), (0.3, 0), (0, 0.5))
    surface.score[1, 3, 4] = surface.loss[1, 3, 4] = np.nan
    layers = combined(surface)
    assert layers.labels == LAYERS
    np.testing.assert_array_equal(layers.score, [surface.score.min(0), surface.score.mean(0), surface.score.max(0)])
    np.testing.assert_array_equal(layers.loss, [surface.loss.max(0), surface.loss.mean(0), surface.loss.min(0)])
    assert np.isnan(layers.score[:, 3, 4]).all()
    assert layers.holes == dict.fromkeys(LAYERS, 1)
    # against one best for all, the region of all types is that of the worst, but for the bilinear reading in between
    all_types = region(surface, tolerance=0.3, best=dict.fromkeys("abc", 1.0))
    worst = region(layers, tolerance=0.3, best=dict.fromkeys(LAYERS, 1.0))
    assert worst.areas[0] == pytest.approx(all_types.area, rel=0.03)
