"""Rounds in turn and honest ratios; both sides of a comparison compute the same; what cannot run is refused or left out."""

import io
import subprocess
import sys

import numpy as np
import pytest
import rich.console
from deltaspace import bench_command
from deltaspace.__main__ import main
from deltaspace.bench.decomposition import ours, planted, svd_against_randomized, theirs
from deltaspace.bench.timing import compared, interleaved, pin_threads

from deltas import parallel


def test_every_round_runs_both_ways_and_turns_the_order_round():
    calls: list[str] = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"  # the first pair is not timed
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_the_ratio_is_the_median_of_the_rounds():
    found = compared({"us": [1.0, 2.0, 4.0], "them": [2.0, 2.0, 12.0]}, "us", "them", per=2)
    assert found["ratio"] == 2.0  # of 2, 1, 3; not 2 / 2, the ratio of the medians
    assert found["ratio_range"] == [1.0, 3.0]
    assert found["seconds"] == {"us": 1.0, "them": 1.0}
    assert found["seconds_range"]["them"] == [1.0, 6.0]
    assert found["rounds"] == 3


@pytest.mark.parametrize("count", [0, 100_000])
def test_threads_that_are_not_there_are_refused(count, refused):
    with refused("threads", str(count)):
        pin_threads(count)


def test_the_svd_part_measures_the_same_thing_twice(tmp_path):
    found = svd_against_randomized(tmp_path, 1, size=700, dense=500)
    assert found["error"] < 1e-8
    assert found["basis_against_values"] < 1e-5
    assert found["ratio"] > 0
    assert not list(tmp_path.iterdir())  # the rows are gone


def test_both_svds_find_the_same_directions():
    rows = planted(180, 900)
    (values, basis), (others, right) = ours(rows), theirs(rows, 0)
    np.testing.assert_allclose(values[:20], others[:20], rtol=1e-4)
    cosines = np.abs(np.sum(basis[:5] * right[:5], axis=1)) / np.linalg.norm(basis[:5], axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-3)


def test_tasks_are_spread_over_the_names(small_tasks):
    from deltaspace.bench.steps import spread

    names = sorted(task.name for task in small_tasks)
    assert [task.name for task in spread(small_tasks, 2)] == [names[0], names[-1]]
    assert [task.name for task in spread(small_tasks, 8)] == names


def test_padding_and_flight_run(backbone, small_tasks, monkeypatch):
    from deltaspace.bench import flight, steps

    monkeypatch.setattr(steps, "PADDED", 64)
    monkeypatch.setattr(steps, "PADDED_TARGET", 8)
    found = steps.padding_against_buckets(backbone, small_tasks[:1], 1)
    assert set(found["tokens"]) == {small_tasks[0].name}
    assert all(length <= 64 for length, _ in found["tokens"].values())
    curve = flight.throughput(backbone, 1, wanted=(1, 2))["curve"]
    assert [point["in_flight"] for point in curve] == list(dict.fromkeys(map(parallel.flight, (1, 2))))  # the devices may want more
    assert curve[0]["against_first"] == 1.0


@pytest.mark.parity
def test_the_lora_step_is_the_one_of_peft(backbone):
    pytest.importorskip("peft")
    from deltaspace.bench.steps import step_against_peft

    assert step_against_peft(backbone, 1, 1)["loss_difference"] < 1e-3


@pytest.mark.parity
def test_the_autoencoder_step_is_the_one_in_pytorch(backbone):
    pytest.importorskip("torch")
    from deltaspace.bench.autoencoder import step_against_pytorch

    found = step_against_pytorch(backbone, 1, 1, k=3, batch=4, tasks=3)
    assert found["loss_difference"] < 1e-4
    assert set(found["sizes"]) == {"adapter", "lora", "prefix"}


def test_a_part_without_its_package_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(bench_command, "_installed", lambda name: name != "peft")
    parts, skipped = bench_command.chosen(())
    assert parts == ("padding", "svd", "autoencoder", "flight")
    assert skipped == {"steps": "no peft"}


def test_a_part_that_is_asked_for_without_its_package_is_refused(monkeypatch, refused):
    monkeypatch.setattr(bench_command, "_installed", lambda name: name != "torch")
    assert bench_command.chosen(("svd", "padding"))[0] == ("padding", "svd")
    with refused("torch", "autoencoder"):
        bench_command.chosen(("svd", "autoencoder"))


@pytest.mark.parametrize(("arguments", "word"), [(["--rounds", "2"], "rounds"), (["--threads", "0"], "threads")])
def test_bad_input_ends_with_status_2_before_any_work(arguments, word, tmp_path, capsys):
    assert main(["bench", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_table_says_what_met_its_target_and_what_was_left_out():
    one = {**compared({"us": [1.0], "them": [3.0]}, "us", "them"), "target": 5.0}
    results = {"padding": one, "svd": {**one, "target": 2.0, "error": 1e-9, "randomized_error": 1e-3},
               "flight": {"device": "cpu", "curve": [{"in_flight": 2, "steps_per_second": 7.0, "against_first": 0.9}]}}
    console = rich.console.Console(width=200, record=True, file=io.StringIO())
    console.print(bench_command.table(results, {"steps": "no peft"}))
    text = console.export_text()
    for words in ("≥ 5 missed", "≥ 2 met", "≤ 0.0001 met", "7.0 steps/s", "left out: no peft", "3.00"):
        assert words in text


def test_help_needs_no_jax():
    code = """
import sys
from deltaspace.__main__ import main
try:
    main(["bench", "--help"])
except SystemExit:
    assert "jax" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--rounds" in done.stdout
