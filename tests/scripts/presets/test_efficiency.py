"""What a training step costs: the plan, what is compared, the study as a user runs it."""

import json

import jax
import numpy as np
import pytest
import toy
from deltaspace.__main__ import main
from deltaspace.presets.efficiency import full_batch, step_of
from deltaspace.presets.efficiency_page import compared, page

import deltas

STUDY = """kind = "efficiency"
backbone = "{backbone}"
tasks = "{tasks}"
name = "has_ba"
types = ["lora:rank=2"]
batch_sizes = [2]
max_input = 12
rounds = 5
"""
MACHINE = {"device": "cpu", "processors": 2}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    from test_commands import write_tasks

    root = tmp_path_factory.mktemp("efficiency")
    encoder = toy.write_folder(root / "bert", "bert", num_hidden_layers=1)
    (root / "study.toml").write_text(STUDY.format(backbone=encoder, tasks=write_tasks(root / "tasks")))
    return root / "study.toml"


def test_a_step_trains_and_its_plan_counts_what_it_holds(backbone):
    task = toy.classify()
    attached = deltas.Attached.of(backbone, deltas.BitFit())
    batch = full_batch(backbone, task, deltas.Reading(max_input=12, max_target=4, decode="rank", buckets=(12,)), 50)
    assert batch["input_ids"].shape == (50, 12)
    np.testing.assert_array_equal(batch["input_ids"][:20], batch["input_ids"][20:40])  # twenty training rows, over again
    run, plan = step_of(attached, batch)
    assert plan["frozen"] == sum(leaf.nbytes for leaf in jax.tree.leaves(attached.frozen))
    assert 16 * attached.layout.size <= plan["state"] <= 16 * attached.layout.size + 64  # θ0, v, two moments of Adam, its counter
    assert plan["temporaries"] > 0
    assert run() > run() > run()


def test_the_study_goes_on_without_measuring_again(file, tmp_path, monkeypatch):
    from deltaspace.presets.efficiency import Efficiency

    assert main(["study", str(file), "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(row["type"], row["batch_size"]) for row in told["rows"]] == [("lora", 2), ("full", 2)]
    full = [row for row in told["rows"] if row["type"] == "full"]
    assert all(row["memory_ratio"] == row["time_ratio"] == 1.0 for row in full)
    assert all(row["fastest"] <= row["seconds"] <= row["slowest"] for row in told["rows"])
    assert (tmp_path / "out" / "figures" / "efficiency.png").stat().st_size > 1000
    monkeypatch.setattr(Efficiency, "measured", None)
    assert main(["study", str(file), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rows"] == told["rows"]


@pytest.mark.parametrize(("old", "new", "words"), [
    ("rounds = 5", "rounds = 4", ("5 rounds", "4")), ("[2]", "[0, 2]", ("batch_sizes", "0")), ("lora:rank=2", "full", ("full", "twice")),
    ('"has_ba"', '"first_word"', ("label words", "first_word")),
    ("rounds = 5", 'decode = "generate"', ("encoder", "generate")),
    ("rounds = 5", "threads = 0", ("threads", "0")), ("name =", "nome =", ("'name'",)),
])
def test_bad_input(refuses, file, tmp_path, old, new, words):
    (tmp_path / "study.toml").write_text(file.read_text().replace(old, new))
    refuses(*words, args=["study", str(tmp_path / "study.toml"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def rows_of(saving):
    """A delta whose step takes half of full's time, and at each batch the given share of its memory."""
    rows = []
    for size, share in saving.items():
        for label, memory, seconds in (("lora", 1000 * share, [1.0, 1.0, 2.0]), ("full", 1000, [2.0, 2.0, 2.0])):
            rows.append({"type": label, "batch_size": size, "parameters": 10, "frozen": 0, "state": 0, "temporaries": memory,
                         "seconds": 1.0, "fastest": 1.0, "slowest": 2.0, "ratios": [2.0 / s for s in seconds]})
    return rows


def test_savings_are_made_within_each_round_and_told_as_they_are():
    rows = compared(rows_of({1: 0.25, 8: 0.5}))
    lora = [row for row in rows if row["type"] == "lora"]
    assert [row["memory_ratio"] for row in lora] == [4.0, 2.0]
    assert [(row["time_ratio"], row["time_ratio_low"], row["time_ratio_high"]) for row in lora] == [(2.0, 1.0, 2.0)] * 2
    told = page(rows, MACHINE)
    assert told.headline.verdict == "for"
    assert "4.00 to 4.00 times the memory" in told.headline.text
    assert page(compared(rows_of({1: 0.5, 8: 0.25})), MACHINE).headline.verdict == "against"
