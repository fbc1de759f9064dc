"""The delta-tuning presets as a user runs them, on a one-layer encoder: what they write, bad input, going on after a kill."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import toy
from deltaspace import kinds
from deltaspace.__main__ import main
from deltaspace.settings import parse_toml

import deltas
from deltas.files import write_text

NAMES = ("one", "two", "three")
SETTINGS = {"names": ["one", "two"], "types": ["adapter:bottleneck=2", "bitfit"], "seeds": 2, "steps": 4, "batch_size": 4, "evaluate_every": 2,
            "segment": 2, "dev_rows": 8, "test_rows": 8, "max_input": 8, "max_target": 4, "buckets": [8], "decode": "rank"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a backbone, tasks, and a function that runs a preset in it."""
    root = tmp_path_factory.mktemp("presets")
    toy.write_folder(root / "backbone", "bert", num_hidden_layers=1)
    for number, name in enumerate(NAMES):
        task = toy.classify(name, rows=64, seed=number)
        for split in ("train", "dev", "test"):
            write_text(root / "tasks" / name / f"{name}_{split}.tsv", "".join(f"{e.input}\t{e.answers[0]}\n" for e in task.split(split)))
    return root


def args_of(place: Path, kind: str, out: str, **changes):
    """The command line of a preset, its study file written."""
    from deltaspace.experiment import _toml

    settings = {"kind": kind, "backbone": str(place / "backbone"), "tasks": str(place / "tasks"), **SETTINGS, **changes}
    file = place / f"{out}.toml"
    write_text(file, "".join(f"{name} = {_toml(value)}\n" for name, value in settings.items() if value is not None))
    return ["study", str(file), "--out", str(place / out)]


def written(place: Path, out: str):
    """summary.json, the rows of results.csv, and the page."""
    rows = list(csv.DictReader((place / out / "results.csv").open()))
    return json.loads((place / out / "summary.json").read_text()), rows, (place / out / "report.html").read_text()


@pytest.fixture(scope="module")
def trained(place):
    """The performance study, run."""
    assert main(args_of(place, "performance", "performance")) == 0
    return place / "performance"


def test_performance(place, trained):
    summary, rows, page = written(place, "performance")
    bank = deltas.Bank(trained / "bank")
    solutions = [row for row in rows if not row["control"]]
    assert len(solutions) == 8
    for row in solutions:
        assert float(row["score"]) == bank.scores(row["method"], row["task"], int(row["seed"]))["test"]
    assert {row["control"] for row in rows} == {"", "zero_shot", "chance"}
    assert sum(summary["ranks"].values()) == pytest.approx(3)  # of two methods
    total = sum(np.prod(w.shape) for w in toy.weights(toy.config_of("bert", num_hidden_layers=1), 0, "bert").values())
    assert summary["parameters"]["backbone"] == total
    table = {row[0]: row for row in summary["table"]["rows"]}
    assert table["bitfit"][1] == f"{100 * summary['parameters']['bitfit'] / total:.3g}%"
    scores = [bank.scores("bitfit", task, seed)["test"] for task in ("one", "two") for seed in range(2)]
    assert table["bitfit"][2].startswith(f"{np.mean(scores):.2f} [")
    assert (trained / "figures" / "performance.png").is_file()
    assert "Claimed and found" in page
    assert str(place) not in json.dumps(summary)  # results can be kept in a checkout


def test_convergence_takes_the_solutions_of_another_preset(place, trained):
    before = {path: path.stat().st_mtime_ns for path in trained.glob("bank/solutions/*/*")}
    assert main(args_of(place, "convergence", "convergence", bank=str(trained / "bank"))) == 0
    assert {path: path.stat().st_mtime_ns for path in trained.glob("bank/solutions/*/*")} == before
    summary, rows, _ = written(place, "convergence")
    assert [row["step"] for row in rows[:3]] == ["0", "2", "4"]
    assert len(rows) == 2 * 2 * 2 * 3
    history = deltas.Bank(trained / "bank").load("bitfit", "two", 1).provenance["history"]
    assert summary["histories"]["bitfit"]["two"][1][1:] == history
    assert set(summary["speeds"]) == {"steps", "loss_steps", "height"}
    assert (place / "convergence" / "figures" / "convergence.png").is_file()


def test_transferability_goes_on_where_it_was_killed(place, monkeypatch):
    from deltas import evaluation

    args = args_of(place, "transferability", "transfer", names=list(NAMES), types=["bitfit"], categories={"one": "a", "two": "a", "three": "b"})
    real, calls = evaluation.evaluate_each, []

    def counted(attached, thetas, exams, **options):
        if len(exams) == 3:  # a solution on all tasks
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
        return real(attached, thetas, exams, **options)

    monkeypatch.setattr(evaluation, "evaluate_each", counted)
    assert main(args) == 130
    assert main(args) == 0
    assert len(calls) == 3 + 4  # of six solutions two were kept
    summary, rows, page = written(place, "transfer")
    bank = deltas.Bank(place / "transfer" / "bank")
    scores = np.array(summary["scores"]["bitfit"])
    assert scores.shape == (2, 3, 3)
    for t, task in enumerate(NAMES):
        assert scores[:, t, t].tolist() == [bank.scores("bitfit", task, seed)["test"] for seed in range(2)]  # a task's own solution on itself
    assert len([row for row in rows if row["source"]]) == 18
    cell = next(row for row in rows if (row["source"], row["target"], row["seed"]) == ("three", "one", "1"))
    assert float(cell["score"]) == scores[1, 2, 0]
    assert float(cell["gain"]) == pytest.approx(scores[1, 2, 0] - summary["controls"]["one"]["zero_shot"], abs=1e-6)
    assert summary["transfer"]["bitfit"]["gain"]["targets"] == 2  # three is alone in its category
    assert "permuted categories" in page
    assert (place / "transfer" / "figures" / "transfer-bitfit.png").is_file()


