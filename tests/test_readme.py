"""The README keeps its word: the example runs as it stands, the tables are those of the kept results, every file that it names is there."""

import functools
import re
from pathlib import Path
from types import SimpleNamespace

import adapter_files
import jax
import numpy as np
import pytest
import toy
from lowrank_fakes import solutions

import deltas
import landscape
import subspace

README = Path(__file__).parent.parent / "README.md"


def test_example_runs(tmp_path, monkeypatch, capsys):
    """The lines of the README, on fewer tasks and steps than a reader would take."""
    code = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    few = deltas.Training(steps=4, evaluate_every=4, segment=2, dev_rows=8)
    whole = {name: getattr(module, name) for module, name in ((deltas, "gym"), (deltas, "train"), (landscape, "plane"),
                                                              (subspace, "joint_svd"), (subspace, "optimize"))}
    monkeypatch.setattr(deltas, "gym", lambda group: whole["gym"](group, rows=(32, 8, 8))[:5])
    monkeypatch.setattr(deltas, "train", functools.partial(whole["train"], training=few))
    monkeypatch.setattr(subspace, "joint_svd", lambda bank, k: whole["joint_svd"](bank, min(k, 3)))
    monkeypatch.setattr(subspace, "optimize", functools.partial(whole["optimize"], training=few))
    monkeypatch.setattr(landscape, "plane", functools.partial(whole["plane"], resolution=3))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert Path("plane.png").stat().st_size > 1000
    assert "mean_only" in capsys.readouterr().out


def test_tables_are_those_of_the_results(tmp_path):
    """Running the generator again changes nothing."""
    from deltaspace import readme

    copy = tmp_path / "README.md"
    copy.write_text(README.read_text())
    readme.write(copy)
    assert copy.read_text() == README.read_text()
    assert (README.parent / "scripts" / "results" / "EXPERIMENTS.md").read_text() == readme.experiments_page(readme.results())


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README.read_text()))))
def test_linked_files_exist(link):
    assert (README.parent / link).exists()


def test_the_example_on_a_module_of_ones_own():
    """The block runs as it stands, and what it says is so."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    names: dict = {}
    exec(next(block for block in blocks if "class MLP" in block), names)
    leaves = jax.tree.leaves(names["trainable"])
    assert sum(leaf.size for leaf in leaves) == 4 * (8 + 32)
    assert not any(site.order for site in names["deltas"].sites(names["model"]).values())


def test_the_example_on_many_solutions(backbone, attached, batch, tmp_path, monkeypatch, capsys):
    """The block runs as it stands, on solutions of the small T5; the adapter of somebody else's is the one just written."""
    def load(label, task, seed):
        one = attached[label]
        return deltas.Solution(task=task, seed=seed, config=one.config, layout=one.layout, vector=np.full(one.layout.size, 0.1, np.float32),
                               theta0=one.theta0, backbone=backbone.fingerprint, theta0_fingerprint=one.theta0_fingerprint)

    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    code = next(block for block in blocks if "save_peft" in block).replace("somebody/adapter", "peft")
    given = {name: batch[name][:3] for name in ("input_ids", "attention_mask")} | {"decoder_input_ids": batch["target_ids"][:3]}
    names = {"deltas": deltas, "backbone": backbone, "bank": SimpleNamespace(load=load), "batch": given}
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), names)
    np.testing.assert_allclose(backbone.logits(given, names["theirs"]), backbone.logits(given, names["lora"]), atol=1e-5)
    np.testing.assert_allclose(names["fast"].logits(given), backbone.logits(given, names["lora"]), atol=1e-4)
    assert "lora" in capsys.readouterr().out


def test_the_example_on_many_adapters(backbone, tmp_path, monkeypatch):
    """The block runs as it stands, on folders of LoRA of different ranks for the small T5."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    code = next(block for block in blocks if "gather_folders" in block)
    places = deltas.sites(backbone.module)
    sizes = {f"encoder.block.0.layer.0.SelfAttention.{letter}": places[f"encoder.0.attn.{letter}"].sizes for letter in "qv"}
    *many, new = solutions(n=8, sizes=sizes, ranks=(1, 2, 3))
    for i, one in enumerate(many):
        adapter_files.lora(tmp_path / "adapters" / f"task{i}", {m: (0.05 * a, b) for m, (a, b) in one.items()})
    adapter_files.lora(tmp_path / "new_adapter", new)
    few = deltas.Training(steps=2, evaluate_every=2, segment=2, batch_size=4, dev_rows=4)
    monkeypatch.setattr(subspace, "optimize", functools.partial(subspace.optimize, training=few))
    monkeypatch.chdir(tmp_path)
    names = {"subspace": subspace, "backbone": backbone, "task": toy.classify(rows=32)}
    exec(compile(code, "README.md", "exec"), names)
    assert names["where"].exact
    assert names["found"].z.shape == (names["space"].k,)
    assert (tmp_path / "peft" / "adapter_model.safetensors").is_file()


def test_the_example_on_weighing_sources(backbone, attached):
    """The block runs as it stands, on three sources: the delta itself and two that are far off."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    one = attached["lora"]
    rows = np.random.default_rng(0).normal(0, 1, (3, one.layout.size)).astype(np.float32) * np.float32([[0], [1], [1]])
    names = {"deltas": deltas, "backbone": backbone, "attached": one, "rows": rows, "task": toy.classify(rows=32), "reading": deltas.Reading()}
    exec(compile(next(block for block in blocks if "ensembling.judge" in block), "README.md", "exec"), names)
    assert names["start"].shape == one.theta0.shape
    assert set(names["judged"].scores) == {"loss", "el2n", "cosine"}
