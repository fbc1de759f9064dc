"""`deltaspace ensemble` as a user runs it: on a toy encoder, with a bank and without, killed and run again, and refused."""

import json

import numpy as np
import pytest
import toy
from deltaspace import ensemble_stages
from deltaspace.__main__ import main
from deltaspace.kinds import experiment_of
from deltaspace.settings import parse_toml

import deltas

TASKS = tuple(toy.classify(name, rows=48, seed=seed) for seed, name in enumerate(("kin_one", "kin_two", "kin_three", "odd")))
SMALL = ["--max-input", "16", "--max-target", "4", "--decode", "rank", "--shots", "8", "--seeds", "1", "--steps", "4", "--batch-size", "4",
         "--evaluate-every", "4", "--probe-steps", "4", "--learned-steps", "4", "--grand-batches", "2", "--test-rows", "8", "--taus", "0.1",
         "1.0", "--tau-sources", "2", "--k", "2"]
METHODS = ["uniform", "category", "nearest", "loss", "kl", "el2n", "cosine", "grand", "weight_cosine", "drift", "dev_gain", "learned", "code"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return toy.write_folder(tmp_path_factory.mktemp("bert"), "bert", num_hidden_layers=1, **{toy.HEADLESS: True})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for task in TASKS:
        (folder / task.name).mkdir()
        for split in ("train", "dev", "test"):
            rows = "".join(f"{e.input}\t{e.answers[0]}\n" for e in task.split(split))
            (folder / task.name / f"{task.name}_{split}.tsv").write_text(rows)
    return folder


@pytest.fixture(scope="module")
def bank(encoder, tmp_path_factory):
    """Solutions that were not trained but drawn: enough for weights, and nothing to compile."""
    backbone = deltas.load_backbone(encoder)
    found, rng = deltas.Bank(tmp_path_factory.mktemp("bank"), create=True), np.random.default_rng(0)
    for config in (deltas.LoRA(rank=2), deltas.Adapter(bottleneck=2)):
        attached = deltas.Attached.of(backbone, config)
        found.add_start(attached)
        for task in TASKS if config.label == "lora" else ():
            vector = 0.1 * rng.standard_normal(attached.layout.size).astype(np.float32)
            found.add(deltas.Solution(task=task.name, seed=0, config=config, layout=attached.layout, vector=vector, theta0=attached.theta0,
                                      backbone=backbone.fingerprint, theta0_fingerprint=attached.theta0_fingerprint))
    return found


@pytest.fixture(scope="module")
def given(bank, encoder, data):
    """The command's arguments but for --out."""
    return ["ensemble", str(bank.path), "--label", "lora", "--backbone", str(encoder), "--tasks", str(data), *SMALL]


@pytest.fixture(scope="module")
def out(given, tmp_path_factory):
    """The whole of it, every method on two targets, killed in the middle and run again."""
    out, tuned, patch = tmp_path_factory.mktemp("out"), [], pytest.MonkeyPatch()
    args = [*given, "--out", str(out), "--targets", "kin_one", "odd", "--products", "loss", "--categories", "kin_one", "kin", "kin_two", "kin",
            "kin_three", "kin"]
    whole = ensemble_stages._tuned

    def killed(setup, target, *rest):
        if len(tuned) == 7:
            raise KeyboardInterrupt
        tuned.append(target)
        return whole(setup, target, *rest)

    patch.setattr(ensemble_stages, "_tuned", killed)
    assert main(args) == 130
    assert not (out / "summary.json").exists()
    before = set((out / "stages").glob("*.json"))
    tuned.append("killed")
    assert main(args) == 0
    patch.undo()
    assert tuned.count("killed") == 1
    starts = len(METHODS) + 2  # random init, and the loss in product space
    # of each start once: two targets, and the references of sources that were the target while τ was chosen
    assert len(tuned) - 1 == len([p for p in (out / "stages").glob("*.json") if "step" in p.read_text()])
    assert len(tuned) - 1 >= 2 * starts
    assert before <= set((out / "stages").glob("*.json"))
    stamps = {p: p.stat().st_mtime_ns for p in (out / "stages").glob("*.json")}
    assert main(args) == 0
    assert stamps == {p: p.stat().st_mtime_ns for p in (out / "stages").glob("*.json")}  # a third run makes nothing anew
    return out


def test_every_method_is_in_the_results_with_its_controls(out):
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["methods"]) == ["random", *METHODS[:4], "loss, product", *METHODS[4:]]
    assert not {"optimization", "bench", "foreign", "delta_types"} & set(summary)
    assert (summary["kind"], summary["sources"]) == ("ensemble", sorted(task.name for task in TASKS))
    lines = (out / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * (len(METHODS) + 2)
    uniform = summary["methods"]["uniform"]
    assert "over_random" in uniform
    assert "over_uniform" not in uniform
    gain = uniform["score"]["mean"] - summary["methods"]["random"]["score"]["mean"]
    assert abs(uniform["over_random"]["mean"] - gain) < 1e-9
    assert set(summary["taus"]["loss"]) <= {"0.1", "1.0"}
    page = (out / "report.html").read_text()
    assert all(text in page for text in ("random init", "uniform mean", "Claimed and found", "chance", summary["headline"]))
    assert {p.stem for p in (out / "figures").glob("*.png")} == {"weights", "gains", "blocks"}
    text = (out / "study.toml").read_text()
    assert experiment_of(parse_toml(text, "it"), out, None).categories == {"kin_one": "kin", "kin_two": "kin", "kin_three": "kin"}


def test_the_target_has_no_weight_and_methods_weigh_as_they_say(out):
    judged = json.loads((out / "stages" / "kin_one.0.judged.json").read_text())["value"]
    assert set(judged["loss"]) == {"kin_two", "kin_three", "odd"}
    assert {"grand", "kl", "el2n", "cosine", "block encoder.0", "hidden encoder.0"} <= set(judged)
    learned = json.loads((out / "stages" / "odd.0.learned.json").read_text())["value"]
    assert set(learned) == {"kin_one", "kin_two", "kin_three"}
    assert abs(sum(learned.values()) - 1) < 1e-5
    few = deltas.Bank(out / "few")
    assert {"kin_one", "odd"} <= {task for task, _ in few.pairs(["lora"])}
    assert np.linalg.norm(few.load("lora", "odd", 0).vector) > 0


def test_bad_input(given, bank, data, encoder, tmp_path, refuses):
    there, rest = [*given, "--out", str(tmp_path / "out")], given[4:]
    whole = ["ensemble", str(bank.path), "--out", str(tmp_path / "out"), *rest]
    for words, args in (
        (("one delta type", "adapter and lora", "--label"), whole),
        (("two source", "got 1"), [*there, "--names", "kin_one", "odd"]),
        (("two source", "got 1"), [*there, "--names", "kin_one", "--targets", "odd"]),
        (("a task of", "kin_four"), [*there, "--targets", "kin_four"]),
        (("methods among", "'lose'"), [*there, "--methods", "lose"]),
        (("products", "code"), [*there, "--products", "code"]),
        (("τ", "-1"), [*there, "--tau", "-1"]),
        (("k of at most 2", "got 3"), [*there, "--k", "3"]),
        (("categories", "'kin_four'"), [*there, "--categories", "kin_four", "kin"]),
        (("shots", "at least 1"), [*there, "--shots", "0"]),
        (("plain LoRAs", "adapter"), ["ensemble", "--out", str(tmp_path / "out"), "--type", "adapter", "--space", "product", *rest]),
        (("a bank", "nowhere"), ["ensemble", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), *rest]),
    ):
        refuses(*words, args=args)
    (data / "bare").mkdir()
    (data / "bare" / "bare_train.tsv").write_text("ba be\tyes\n" * 20)
    (data / "bare" / "bare_test.tsv").write_text("ba be\tyes\n" * 20)
    refuses("bare", "dev", args=[*there, "--targets", "bare"])
    assert not (tmp_path / "out").exists()
