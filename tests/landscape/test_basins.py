"""Basins of several tasks on one plane: discs whose overlap is known, and a null whose mean is."""

import dataclasses
import json

import numpy as np
import pytest

from landscape.basins import EVERYONE, by_plane, compared, overlaps
from landscape.surface import Surface


def discs(*centres, radius=0.6, resolution=41):
    """score_t = 1 − |p − c_t|² / (10 radius²): within 0.1 of 1 is a disc of that radius."""
    axis = np.linspace(-2, 2, resolution)
    x, y = np.meshgrid(axis, axis)
    squares = np.stack([((x - a) ** 2 + (y - b) ** 2) / (10 * radius**2) for a, b in centres])
    labels = tuple("ab")[: len(centres)]
    return Surface(origin=np.zeros(2), directions=np.eye(2), x=axis, y=axis, loss=1 + squares, score=1 - squares, labels=labels)


def lens(radius, distance):
    return 2 * radius**2 * np.arccos(distance / (2 * radius)) - distance / 2 * np.sqrt(4 * radius**2 - distance**2)


def test_two_tasks_meet_in_a_lens():
    (found, everyone) = overlaps({"one": discs((-0.4, 0)), "other": discs((0.4, 0))})
    disc, common = np.pi * 0.36, lens(0.6, 0.8)
    assert (found.tasks, found.label, everyone.label) == (("one", "other"), "a", EVERYONE)
    assert found.areas == pytest.approx((disc, disc), rel=0.02)
    assert found.intersection == pytest.approx(common, rel=0.05)
    assert found.jaccard == pytest.approx(common / (2 * disc - common), rel=0.05)
    assert found.smaller == pytest.approx(common / disc, rel=0.05)
    assert found.expected == pytest.approx(disc**2 / 16, rel=0.04)
    assert (found.connected, found.pieces, found.largest) == (True, 1, 1.0)
    assert everyone.jaccard == found.jaccard  # one type: all types are that one


def test_every_pair_and_type_with_all_types_last():
    tasks = {name: discs((0.1 * n, 0), (-0.2 * n, 0.1)) for n, name in enumerate("pqr")}
    rows = [json.loads(json.dumps(found.to_json())) for found in overlaps(tasks, by="loss", tolerance=0.05)]
    assert [(*row["tasks"], row["label"]) for row in rows] == [(*pair, label) for pair in ("pq", "pr", "qr") for label in ("a", "b", EVERYONE)]
    assert all(row["intersection"] <= min(row["areas"]) for row in rows)


def test_discs_apart_share_nothing_and_near_ones_more_than_chance():
    apart = overlaps({"one": discs((-1.2, 0)), "other": discs((1.2, 0))})[0]
    assert (apart.jaccard, apart.smaller, apart.connected, apart.pieces, apart.chance) == (0, 0, False, 0, 1)
    near = overlaps({"one": discs((0, 0)), "other": discs((0.1, 0))})[0]
    # as much is in common only where the shift is at most twice the distance: a disc of radius 0.1 around (0.1, 0), and so on
    assert near.chance == pytest.approx(np.pi * 0.1**2 / 16, rel=0.2)
    assert near.connected
    touching = overlaps({"one": discs((-0.6, 0)), "other": discs((0.6, 0))})[0]
    assert touching.connected
    assert touching.intersection < 0.01


def test_independent_regions_overlap_as_expected():
    """The mean over all shifts is the product of the areas, and random masks are nothing unusual."""
    rng = np.random.default_rng(0)
    ranks = []
    for _ in range(40):
        a, b = (np.roll(np.kron(rng.random((5, 5)) < 0.3, np.ones((8, 8))) > 0, rng.integers(0, 40, 2), (0, 1)) for _ in range(2))
        ranks.append(compared(np.pad(a, ((0, 1), (0, 1))), np.pad(b, ((0, 1), (0, 1))))["chance"])
    assert 0.3 < np.mean(ranks) < 0.75
    assert sum(rank < 0.1 for rank in ranks) <= 10
    empty = compared(np.zeros((9, 9), bool), np.ones((9, 9), bool))
    assert (empty["jaccard"], empty["chance"], empty["connected"], empty["largest"]) == (0, 1, False, 0)


def test_best_and_floor_are_those_of_the_task():
    tasks = {"one": discs((0, 0)), "other": discs((0, 0))}
    by_best = overlaps(tasks, best={"one": {"a": 1.0}, "other": {"a": 1.1}})[0]
    assert by_best.areas[1] < 0.2 * by_best.areas[0]
    by_floor = overlaps(tasks, floor={"one": 0.5, "other": {"a": 0.0}})[0]
    assert by_floor.areas[0] == pytest.approx(by_floor.areas[1] / 2, rel=0.03)


def test_refusals(refused):
    one, turned = discs((0, 0)), discs((0, 0))
    with refused("two tasks"):
        overlaps({"one": one})
    with refused("one plane", "directions", "other"):
        overlaps({"one": one, "other": dataclasses.replace(turned, directions=np.array([[0.0, 1.0], [1.0, 0.0]]))})
    with refused("one plane", "x for other"):
        overlaps({"one": one, "other": discs((0, 0), resolution=11)})
    with refused("one space"):
        overlaps({"one": one, "other": dataclasses.replace(turned, space="weights")})
    with refused("same types", "a, b"):
        overlaps({"one": one, "other": discs((0, 0), (0, 0))})
    with refused("best for every task", "other"):
        overlaps({"one": one, "other": turned}, best={"one": {"a": 1.0}})


def test_surfaces_are_compared_on_one_plane_only():
    """Around another point the coordinates are the same, and the plane is not."""
    one = discs((-0.4, 0), (0.4, 0))
    assert [list(plane) for plane in by_plane({"one": one, "other": dataclasses.replace(one, task="other")})] == [["one", "other"]]
    for others in ({"split": "dev"}, {"space": "weights"}, {"x": 2 * one.x}, {"labels": ("b", "a")}, {"directions": -np.eye(2)},
                   {"place": "elsewhere"}):
        assert len(by_plane({"one": one, "other": dataclasses.replace(one, **others)})) == 2, others
    assert by_plane({}) == []
