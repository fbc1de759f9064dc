"""`deltaspace inspect` as a user runs it."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from deltaspace.__main__ import main

import deltas
import subspace


@pytest.fixture(scope="module")
def things(tmp_path_factory, folder, backbone):
    """Where each kind of thing is."""
    bank, lora = deltas.Bank(tmp_path_factory.mktemp("things") / "bank", create=True), deltas.Attached.of(backbone, deltas.LoRA(rank=2))
    bank.add_start(lora)
    for i, task in enumerate(("one", "two", "three")):
        vector = np.random.default_rng(i).standard_normal(lora.layout.size).astype(np.float32)
        bank.add(deltas.Solution(task=task, seed=0, config=lora.config, layout=lora.layout, vector=vector, theta0=lora.theta0,
                                 backbone=lora.backbone.fingerprint, theta0_fingerprint=lora.theta0_fingerprint, scores={"dev": i / 4}))
    subspace.joint_svd(bank, 2).save(bank.path.parent / "space")
    return {"backbone": folder, "bank": bank.path, "solution": bank.file("lora", "two", 0), "subspace": bank.path.parent / "space"}


@pytest.mark.parametrize(("kind", "words"), [
    ("backbone", ("Transformer", "encoder.0", "nothing is trainable")),
    ("bank", ("3 solutions of 3 tasks × 1 types", "lora rank=2", "0.250 [0.000, 0.500]")),
    ("solution", ("lora of two, seed 0", "encoder.*.attn.q", "dev 0.25")),
    ("subspace", ("joint_svd", "k = 2", "← k")),
])
def test_each_kind(things, tmp_path, capsys, kind, words):
    """What is printed is what is written, and what is written is what Python gives."""
    assert main(["inspect", str(things[kind])]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    for word in words:
        assert word in text
    assert main(["inspect", str(things[kind]), "--out", str(tmp_path / "out")]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"summary.json", "inspect.txt"}
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == (tmp_path / "out" / "inspect.txt").read_text().splitlines()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["kind"] == kind
    assert set(summary["versions"]) >= {"deltaspace", "jax"}
    facts = json.loads(json.dumps(deltas.inspect(things[kind]).to_json()))
    assert {name: value for name, value in summary.items() if name not in ("seconds", "versions")} == facts


def test_types_on_a_backbone(things, tmp_path, capsys):
    assert main(["inspect", str(things["backbone"]), "--types", "lora:rank=2", "prefix:length=4", "--dtype", "bfloat16", "--out",
                 str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    by_hand = {"lora": 6 * (16 * 2 + 2 * 16), "prefix": 2 * 2 * 4 * 16}  # d = heads · head_dim = 16; six of q and v, two self-attentions
    assert {f["label"]: f["parameters"] for f in summary["deltas"]} == by_hand
    assert (summary["fingerprint"], list(summary["nbytes"])) == (None, ["bfloat16"])
    assert "+ lora" in capsys.readouterr().out


def test_fingerprint_reads_the_weights(things, backbone, tmp_path):
    assert main(["inspect", str(things["backbone"]), "--fingerprint", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["fingerprint"] == backbone.fingerprint


def test_the_backbone_that_comes_with_the_package(capsys):
    assert main(["inspect", "tiny"]) == 0
    assert "encoder.0 … 1 (2 ×)" in capsys.readouterr().out


class TestBadInput:
    @pytest.fixture
    def refused(self, capsys):
        """Status 2, one sentence with the given words, and nothing printed."""

        def check(*words, args):
            assert main(["inspect", *map(str, args)]) == 2
            out, err = capsys.readouterr()
            message = err.strip().splitlines()[-1]
            assert re.match(r"deltaspace: expected .*, got .*; ", message), message
            assert out == ""
            for word in words:
                assert word in message, message

        return check

    def test_nothing_known(self, refused, tmp_path):
        for thing in (tmp_path, tmp_path / "gone"):
            refused("a backbone", "a bank", "a solution's file", "a subspace", str(thing), args=[thing, "--out", tmp_path / "out"])
        assert not (tmp_path / "out").exists()

    def test_types(self, refused, things):
        refused("'lroa'", args=[things["backbone"], "--types", "lroa"])
        refused("for a backbone alone", args=[things["bank"], "--types", "lora"])
        refused("rank", args=[things["backbone"], "--types", "lora:rank=0"])
        refused("attached already", args=[things["backbone"], "--types", "lora", "lora"])

    def test_damaged(self, refused, things, tmp_path):
        path = tmp_path / "subspace.safetensors"
        path.write_bytes((things["subspace"] / path.name).read_bytes()[:-4])
        refused(path.name, "damaged", args=[path])


def test_help_is_quick():
    """No JAX is imported for --help."""
    code = ("import sys; from deltaspace.__main__ import main\n"
            "try: main(['inspect', '--help'])\nexcept SystemExit: assert 'jax' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fingerprint" in done.stdout
