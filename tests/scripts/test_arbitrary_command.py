"""`deltaspace arbitrary` as a user runs it: interrupted and resumed, its numbers, its page, its refusals."""

import csv
import json

import pytest
import toy
from deltaspace import trials
from deltaspace.__main__ import main
from deltaspace.arbitrary_page import _claims, _findings, _headline
from test_commands import write_tasks

from deltas.tuning import tune


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The options for a one-layer encoder and a task with two labels: two budgets, two structures, the first with two seeds."""
    root = tmp_path_factory.mktemp("arbitrary")
    encoder = toy.write_folder(root / "bert", "bert", num_hidden_layers=1)
    return ["--backbones", str(encoder), "--tasks", str(write_tasks(root / "tasks")), "--names", "has_ba", "--budgets", "2", "--most", "500",
            "--structures", "2", "--exclude", "shared", "--steps", "2", "--batch-size", "4", "--max-input", "12", "--dev-rows", "8"]


@pytest.fixture(scope="module")
def study(given, tmp_path_factory):
    """A finished study that was interrupted in its fourth training: its folder, and the trainings of both runs."""
    out, begun = tmp_path_factory.mktemp("out"), []

    def counting(stop_at):
        def call(attached, jobs, *args, **kwargs):
            begun.append((attached.label, jobs[0].seed))
            if len(begun) == stop_at:
                raise KeyboardInterrupt
            return tune(attached, jobs, *args, **kwargs)
        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "tune", counting(4))
        assert main(["arbitrary", *given, "--out", str(out)]) == 130
        first = list(begun)
        begun.clear()
        patch.setattr(trials, "tune", counting(None))
        assert main(["arbitrary", *given, "--out", str(out)]) == 0
    return out, first, begun


def test_a_killed_run_goes_on(study):
    _, first, then = study
    assert len(first) == 4
    assert then[0] == first[-1]  # the one that was interrupted
    assert len(set(first[:-1] + then)) == len(first[:-1] + then) == 2 + 2 * (2 + 1)  # full twice; at each budget two seeds and one


def test_what_is_written(study):
    out = study[0]
    assert {p.name for p in out.iterdir()} >= {"study.toml", "results.csv", "summary.json", "report.html", "figures"}
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    ours = [row for row in rows if not row["control"]]
    assert {row["control"] for row in rows} == {"", "full", "chance", "zero_shot"}
    assert {(row["structure"], row["seed"]) for row in ours} == {("0", "0"), ("0", "1"), ("1", "0")}
    assert all(int(row["parameters"]) <= int(row["budget"]) for row in ours)
    assert len({row["parameters"] for row in ours if row["budget"] == "500"}) <= 2  # one a structure
    told = json.loads((out / "summary.json").read_text())
    found = told["backbones"]["bert"]
    assert found["budgets"] == [16, 500]  # the smallest group is a norm's scale or a bias
    assert set(found["thresholds"]) == {"low", "gain", "high"}
    assert found["spread"]["noise"] is not None
    assert set(found["spread_by_budget"]) == {"16", "500"}
    assert told["table"]["heads"][2:5] == ["P_low", "P_gain", "P_high"]
    page = (out / "report.html").read_text()
    assert all(word in page for word in ("data:image/png", "P_low: the least number", "2306.02320"))


def test_the_study_file_it_writes_is_the_same_study(study, capsys):
    """Nothing is trained again."""
    out = study[0]
    before = (out / "results.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "tune", None)
        assert main(["study", str(out / "study.toml"), "--out", str(out)]) == 0
    assert (out / "results.csv").read_bytes() == before


@pytest.mark.parametrize(("changes", "words"), [
    (["--most", "100000000"], ("largest budget", "16 (the smallest group)", "100000000")),
    (["--least", "3"], ("least budget", "3")),
    (["--budgets", "1"], ("at least 2 budgets",)),
    (["--structures", "0"], ("structures", "0")),
    (["--rates", "0.1+x"], ("learning rate", "0.1+x")),
    (["--rates", "0.1+0.1+0.1"], ("one a budget (2)",)),
    (["--steps", "2", "3"], ("steps", "one for each of 1")),
    (["--names", "first_word"], ("label words", "first_word")),
    (["--decode", "generate"], ("encoder", "generate")),
    (["--names", "has_bo"], ("has_bo",)),
    (["--exclude", "sahred"], ("sahred",)),
    (["--tolerance", "2"], ("tolerance", "2")),
    (["--backbones", "nowhere/at/all"], ("nowhere",)),
])
def test_bad_input(refuses, given, tmp_path, changes, words):
    at = given.index(changes[0]) if changes[0] in given else None
    args = given if at is None else given[:at] + given[at + 2 :]
    refuses(*words, args=["arbitrary", *args, *changes, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def told_of(parameters, high, structure, lows=(100, 200)):
    """What summary.json says of a backbone, as far as words are made of it."""
    def at(value):
        return {"value": value, "low": value, "high": value, "reached": float(value is not None)}

    return {"parameters": parameters, "budgets": [100, 5000], "chance": 0.5, "zero_shot": 0.6,
            "thresholds": {"low": at(100), "gain": at(None), "high": at(high)},
            "spread": {"structure": structure[1], "interval": [structure[0], structure[2]], "noise": 0.01},
            "thresholds_by_task": {f"task{n}": {"low": at(low)} for n, low in enumerate(lows)}}


def test_claims_are_made_of_the_numbers():
    small, large = told_of(1000, 5000, (0.04, 0.05, 0.06)), told_of(2_000_000, 300, (0.0, 0.01, 0.02), lows=(100, 10_000))
    structure, high, alike, unlike = [claim[1] for claim in _claims({"small": small, "large": large})]
    assert structure == "it does: small 5.00 [4.00, 6.00], large 1.00 [0.00, 2.00]"
    assert high == "it does: small 5 k [5 k, 5 k], 5 of the backbone, large 300 [300, 300], 0.00015 of the backbone"
    assert alike == "within a factor of ten: task0 ≤ 100 [100, 100], task1 200 [200, 200]"
    assert unlike.startswith("it is not: task0 ≤ 100")
    structure, high, *_ = [claim[1] for claim in _claims({"small": large, "large": told_of(1, None, (0.01, 0.02, 0.03))})]
    assert structure.startswith("cannot be told")
    assert high.startswith("it does not: small 300 [300, 300], 0.00015 of the backbone, large not reached (in 0% of draws)")
    matters, hidden = _findings({"small": small, "large": large})
    assert "structure matters at equal budget" in matters.text
    assert "no effect of structure that could be told from noise" in hidden.text
    assert _headline({"large": told_of(2_000_000, None, (0, 0, 0))}).text == (
        "large (2 M) is above chance from ≤ 100 trained parameters, and never as good as full fine-tuning.")
