"""Decomposition jobs as a user runs them: a bank or folders of adapters in, a space with its report out, and what is done with a space."""

import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import adapter_files
import numpy as np
import pytest
from deltaspace.__main__ import main
from lowrank_fakes import regauged, solutions
from test_commands import write_tasks

import deltas
import subspace

TYPES = ["lora:rank=2", "adapter:bottleneck=2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, folder):
    """A bank of four tasks, three of them in a space of joint_svd; the words that name backbone and tasks."""
    root = tmp_path_factory.mktemp("jobs")
    tasks = write_tasks(root / "tasks")
    on = ["--backbone", str(folder), "--tasks", str(tasks), "--max-input", "20", "--max-target", "4"]
    assert main(["train", *on, "--types", *TYPES, "--steps", "4", "--batch-size", "4", "--evaluate-every", "2", "--test-rows", "4",
                 "--out", str(root / "bank")]) == 0
    assert main(["decompose", str(root / "bank"), "--names", "has_ba", "first_word", "always_maybe", "--k", "2", "--no-report",
                 "--out", str(root / "space")]) == 0
    return root, on


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Eight LoRA adapters of four ranks as PEFT writes them, and the same in other gauges."""
    root, found = tmp_path_factory.mktemp("adapters"), solutions(n=8)
    for i, own in enumerate(found):
        adapter_files.lora(root / "plain" / f"task{i}", own)
        adapter_files.lora(root / "turned" / f"task{i}", regauged([own], seed=i)[0])
    return root


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_bank_with_its_report(made, tmp_path):
    root, _ = made
    assert main(["decompose", str(root / "bank"), "--k", "2", "--method", "gcca", "--out", str(tmp_path)]) == 0
    told = summary(tmp_path)
    assert told["method"] == "gcca"
    assert {entry["status"] for entry in told["manifest"]} == {"used"}
    assert (tmp_path / "report.html").is_file()
    assert list((tmp_path / "figures").glob("*.png"))
    assert not (tmp_path / "state").exists()
    assert subspace.Subspace.load(tmp_path).k == 2


def test_held_out_tasks_are_scored(made, tmp_path, monkeypatch):
    """The page has the score of each k beside its controls; a job that was killed while it scored goes on."""
    root, on = made
    args = ["decompose", str(root / "bank"), "--k", "2", *on, "--score", "--dev-rows", "6", "--decode", "auto", "--out", str(tmp_path)]
    with monkeypatch.context() as killed:
        killed.setattr("deltaspace.decompose_scores.table", lambda found: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(args) == 130
    assert subspace.Subspace.load(tmp_path).k == 2
    assert len(list((tmp_path / "state").glob("scores.*.json"))) == 4
    with monkeypatch.context() as kept:
        kept.setattr("subspace.held_out_scores.evaluate_each", None)  # nothing is scored again
        assert main(args) == 0
    assert not (tmp_path / "state").exists()
    told = summary(tmp_path)["trust"]["scores"]
    assert [row["k"] for row in told["means"]] == [0, 1, 2]
    assert {line["control"] for line in told["lines"]} == {"", "full", "chance", "zero_shot", "shuffled"}
    assert {line["task"] for line in told["lines"]} == {"has_ba", "has_ba_too", "first_word", "always_maybe"}
    page = (tmp_path / "report.html").read_text()
    assert "Held-out tasks, scored" in page
    assert all(task in page for task in told["apart"])


@pytest.mark.parametrize("args", [["--method", "pca"], ["--granularity", "layer"], ["--space", "product"], ["--align", "procrustes"],
                                  ["--method", "fastfood"]], ids=" ".join)
def test_ways_to_decompose(made, tmp_path, args):
    root, _ = made
    assert main(["decompose", str(root / "bank"), "--k", "2", *args, "--no-report", "--out", str(tmp_path)]) == 0
    space = subspace.Subspace.load(tmp_path)
    assert space.labels == ["adapter", "lora"]
    assert (space.space, space.align) == ("product" if "product" in args else "factors", "procrustes" if "procrustes" in args else "none")
    assert (space.k > 2) == ("layer" in args)


def test_shared_out_over_devices(made, tmp_path):
    root, _ = made
    for name, args in (("one", []), ("out", ["--sharded"])):
        assert main(["decompose", str(root / "bank"), "--k", "2", "--no-report", "--out", str(tmp_path / name), *args]) == 0
    one, out = (subspace.Subspace.load(tmp_path / name) for name in ("one", "out"))
    np.testing.assert_allclose(out.codes, one.codes, atol=1e-6)


@pytest.mark.slow
def test_shared_out_over_two_hosts(made, tmp_path):
    """Two processes of four devices each, as on two machines: the same subspace, and one of them writes."""
    root, _ = made
    assert main(["decompose", str(root / "bank"), "--k", "2", "--no-report", "--out", str(tmp_path / "one")]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = [subprocess.Popen([sys.executable, "-m", "deltaspace", "decompose", str(root / "bank"), "--k", "2", "--no-report", "--sharded",
                               "--cpu-devices", "4", "--coordinator", f"127.0.0.1:{port}", "--hosts", "2", "--host", str(host),
                               "--out", str(tmp_path / f"host{host}")]) for host in range(2)]
    assert [one.wait(timeout=300) for one in hosts] == [0, 0]
    one, out = (subspace.Subspace.load(tmp_path / name) for name in ("one", "host0"))
    np.testing.assert_allclose(out.codes, one.codes, atol=1e-6)
    for label in one.labels:
        np.testing.assert_allclose(out.parts[label].basis, one.parts[label].basis, atol=1e-6)
    assert not (tmp_path / "host1" / "subspace.safetensors").exists()


def test_decoders_refined_on_the_tasks(made, tmp_path):
    root, on = made
    assert main(["decompose", str(root / "bank"), *on, "--k", "2", "--method", "refined", "--steps", "2", "--no-report",
                 "--out", str(tmp_path)]) == 0
    assert subspace.Subspace.load(tmp_path).method == "refined"


def test_missing_solutions(made, tmp_path, capsys):
    root, _ = made
    bank = Path(shutil.copytree(root / "bank", tmp_path / "bank"))
    (bank / "solutions" / "adapter" / "has_ba.0.safetensors").unlink()
    assert main(["decompose", str(bank), "--k", "1", "--no-report", "--out", str(tmp_path / "some")]) == 0
    assert "has_ba" in capsys.readouterr().out
    assert ["has_ba", 0] not in summary(tmp_path / "some")["pairs"]
    assert main(["decompose", str(bank), "--k", "1", "--missing", "--no-report", "--out", str(tmp_path / "all")]) == 0
    assert ["has_ba", 0] in summary(tmp_path / "all")["pairs"]


def test_a_solution_that_is_there_twice_is_named(made, tmp_path, capsys):
    bank = deltas.Bank(shutil.copytree(made[0] / "bank", tmp_path / "bank"))
    one = bank.load("lora", "has_ba", 0)
    bank.add(replace(one, seed=1, vector=np.array(one.vector)))
    other = bank.load("adapter", "has_ba", 0)
    bank.add(replace(other, seed=1, vector=np.array(other.vector) + 1))
    assert main(["decompose", str(bank.path), "--k", "2", "--no-report", "--out", str(tmp_path / "s")]) == 0
    assert summary(tmp_path / "s")["duplicates"] == [["lora", ["has_ba", 0], ["has_ba", 1]]]
    assert "has_ba, seed 0, and has_ba, seed 1, of lora" in capsys.readouterr().out


def test_folders_of_adapters(adapters, tmp_path):
    """No backbone, four ranks; in other gauges the same codes; one adapter out as PEFT, which projects to where it came from."""
    for kind in ("plain", "turned"):
        assert main(["decompose", f"{adapters}/{kind}/*", "--k", "4", "--out", str(tmp_path / kind), "--no-report"]) == 0
    plain, turned = (subspace.Subspace.load(tmp_path / kind) for kind in ("plain", "turned"))
    assert plain.space == "product"
    np.testing.assert_allclose(np.abs(plain.codes), np.abs(turned.codes), atol=1e-4)
    assert main(["export", str(tmp_path / "plain"), "--task", "task3", "--out", str(tmp_path / "task3")]) == 0
    assert json.loads((tmp_path / "task3" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert main(["project", str(tmp_path / "plain"), str(tmp_path / "task3"), f"{adapters}/turned/task[12]", "--out", str(tmp_path / "p")]) == 0
    *others, first = summary(tmp_path / "p")["projections"]
    np.testing.assert_allclose(first["z"], plain.codes[plain.pairs.index(("task3", 0))], atol=1e-3)
    assert first["missed"] < 1e-3
    assert [one["nearest"][0]["task"] for one in others] == ["task1", "task2"]


def test_a_folder_that_cannot_be_used_is_left_out_and_named(adapters, tmp_path):
    shutil.copytree(adapters / "plain", tmp_path / "all")
    shutil.copytree(tmp_path / "all" / "task0", tmp_path / "all" / "task9")
    (tmp_path / "all" / "task1" / "adapter_config.json").unlink()
    assert main(["decompose", f"{tmp_path}/all/*", "--k", "3", "--no-report", "--out", str(tmp_path / "space")]) == 0
    left = {Path(entry["path"]).name: entry["reason"] for entry in summary(tmp_path / "space")["manifest"] if entry["status"] == "left out"}
    assert set(left) == {"task1", "task9"}
    assert "task0" in left["task9"]


def test_several_types_a_search_few_shots_and_a_warm_start(made, tmp_path):
    root, on = made
    common = [str(root / "space"), *on, "--names", "has_ba_too", "--batch-size", "4", "--test-rows", "4", "--shots", "8"]
    assert main(["optimize", *common, "--through", "lora+adapter", "--steps", "2", "--warm-start", "2", "--out", str(tmp_path / "both")]) == 0
    told = summary(tmp_path / "both")
    assert told["points"][0]["through"] == "lora+adapter"
    assert [one["type"] for one in told["warm_start"]] == ["lora", "adapter"]
    assert main(["optimize", *common, "--through", "lora", "--by", "search", "--evaluations", "12", "--search-rows", "4",
                 "--out", str(tmp_path / "search")]) == 0
    assert summary(tmp_path / "search")["points"][0]["forward"] == 12 * 4


def test_merging_and_moving_on(made, tmp_path):
    root, on = made
    assert main(["merge", str(root / "space"), "has_ba", "first_word", "--out", str(tmp_path / "z")]) == 0
    space = subspace.Subspace.load(root / "space")
    point = json.loads((tmp_path / "z" / "found.json").read_text())[0]
    codes = [space.codes[space.pairs.index((task, 0))] for task in ("has_ba", "first_word")]
    np.testing.assert_allclose(point["z"], np.mean(codes, axis=0), atol=1e-6)
    assert main(["merge", str(root / "bank"), "has_ba", "first_word", "--rule", "ties", "--space", "product", "--rank", "2",
                 "--out", str(tmp_path / "dw")]) == 0
    one = deltas.load_solution(tmp_path / "dw" / "merged.safetensors", deltas.load_backbone(on[1]))
    assert one.task == "has_ba+first_word"
    assert main(["export", str(root / "space"), "--found", str(tmp_path / "z" / "found.json"), "--backbone", on[1],
                 "--out", str(tmp_path / "peft")]) == 0
    assert (tmp_path / "peft" / "adapter_model.safetensors").is_file()


def test_a_newcomer(made, tmp_path, capsys):
    root, _ = made
    assert main(["extend", str(root / "space"), str(root / "bank"), "--out", str(tmp_path / "grown")]) == 0
    assert "has_ba_too" in capsys.readouterr().out
    assert main(["decompose", str(root / "bank"), "--k", "2", "--no-report", "--out", str(tmp_path / "anew")]) == 0
    grown, anew = (subspace.Subspace.load(tmp_path / name) for name in ("grown", "anew"))
    order = [grown.pairs.index(pair) for pair in anew.pairs]
    np.testing.assert_allclose(np.abs(grown.codes[order]), np.abs(anew.codes), atol=1e-4)


def test_newcomers_among_adapters(adapters, tmp_path, capsys):
    """As if all had been decomposed together; a newcomer that is not there is refused."""
    for n in range(6):
        shutil.copytree(adapters / "plain" / f"task{n}", tmp_path / "old" / f"task{n}")
    decompose = ["decompose", "--k", "3", "--no-report", "--out"]
    assert main([*decompose, str(tmp_path / "space"), f"{tmp_path}/old/*"]) == 0
    assert main(["extend", str(tmp_path / "space"), f"{tmp_path}/old/*", f"{adapters}/plain/task[67]", "--out", str(tmp_path / "grown")]) == 0
    assert "task7, seed 0: the space missed lora" in capsys.readouterr().out
    assert main([*decompose, str(tmp_path / "anew"), f"{adapters}/plain/*"]) == 0
    grown, anew = (subspace.Subspace.load(tmp_path / name) for name in ("grown", "anew"))
    assert grown.pairs == anew.pairs
    np.testing.assert_allclose(grown.codes, anew.codes, atol=1e-4)
    assert main(["extend", str(tmp_path / "space"), f"{adapters}/plain/*", "--names", "task9", "--out", str(tmp_path / "none")]) == 2
    assert "task9" in capsys.readouterr().err


def test_a_bank_made_small_and_read_back(made, tmp_path):
    root, on = made
    assert main(["compress", str(root / "bank"), *on, "--names", "has_ba", "--tolerance", "0.01", "--score", "--test-rows", "4",
                 "--out", str(tmp_path / "small")]) == 0
    told = summary(tmp_path / "small")
    assert {line["task"] for line in told["scores"]} == {"has_ba"}
    assert main(["compress", str(tmp_path / "small"), "--back", "--out", str(tmp_path / "back")]) == 0
    before, after = deltas.Bank(root / "bank"), deltas.Bank(tmp_path / "back")
    for label in before.labels():
        x, y = (np.stack(bank.rows(label, before.pairs([label]))) for bank in (before, after))
        assert np.linalg.norm(x - y) <= 0.01 * np.linalg.norm(x)


class TestBadInput:
    def test_nothing_there(self, refuses, tmp_path):
        refuses("no/*", args=["decompose", f"{tmp_path}/no/*", "--k", "2", "--out", str(tmp_path / "s")])

    def test_one_adapter(self, refuses, adapters, tmp_path):
        refuses("at least 2", args=["decompose", f"{adapters}/plain/task1", "--k", "1", "--out", str(tmp_path / "s")])

    def test_k_beyond_the_adapters(self, refuses, adapters, tmp_path):
        refuses("between 1 and 7", args=["decompose", f"{adapters}/plain/*", "--k", "8", "--out", str(tmp_path / "s")])

    def test_another_base(self, refuses, adapters, tmp_path):
        shutil.copytree(adapters / "plain", tmp_path / "all")
        path = tmp_path / "all" / "task2" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "another/base"}))
        refuses("another/base", "a/base", args=["decompose", f"{tmp_path}/all/*", "--k", "2", "--out", str(tmp_path / "s")])

    def test_not_finite(self, adapters, tmp_path):
        """Left out with its reason; the rest is decomposed."""
        from safetensors.numpy import load_file, save_file

        shutil.copytree(adapters / "plain", tmp_path / "all")
        path = tmp_path / "all" / "task2" / "adapter_model.safetensors"
        tensors = load_file(path)
        next(iter(tensors.values()))[0, 0] = np.nan
        save_file(tensors, path)
        assert main(["decompose", f"{tmp_path}/all/*", "--k", "2", "--no-report", "--out", str(tmp_path / "s")]) == 0
        (left,) = [entry for entry in summary(tmp_path / "s")["manifest"] if entry["status"] == "left out"]
        assert "NaN" in left["reason"]

    def test_a_method_that_runs_the_backbone(self, refuses, adapters, tmp_path):
        refuses("autoencoder", "convert", args=["decompose", f"{adapters}/plain/*", "--k", "2", "--method", "autoencoder",
                                                "--out", str(tmp_path / "s")])

    def test_scores_without_what_they_need(self, refuses, made, adapters, tmp_path):
        root, on = made
        bank, out = str(root / "bank"), ["--out", str(tmp_path / "o")]
        refuses("--score", "bank", args=["decompose", str(adapters / "plain/*"), "--k", "2", "--score", *out])
        refuses("--no-report", args=["decompose", bank, "--k", "2", "--score", "--no-report", *on, *out])
        refuses("product", args=["decompose", bank, "--k", "2", "--score", "--space", "product", *on, *out])
        refuses("backbone", args=["decompose", bank, "--k", "2", "--score", "--tasks", on[3], *out])

    def test_a_bank_that_changes_meanwhile(self, refuses, made, tmp_path, monkeypatch):
        bank = Path(shutil.copytree(made[0] / "bank", tmp_path / "bank"))
        assert main(["decompose", str(bank), "--k", "1", "--no-report", "--out", str(tmp_path / "s")]) == 0
        before = (tmp_path / "s" / "subspace.safetensors").read_bytes()
        real = subspace.joint_svd

        def meanwhile(*args, **options):
            space = real(*args, **options)
            path = bank / "solutions" / "lora" / "has_ba.0.safetensors"
            path.write_bytes(path.read_bytes() + b"x")
            return space

        monkeypatch.setattr(subspace, "joint_svd", meanwhile)
        refuses("has_ba.0.safetensors", "run it again", args=["decompose", str(bank), "--k", "2", "--out", str(tmp_path / "s")])
        assert (tmp_path / "s" / "subspace.safetensors").read_bytes() == before  # the last complete result stays

    def test_hosts_that_do_not_fit(self, refuses, made, tmp_path):
        bank = str(made[0] / "bank")
        refuses("--sharded", args=["decompose", bank, "--k", "1", "--hosts", "2", "--out", str(tmp_path / "a")])
        refuses("--coordinator", args=["decompose", bank, "--k", "1", "--sharded", "--hosts", "2", "--out", str(tmp_path / "b")])

    def test_no_such_source(self, refuses, made, tmp_path):
        refuses("no_task", args=["export", str(made[0] / "space"), "--task", "no_task", "--out", str(tmp_path / "e")])
        refuses("no_task", args=["merge", str(made[0] / "space"), "no_task", "--out", str(tmp_path / "m")])
        refuses("no_task", args=["extend", str(made[0] / "space"), str(made[0] / "bank"), "--names", "no_task", "--out", str(tmp_path / "x")])
        refuses("no_task", args=["decompose", str(made[0] / "bank"), "--names", "no_task", "--k", "1", "--out", str(tmp_path / "d")])

    def test_a_tolerance_that_is_none(self, refuses, made, tmp_path):
        refuses("tolerance", args=["compress", str(made[0] / "bank"), "--tolerance", "1.5", "--out", str(tmp_path / "c")])


def test_methods_are_named_alike_everywhere(refuses, tmp_path):
    toml = """name = "x"
[backbone]
source = "tiny"
[tasks]
folder = "gym"
[types.lora]
[decomposition]
methods = ["joint_svdd"]
"""
    (tmp_path / "s.toml").write_text(toml)
    refuses("joint_svdd", "gcca", args=["study", str(tmp_path / "s.toml"), "--out", str(tmp_path / "o")])
    (tmp_path / "s.toml").write_text(toml.replace("joint_svdd", "autoencoder@layer"))
    refuses("autoencoder@layer", args=["study", str(tmp_path / "s.toml"), "--out", str(tmp_path / "o")])
