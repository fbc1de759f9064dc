"""The commands as a user runs them, bad input included: one sentence, status 2, nothing begun."""

import html
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy
from deltaspace.__main__ import main

TASKS = (toy.classify(rows=64), toy.copy(rows=64), toy.constant(rows=64), toy.classify("has_ba_too", rows=64, seed=5))


def write_tasks(folder: Path) -> Path:
    """The toy tasks as tab-separated folders."""
    for task in TASKS:
        (folder / task.name).mkdir(parents=True, exist_ok=True)
        for split in ("train", "dev", "test"):
            lines = (f"{e.input}\t{e.answers[0]}\n" for e in task.split(split))
            (folder / task.name / f"{task.name}_{split}.tsv").write_text("".join(lines))
    return folder


STUDY = """
name = "toy"
[backbone]
source = "{backbone}"
[tasks]
folder = "{tasks}"
sources = ["has_ba", "first_word", "always_maybe"]
unseen = ["has_ba_too"]
[reading]
max_input = 20
max_target = 4
[types.lora]
rank = 2
[types.prefix]
length = 3
[training]
steps = 4
batch_size = 4
evaluate_every = 2
segment = 2
[decomposition]
methods = ["joint_svd", "gcca@layer", "refined"]
k = [1, 2]
all_k = false
source_counts = [2]
[decomposition.refined]
steps = 2
[optimization]
seeds = 2
method_seeds = {{ refined = 1 }}
[optimization.training]
steps = 4
batch_size = 4
evaluate_every = 2
segment = 2
warmup = 0
[landscape]
resolution = 3
rows = 4
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory, folder):
    """A folder of tasks beside the tiny backbone."""
    return {"tasks": str(write_tasks(tmp_path_factory.mktemp("tasks"))), "backbone": str(folder)}


@pytest.fixture(scope="module")
def study(tmp_path_factory, data):
    """A finished study: its folder and its file."""
    root = tmp_path_factory.mktemp("study")
    file = root / "study.toml"
    file.write_text(STUDY.format(**data))
    assert main(["study", str(file), "--out", str(root / "out")]) == 0
    return root / "out", file


def changed(file: Path, tmp_path: Path, old: str, new: str) -> list[str]:
    """A study command on the file with a part replaced."""
    text = file.read_text()
    assert old in text
    (tmp_path / "changed.toml").write_text(text.replace(old, new))
    return ["study", str(tmp_path / "changed.toml"), "--out", str(tmp_path / "out")]


def test_help_is_quick():
    """No JAX is imported for --help."""
    code = "import sys; from deltaspace.__main__ import main\ntry: main(['study', '--help'])\nexcept SystemExit: assert 'jax' not in sys.modules"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "study file" in done.stdout.lower()
    assert time.perf_counter() - start < 4  # two seconds, and room for a busy machine


def test_study_writes_everything(study):
    out, _ = study
    assert {p.name for p in out.iterdir()} >= {"study.toml", "bank", "subspace", "results.csv", "summary.json", "report.html", "figures"}
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["optimization"]) <= {"lora", "prefix"}
    assert {"seconds", "versions", "controls", "curve", "groups", "by_group", "apart", "headline", "gram_correlation"} <= set(summary)
    assert summary["headline"] in html.unescape((out / "report.html").read_text())
    header, *lines = (out / "results.csv").read_text().splitlines()
    assert header == "stage,method,k,source,target,task,seed,control,metric,score,relative,normalised"
    assert {tuple(line.split(",")[1:3]) for line in lines if line.startswith("transfer")} == {
        ("joint_svd", "1"), ("joint_svd", "2"), ("gcca@layer", "2"), ("refined", "2"), ("joint_svd/2", "2")}
    tuned = [line.split(",") for line in lines if line.startswith("optimization")]
    assert {m: {row[6] for row in tuned if row[1] == m and row[2] == "2"} for m in ("gcca@layer", "refined")} == {
        "gcca@layer": {"0", "1"}, "refined": {"0"}}
    controls = {line.split(",")[7] for line in lines}
    assert controls == {"", "full", "zero_shot", "chance", "mean_only", "random_basis", "shuffled", "best_source"}
    assert "<svg" in (out / "report.html").read_text() or "data:image/png" in (out / "report.html").read_text()


def test_controls_are_fitted_as_the_first_method_is(study, tmp_path):
    """A z for every layer is compared with wrongly paired types that have one too; the tables call it by its name."""
    out, file = study
    shutil.copytree(out, tmp_path / "out")
    text = file.read_text().replace("method_seeds = { refined = 1 }", "")
    methods = 'methods = ["joint_svd", "gcca@layer", "refined"]'
    assert methods in text
    controls = 'methods = ["gcca@layer"]\ncontrols = ["shuffled", "mean_only@whole"]\ncontrol_k = [1]'
    (tmp_path / "layer.toml").write_text(text.replace(methods, controls))
    assert main(["study", str(tmp_path / "layer.toml"), "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out/stages").glob("shuffled@layer-k2.*")} == {
        f"shuffled@layer-k2.{label}.0.json" for label in ("lora", "prefix")}
    rows = [line.split(",") for line in (tmp_path / "out/results.csv").read_text().splitlines()]
    assert {(row[1], row[7], row[2]) for row in rows if row[0] == "optimization"} == {
        ("gcca@layer", "", "2"), ("gcca@layer", "", "1"), ("gcca@layer", "shuffled", "2"), ("gcca@layer", "shuffled", "1"),
        ("gcca@layer", "mean_only@whole", "2"), ("gcca@layer/2", "", "2")}


def test_study_goes_on_without_work(study):
    """A second run finds every stage done, and ends with the same results."""
    out, file = study
    before = {p: p.read_bytes() for p in [out / "results.csv", *sorted((out / "bank").rglob("*.safetensors"))]}
    assert main(["study", str(file), "--out", str(out)]) == 0
    assert {p: p.read_bytes() for p in before} == before


def test_commands_one_by_one(tmp_path, data):
    on = ["--backbone", data["backbone"], "--tasks", data["tasks"], "--max-input", "20", "--max-target", "4"]
    bank, space, found = (str(tmp_path / name) for name in ("bank", "space", "found"))
    assert main(["train", *on, "--names", "has_ba", "first_word", "always_maybe", "--types", "lora:rank=2", "adapter:bottleneck=2",
                 "--steps", "4", "--batch-size", "4", "--evaluate-every", "2", "--out", bank]) == 0
    assert len(json.loads(Path(bank, "summary.json").read_text())["solutions"]["lora"]) == 3
    assert main(["decompose", bank, "--k", "2", "--out", space]) == 0
    learned = ["decompose", bank, *on, "--k", "2", "--method", "autoencoder", "--steps", "2", "--no-report",
               "--out", str(tmp_path / "learned")]
    assert main(learned) == 0
    assert json.loads((tmp_path / "learned" / "summary.json").read_text())["method"] == "autoencoder"
    assert {p.name for p in (tmp_path / "learned").iterdir()} == {"subspace.safetensors", "summary.json"}
    assert main(["optimize", space, *on, "--names", "has_ba_too", "--steps", "4", "--batch-size", "4", "--out", found]) == 0
    assert main(["transfer", space, f"{found}/found.json", *on, "--names", "has_ba_too", "--out", str(tmp_path / "t")]) == 0
    table = json.loads((tmp_path / "t" / "summary.json").read_text())["tables"][0]
    assert set(table["scores"]) == {"lora", "adapter"}
    assert main(["landscape", space, *on, "--names", "has_ba_too", "--resolution", "3", "--rows", "4", "--out", str(tmp_path / "l")]) == 0
    assert (tmp_path / "l" / "has_ba_too.png").stat().st_size > 1000


class TestBadInput:
    def test_no_study_file(self, refuses, tmp_path):
        refuses("nothing there", args=["study", str(tmp_path / "no.toml"), "--out", str(tmp_path / "out")])

    @pytest.mark.parametrize(("old", "new", "words"), [
        ("[training]\nsteps", "[training]\nstesp", ("'stesp'", "did you mean 'steps'")),
        ("[types.lora]\nrank", "[types.lora]\nrnak", ("'rnak'", "did you mean 'rank'")),
        ("[types.prefix]", "[types.prefixx]", ("types.prefixx", "lora, adapter, prefix")),
        ("k = [1, 2]", "k = [1, 7]", ("k", "3 solutions")),
        ("refined = 1", "pca = 1", ("method_seeds", "pca")),
        ('unseen = ["has_ba_too"]', 'unseen = ["has_ba"]', ("has_ba", "both")),
        ('unseen = ["has_ba_too"]', 'unseen = ["has_ba_tooo"]', ("has_ba_tooo", "has_ba_too")),
        ("steps = 4", 'steps = "four"', ("steps", "int")),
        ("max_target = 4", 'max_target = 4\ndecode = "rank"', ("rank", "first_word", "auto")),
        ("name =", "name", ("TOML",)),
    ])
    def test_study_file(self, refuses, study, tmp_path, old, new, words):
        refuses(*words, args=changed(study[1], tmp_path, old, new))
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(("old", "new", "word"), [("[training]\nsteps = 4", "[training]\nsteps = 6", "[training]"),
                                                      ("[tasks]\n", "[tasks]\ntest_rows = 3\n", "[tasks.test_rows]")])
    def test_other_settings_for_the_same_folder(self, refuses, study, tmp_path, old, new, word):
        out, file = study
        args = changed(file, tmp_path, old, new)
        refuses(word, args=[*args[:-1], str(out)])

    def test_no_task_folder(self, refuses, data, tmp_path):
        refuses("nowhere", args=["train", "--backbone", data["backbone"], "--tasks", str(tmp_path / "nowhere"), "--out", str(tmp_path / "b")])

    def test_row_without_a_tab(self, refuses, data, tmp_path):
        folder = write_tasks(tmp_path / "tasks")
        path = folder / "has_ba" / "has_ba_dev.tsv"
        path.write_text("ba be\tyes\nno tab here\n")
        refuses("has_ba_dev.tsv", "2", args=["train", "--backbone", data["backbone"], "--tasks", str(folder), "--out", str(tmp_path / "b")])

    def test_empty_split(self, refuses, data, tmp_path):
        folder = write_tasks(tmp_path / "tasks")
        (folder / "has_ba" / "has_ba_test.tsv").write_text("")
        refuses("has_ba", args=["train", "--backbone", data["backbone"], "--tasks", str(folder), "--out", str(tmp_path / "b")])

    def test_backbone(self, refuses, data, tmp_path):
        for name, words, spoil in (
            ("gone", ("gone",), lambda f: None),
            ("weights", ("model.safetensors",), lambda f: (toy.write_folder(f) / "model.safetensors").unlink()),
            ("pickle", ("pytorch_model.bin",), lambda f: (toy.write_folder(f) / "model.safetensors").rename(f / "pytorch_model.bin")),
            ("family", ("'rwkv'", "t5"), lambda f: (toy.write_folder(f) / "config.json").write_text('{"model_type": "rwkv"}')),
            ("shape", ("shape",), lambda f: (toy.write_folder(f) / "config.json").write_text(json.dumps(toy.config_json(d_ff=32)))),
        ):
            spoil(tmp_path / name)
            refuses(*words, args=["train", "--backbone", str(tmp_path / name), "--tasks", data["tasks"], "--out", str(tmp_path / "b")])
        assert not (tmp_path / "b").exists()

    def test_k_beyond_the_solutions(self, refuses, study, tmp_path):
        refuses("between 1 and 3", args=["decompose", str(study[0] / "bank"), "--k", "9", "--out", str(tmp_path / "s")])

    def test_bank_of_another_backbone(self, refuses, study, data, tmp_path):
        other = toy.write_folder(tmp_path / "other", seed=7)
        refuses("backbone", args=["optimize", str(study[0] / "subspace" / "joint_svd-k2"), "--backbone", str(other), "--tasks",
                                  data["tasks"], "--names", "has_ba_too", "--out", str(tmp_path / "f")])

    @pytest.mark.parametrize("spoil", [lambda b: b[:-8], lambda b: b[:-4] + bytes([b[-4] ^ 1]) + b[-3:]], ids=["truncated", "altered"])
    def test_damaged_solution(self, refuses, study, tmp_path, spoil):
        import shutil

        bank = Path(shutil.copytree(study[0] / "bank", tmp_path / "bank"))
        path = bank / "solutions" / "lora" / "first_word.0.safetensors"
        path.write_bytes(spoil(path.read_bytes()))
        refuses("first_word.0.safetensors", args=["decompose", str(bank), "--k", "1", "--out", str(tmp_path / "s")])

    def test_full_disk(self, refuses, study, tmp_path, monkeypatch):
        """What was there stays; the sentence names the file."""
        import os

        def full(fd):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        refuses("No space left", args=["decompose", str(study[0] / "bank"), "--k", "1", "--out", str(tmp_path / "s")])
        assert not list((tmp_path / "s").glob("*"))

    def test_unknown_type(self, refuses, data, tmp_path):
        refuses("'lroa'", "lora", args=["train", "--backbone", data["backbone"], "--tasks", data["tasks"], "--types", "lroa", "--out",
                                        str(tmp_path / "b")])

    def test_through_the_shell(self, tmp_path):
        """Status 2, no traceback."""
        done = subprocess.run([sys.executable, "-m", "deltaspace", "study", str(tmp_path / "no.toml"), "--out", str(tmp_path)],
                              capture_output=True, text=True)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("deltaspace: expected ")


def test_nan_is_marked_and_the_others_go_on(tmp_path, data, capsys):
    """A learning rate that explodes fails its type with the step; the other type is trained."""
    out = tmp_path / "bank"
    assert main(["train", "--backbone", data["backbone"], "--tasks", data["tasks"], "--names", "has_ba", "--types", "lora:rank=2",
                 "prefix:length=2", "--prefix-learning-rate", "3e38", "--steps", "12", "--batch-size", "4", "--evaluate-every", "6",
                 "--max-input", "20", "--max-target", "4", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert [(f["label"], f["task"]) for f in summary["failed"]] == [("prefix", "has_ba")]
    assert 0 < summary["failed"][0]["step"] < 12
    assert list(summary["solutions"]["lora"]) == ["has_ba.0"]
    assert np.isfinite(summary["solutions"]["lora"]["has_ba.0"]["test"])
