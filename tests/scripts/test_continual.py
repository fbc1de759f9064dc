"""`deltaspace continual` as it is used: its table, its files, what it refuses, and how a run that was killed goes on."""

import csv

import numpy as np
import pytest
import toy
from deltaspace import continual_stages, kinds
from deltaspace.__main__ import main
from deltaspace.continual import Continual
from deltaspace.continual_page import ahead, compared, mean, points
from deltaspace.continual_runs import CHANCE, HEAD, JOINT, LAE, NO_CALIBRATION, SEQUENTIAL
from deltaspace.report_data import Number
from deltaspace.settings import parse_toml

from deltas.files import read_json


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A BERT of one layer and two tasks of two classes each, as folders."""
    root = tmp_path_factory.mktemp("continual")
    toy.write_folder(root / "bert", "bert", num_hidden_layers=1)
    for number, name in enumerate(("first", "second")):
        (root / "tasks" / name).mkdir(parents=True)
        for split, count in (("train", 20), ("dev", 8), ("test", 8)):
            lines = (f"{toy.WORDS[2 * number + i % 2]} {toy.WORDS[10 + i]}\t{('yes', f'left{number}')[i % 2]}" for i in range(count))
            (root / "tasks" / name / f"{name}_{split}.tsv").write_text("\n".join(lines) + "\n")
    return root


def arguments(place, out, *more):
    return ["continual", "--backbone", str(place / "bert"), "--tasks", str(place / "tasks"), "--types", "lora", "--seeds", "2",
            "--classes-per-step", "2", "--min-rows", "4", "--steps", "2", "--batch-size", "2", "--train-rows", "4", "--test-rows", "2",
            "--max-input", "8", "--decay", "0.5", "--out", str(out), *more]


RUNS = ("--runs", "lae", "sequential", "joint", "head_only")


@pytest.fixture(scope="module")
def done(place):
    """A whole run, killed in its third course and started again; and how often a course was taught."""
    out, teach, taught = place / "out", continual_stages.teach, []

    def killed(*args, **options):
        if len(taught) == 2:
            taught.append("killed")
            raise KeyboardInterrupt
        taught.append(options["seed"])
        return teach(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continual_stages, "teach", killed)
        status = [main(arguments(place, out, *RUNS)) for _ in range(3)]
    return out, status, taught


def test_a_killed_run_goes_on_and_does_nothing_twice(done):
    _, status, taught = done
    assert status == [130, 0, 0]
    assert taught == [1, 2, "killed", 1, 2, 1, 2, 1, 2]  # two courses before, the other six after, none by the third command


def test_what_is_written(done):
    out, _, _ = done
    summary, rows = read_json(out / "summary.json"), list(csv.DictReader((out / "results.csv").open()))
    assert summary["classes"] == ["left0", "first:yes", "left1", "second:yes"]
    assert sorted(name for step in summary["sequences"]["1"] for name in step) == sorted(summary["classes"])
    assert {(row["method"], row["seed"]) for row in rows} >= {(m, s) for m in (LAE, SEQUENTIAL, JOINT, HEAD, CHANCE) for s in "12"}
    for method, found in summary["types"]["lora"].items():
        ours = [float(row["last"]) for row in rows if row["method"] == method]
        assert found["last"][0] == pytest.approx(np.mean(ours))
    assert summary["types"]["lora"][CHANCE]["last"][0] == 0.25
    kept = read_json(out / "stages" / "lora-lae-1.json")["value"][LAE]
    table = kept["matrix"]
    assert table[0][1] is None
    assert kept["last"] == pytest.approx((table[1][0] + table[1][1]) / 2)
    assert kept["average"] == pytest.approx((table[0][0] + kept["last"]) / 2)
    assert kept["forgetting"] == pytest.approx(table[0][0] - table[1][0])
    page = (out / "report.html").read_text()
    assert all(text in page for text in (summary["headline"], "2303.10070", "head only", "Claimed and found", "left0"))
    assert page.count("data:image/png") == 2
    assert [cells[0] for cells in summary["table"]["rows"]][-1] == CHANCE


def test_its_settings_are_a_study(done, place):
    out, _, _ = done
    again = kinds.experiment_of(parse_toml((out / "study.toml").read_text(), "it"), out, None)
    assert isinstance(again, Continual)
    assert (again.seeds, again.decay, again.backbone, again.types) == (2, 0.5, str(place / "bert"), ("lora",))


def test_other_settings_are_learned_anew(done, place, monkeypatch):
    out, _, _ = done
    calls = []
    monkeypatch.setattr(continual_stages.Conduct, "results", lambda self, name, run, taken, tell: calls.append(run) or {LAE: {"last": 0.5}})
    monkeypatch.setattr("deltaspace.continual_page.report", lambda made, work, rows: rows)
    other = place / "other"
    (other / "stages").mkdir(parents=True)
    for file in (out / "stages").iterdir():
        (other / "stages" / file.name).write_bytes(file.read_bytes())
    assert main(arguments(place, other, *RUNS)) == 0
    assert calls == []
    assert main(arguments(place, other, *RUNS, "--head-rate", "0.5")) == 0
    assert calls == ["lae"] * 2 + ["sequential"] * 2 + ["joint"] * 2 + ["head_only"] * 2


@pytest.mark.parametrize(("more", "words"), [
    (["--order", "left0+left1", "first:yes+left0", "--seeds", "1"], ["'left0'", "steps 1 and 2"]),
    (["--order", "left0+nobody", "--seeds", "1"], ["'nobody'"]),
    (["--order", "left0+left1"], ["one seed", "2"]),
    (["--names", "first", "first"], ["'first'"]),
    (["--min-rows", "99"], ["two classes of 99"]),
    (["--runs", "lae", "lea"], ["lea", "sequential"]),
    (["--rates", "lora", "0"], ["lora = 0"]),
    (["--rates", "ia3", "0.1"], ["ia3"]),
    (["--frozen", "2"], ["frozen share", "2"]),
    (["--steps", "0"], ["steps", "0"]),
    (["--space", "nowhere"], ["nowhere"]),
    (["--backbone", "nowhere"], ["nowhere"]),
])
def test_bad_input(place, more, words, refuses):
    out = place / "refused"
    refuses(*words, args=[*arguments(place, out), *more])
    assert not out.exists()


# ------------------------------------------------------------------ numbers in words
ROWS = [{"type": t, "method": m, "seed": s, "last": v} for (t, m), values in {
    ("lora", LAE): (0.5, 0.7), ("prefix", LAE): (0.7, 0.9), ("lora", SEQUENTIAL): (0.3, 0.4), ("prefix", SEQUENTIAL): (0.5, 0.4),
    ("lora", NO_CALIBRATION): (0.5, 0.9)}.items() for s, v in enumerate(values)]


def test_means_and_differences_are_of_sequences():
    found = mean(ROWS, "last", LAE, ["lora", "prefix"])
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.6, 0.8))
    better = ahead(ROWS, LAE, SEQUENTIAL)
    assert (better.value, better.low, better.high) == pytest.approx((0.3, 0.2, 0.4))
    assert compared(better) == "is above"
    assert points(better) == "+30.0 [+20.0, +40.0] points"
    own = ahead(ROWS, LAE, NO_CALIBRATION)  # over the type that has both
    assert (own.value, own.low, own.high) == pytest.approx((-0.1, -0.2, 0.0), abs=1e-9)
    assert not ahead(ROWS, LAE, JOINT).known
    assert points(Number(-0.05)) == "−5.0 points"
