"""The benchmark of size: an ordinary bank with planted structure, its law of growth, and the job itself at a small size."""

import json
import subprocess
import sys

import numpy as np
import pytest
from deltaspace.bench import decomposition_size as bench

from deltas.bank import Bank


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("size")
    bench.planted_bank(folder, 45, 2000)
    return folder


def test_the_planted_bank_is_a_bank_of_the_rank_it_says(folder):
    bank = Bank(folder / "bank")
    assert len(bank.pairs()) == 45
    x = np.stack(bank.rows(bench.LABEL, bank.pairs())).astype(np.float64)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    assert values[bench.RANK - 1] > 10 * values[bench.RANK]
    np.testing.assert_array_equal(bank.load(bench.LABEL, "task00044", 0).vector, x[44].astype(np.float32))


def test_what_is_there_is_not_written_again_and_more_is_appended(folder, tmp_path):
    path = Bank(folder / "bank").file(bench.LABEL, "task00003", 0)
    before = path.stat().st_mtime_ns
    bench.planted_bank(folder, 45, 2000)
    assert path.stat().st_mtime_ns == before
    other = bench.planted_bank(tmp_path, 5, 2000).file(bench.LABEL, "task00003", 0)
    assert other.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("powers", [(2.0, 0.0, 0.0), (0.5, 0.01, 0.0), (0.5, 0.01, 1e-5)])
def test_seconds_that_follow_the_law_are_predicted(powers):
    a, b, c = powers
    sizes = {str(n): {"processor_seconds": {"ours": a * n + b * n**2 + c * n**3, "product": b * n**2, "reading": 0.1 * n},
                      "parts": {"decompose": 0.25 * c * n**3, "null_of": 0.75 * c * n**3}} for n in (50, 100, 200)}
    found = bench.predicted(sizes)
    assert found["from"] == 50
    np.testing.assert_allclose([found["a"], found["b"], found["c"]], powers, atol=1e-12)
    np.testing.assert_allclose(list(found["measured_over_predicted"].values()), 1)
    sizes["200"]["processor_seconds"]["ours"] *= 3
    assert bench.predicted(sizes)["measured_over_predicted"]["200"] == pytest.approx(3)


def test_one_job_says_what_it_took(folder, tmp_path, capsys):
    bench.decomposed(str(folder / "bank"), 40, str(tmp_path / "space"), 1, 0, 0, 0)
    said = json.loads(capsys.readouterr().out)
    assert 0 < sum(said["parts"].values()) <= said["processor"]
    assert all(said["parts"][name] > 0 for name in ("gather", "grams", "decompose", "null_of", "combine", "save"))
    assert 10**7 < said["bytes"] < 10**11
    found = bench.recovered(tmp_path / "space", folder)
    assert found["angle"] < 2 * bench.NOISE
    assert 8 <= found["found_rank"] <= bench.RANK  # of 40 solutions the weakest directions drown in the null


def test_the_product_alone_is_as_much_arithmetic_as_that_of_all_columns():
    block = np.ones((3, 7))
    np.testing.assert_array_equal(bench.product_alone(block, 23), np.full((3, 3), 23.0))


@pytest.mark.slow
def test_the_command_writes_what_it_measured(tmp_path):
    call = [sys.executable, "-m", "deltaspace.bench.decomposition_size", "--out", str(tmp_path), "--solutions", "24", "48", "--size", "20000",
            "--rounds", "1", "--threads", "1"]
    subprocess.run(call, check=True, timeout=300)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert list(found["sizes"]) == ["24", "48"]
    for one in found["sizes"].values():
        assert one["angle"] < 0.03  # so few solutions leave the weakest directions some noise
        assert one["bytes"] < found["targets"]["bytes"]
        assert one["ratio"] == pytest.approx(one["seconds"]["ours"] / max(one["seconds"]["product"], one["seconds"]["reading"]))
    assert {"numpy", "1 device", "8 devices", "2 processes of 4 devices"} < set(found["shared_out"])
    for name in ("1 device", "8 devices", "2 processes of 4 devices"):
        assert found["shared_out"][name]["angle"] < 1e-6
    assert (tmp_path / "cost.png").stat().st_size > 10_000