def test_combinability_goes_on_where_it_was_killed_and_freezes_what_came_before(place, monkeypatch):
    from deltaspace.presets.combining import Combiner

    args = args_of(place, "combinability", "combined", names=["one"], seeds=1, train_rows=8, steps=2, learning_rates={"bitfit": 1e-2},
                   templates={"plain": "{input}", "asked": "{input} {task}"})
    real, calls = Combiner.solve, []

    def counted(self, way, task, seed):
        calls.append(self.label(way))
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, way, task, seed)

    monkeypatch.setattr(Combiner, "solve", counted)
    assert main(args) == 130
    assert main(args) == 0
    each = ["adapter", "bitfit", "adapter-bitfit", "adapter-bitfit-in-turn", "bitfit-adapter-in-turn"]
    assert calls == [*each[:3], *each[2:], *each]
    summary, rows, page = written(place, "combined")
    assert [row["types"] for row in rows[:6]] == ["none", "adapter", "bitfit", "adapter + bitfit", "adapter, then bitfit",
                                                  "bitfit, then adapter"]
    assert all(float(row["gap"]) == pytest.approx(float(row["train"]) - float(row["test"]), abs=1e-6) for row in rows)
    assert len(rows) == len(summary["combinations"]) == 12
    bank = deltas.Bank(place / "combined" / "bank" / "plain")

    def of(label, part):
        one = bank.load(label, "one", 0)
        return {name: value for name, value in one.layout.unflatten(np.asarray(one.theta)).items() if f".{part}." in name}

    for label, first, last in (("adapter-bitfit-in-turn", "adapter", "bitfit"), ("bitfit-adapter-in-turn", "bitfit", "adapter")):
        assert all(np.array_equal(value, of(first, first)[name]) for name, value in of(label, first).items())
        assert not all(np.array_equal(value, of(last, last)[name]) for name, value in of(label, last).items())
    assert "With template asked in place of plain" in page
    assert all((place / "combined" / "figures" / f"combinability-{name}.png").is_file() for name in ("plain", "asked"))


@pytest.mark.parametrize(("kind", "changes", "words"), [
    ("performance", {"types": ["loar"]}, ("loar",)),
    ("performance", {"types": ["bitfit", "bitfit"]}, ("bitfit twice",)),
    ("performance", {"types": []}, ("at least one type",)),
    ("performance", {"learning_rates": {"bitfit": -1.0}}, ("learning_rates", "-1.0")),
    ("performance", {"learning_rates": {"lora": 0.1}}, ("learning_rates", "adapter, bitfit")),
    ("performance", {"seeds": 0}, ("seeds", "at least 1")),
    ("performance", {"decode": "generate"}, ("rank", "encoder")),
    ("performance", {"names": ["four"]}, ("four",)),
    ("convergence", {"share": 2.0}, ("share", "2.0")),
    ("convergence", {"evaluate_every": 9}, ("evaluate_every", "9")),
    ("convergence", {"evaluate_every": 3}, ("multiple of segment", "3")),
    ("transferability", {"categories": {"one": "a"}}, ("category", "two")),
    ("transferability", {"categories": {"one": "a", "two": "a"}}, ("two categories",)),
    ("transferability", {"categories": {"one": "a", "two": "b", "three": "b"}}, ("three",)),
    ("combinability", {"templates": {"plain": "no text"}}, ("{input}",)),
    ("combinability", {"templates": {"a/b": "{input}"}}, ("a/b",)),
    ("combinability", {"templates": {}}, ("templates",)),
    ("combinability", {"types": ["bitfit", "adapter:bottleneck=2,label=a-b"]}, ("a-b", "label")),
])  # fmt: skip
def test_bad_settings(place, refuses, kind, changes, words):
    refuses(*words, args=args_of(place, kind, "bad", **changes))
    assert not (place / "bad").exists()


def test_a_bank_of_other_settings_is_refused(place, trained, refuses):
    for changes, word in (({"steps": 6}, "training"), ({"max_target": 5}, "reading"), ({"train_rows": 20}, "tasks"),
                          ({"test_rows": 9}, "test_rows")):
        refuses(word, "--out", args=args_of(place, "performance", "other", bank=str(trained / "bank"), **changes))
    assert not (place / "other").exists()


@pytest.mark.parametrize("name", ["performance", "convergence", "combinability", "transferability"])
def test_the_study_files_of_the_package_can_be_read(name, tmp_path):
    for file in (name, f"{name}_minilm"):
        path = kinds.packaged()[file]
        found = kinds.experiment_of(parse_toml(path.read_text(), file), tmp_path, None)
        labels = [text.partition(":")[0] for text in found.types]
        assert found.training(labels).learning_rates.keys() == set(labels)  # every type's rate is a choice
        if found.tasks == "gym":
            assert [task.name for task in deltas.gym(names=list(found.names))] == list(found.names)
