"""The benchmark of landscapes: what a loop in PyTorch computes is what we compute, and the errors of a map are the true ones."""

import json
from typing import Any

import numpy as np
import pytest
import toy
from deltaspace.bench import landscapes
from deltaspace.bench.foreign_planes import looked_at
from deltaspace.bench.plane_map import Drawn, against_dense, summary
from deltaspace.bench.plane_points import plane_around

import deltas
import landscape
from landscape import steady


def dense(*functions, side=21, score=lambda x, y: x > 0):
    """A surface of a function for each of some types, on [-1, 1] × [0, 2]."""
    x, y = np.linspace(-1, 1, side), np.linspace(0, 2, side)
    across, up = np.meshgrid(x, y)
    loss = np.stack([f(across, up) for f in functions])
    return landscape.Surface(origin=np.zeros(2), directions=np.eye(2), x=x, y=y, loss=loss, labels=tuple("abc"[: len(functions)]),
                             score=np.where(np.isfinite(loss), score(across, up), np.nan))


def test_the_errors_are_those_of_the_points_that_were_filled_in():
    surface = dense(lambda x, y: x**2 + np.sin(3 * y), lambda x, y: 5 + np.exp(x) * y)
    space: Any = Drawn(surface)
    asked: list[tuple[str, int]] = []

    def evaluate(label, z):
        asked.append((label, len(z)))
        return space.evaluate(label, z)

    found = landscape.survey(space, evaluate, extent=(-1.0, 1.0, 0.0, 2.0), resolution=21, adaptive=0.02)
    result = against_dense(surface, 0.02)
    for kind, label in enumerate(surface.labels):
        one, known = result[label], found.known[kind]
        assert one["evaluated"] == known.sum() == sum(count for name, count in asked if name == label) < 441
        wrong = np.abs(found.loss[kind] - surface.loss[kind]) / np.ptp(surface.loss[kind])
        assert wrong[known].max() == 0
        assert one["error"] == pytest.approx(wrong.max(), rel=1e-3)
        assert one["error_mean"] == pytest.approx(wrong[~known].mean(), rel=1e-3)
        assert 0 < one["error"] < 0.04
        assert one["over"] == pytest.approx((wrong[~known] > 0.02).mean(), rel=1e-3)
        assert one["stated"] == pytest.approx(found.error[kind] / np.ptp(surface.loss[kind]), rel=1e-3)
    assert summary(result)["share"] == max(one["share"] for one in result.values())


def test_what_was_missed_between_the_points_is_an_error():
    """A spike on one point that a coarse grid does not meet, away from all else that bends."""
    def spiked(x, y):
        return x + np.where((np.abs(x + 0.9) < 1e-9) & (np.abs(y - 0.1) < 1e-9), 4.0, 0.0)

    (one,) = against_dense(dense(spiked)).values()
    assert one["evaluated"] < 441
    assert one["error"] == pytest.approx(4 / 4.1, rel=0.1)
    assert 0 < one["over"] < 0.01
    assert one["error"] > one["stated"]


def test_holes_are_counted_and_are_no_errors():
    (one,) = against_dense(dense(lambda x, y: np.where((x > 0.75) & (y > 1.75), np.nan, x + y))).values()
    assert one["holes"] == 9
    assert one["error"] < 0.02


def test_the_points_of_the_other_package_are_those_of_its_walk():
    """It moves first and looks then, forth along the second direction and back along it."""
    steps, at, columns = 4, 0, []
    for i in range(steps):
        column = []
        for _ in range(steps):
            at += 1 if i % 2 == 0 else -1
            column = [*column, 10 * i + at] if i % 2 == 0 else [10 * i + at, *column]
        columns.append(column)
    j, i = np.indices((steps + 1, steps + 1))
    np.testing.assert_array_equal(looked_at(10 * i + j), columns)


def test_a_plane_of_the_decoder_moves_nothing_else(attached):
    lora = attached["lora"]
    around = plane_around(lora, lora.theta0 + 0.1, "decoder.", 0)
    moved = steady.moving(lora.layout, around.decode(around.label, np.eye(2)))
    assert moved == steady.moving(lora.layout, plane_around(lora, lora.theta0 + 0.1, "", 0).decode("lora", np.eye(2)))[: len(moved)]
    assert {name.split(".")[0] for name in moved} == {"decoder"}


@pytest.fixture
def bench(folder, tmp_path, monkeypatch):
    """The command on the tiny backbone, which leaves the threads of the tests as they are."""
    monkeypatch.setattr(landscapes, "pin_threads", lambda count: None)
    return lambda **options: landscapes.Landscapes(backbone=str(folder), out=tmp_path / "out.json", max_input=8, map_rows=4, side=6, **options)


def test_a_map_is_measured_without_pytorch_and_is_not_evaluated_again(bench, tmp_path, monkeypatch):
    bench(only=("map",)).run()
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found["map"]["each"]) == ["θ of lora", "θ of lora, decoder"]
    for one in found["map"]["each"].values():
        assert one["points"] == 36
        assert one["range"][0] < one["range"][1]
    assert found["settings"]["side"] == 6
    assert not any(str(tmp_path) in str(value) for value in found["settings"].values())
    monkeypatch.setattr(steady, "evaluator", lambda *given, **options: pytest.fail("evaluated again"))
    bench(only=("map",)).run()
    assert json.loads((tmp_path / "out.json").read_text())["map"] == found["map"]


def test_too_few_rounds_and_tasks_without_labels_are_refused(bench, refused):
    with refused("rounds", "2"):
        bench(rounds=2).run()
    with refused("labels", "first_word"):
        landscapes.task_of([toy.copy()])


@pytest.mark.parity
@pytest.mark.parametrize(("decoder", "decode"), [(False, "generate"), (True, "rank")], ids=["general, generated", "decoder, ranked"])
def test_the_loop_in_pytorch_finds_the_same(backbone, decoder, decode):
    pytest.importorskip("torch")
    from deltaspace.bench.plane_points import against_pytorch

    one = deltas.Attached.of(backbone, deltas.LoRA(rank=2))
    theta = one.theta0 + 0.3 * np.random.default_rng(0).standard_normal(one.layout.size).astype(np.float32)
    reading = deltas.Reading(max_input=12, max_target=3, decode=decode)
    found = against_pytorch(one, theta, toy.classify(rows=64), reading, 1, 1, decoder=decoder, rows=12)
    assert found["loss_difference"] < 1e-5
    assert found["score_difference"] == 0
    assert np.ptp(found["losses"]) > 1e-3
    assert (found["against_encoder_kept"] is not None) == decoder
    assert found["rows"] == 12
