"""Folders of other libraries' adapters become sources: any ranks, several types, and a reason for each that is left out."""

import json
import os
import shutil

import adapter_files as files
import numpy as np
import pytest
from lowrank_fakes import dense, regauged, solutions
from subspace_fakes import planted

import deltas
import subspace
from deltas.bank import Bank, Solution
from deltas.files import write_json
from subspace.foreign import gather_folders, sketches
from subspace.gram import gram
from subspace.sources import gather


@pytest.fixture
def adapters(tmp_path):
    """Seven LoRA of four ranks, three of them at fewer modules; their factors."""
    found = solutions(n=7)
    for i, own in enumerate(found):
        files.lora(tmp_path / f"task{i}", own)
    return tmp_path, found


def of(sources, status):
    return [e for e in sources.manifest if e["status"] == status]


def test_ranks_and_modules_side_by_side(adapters):
    root, found = adapters
    told = []
    sources = gather_folders(f"{root}/*", on_progress=lambda done, whole: told.append((done, whole)))
    assert told == [(i + 1, 7) for i in range(7)]
    assert sources.space == "product"
    assert sources.backbone == "name:a/base"
    assert sources.pairs == tuple((f"task{i}", 0) for i in range(7))
    np.testing.assert_allclose(gram(sources.rows["lora"]), dense(found) @ dense(found).T, rtol=1e-5, atol=1e-4)
    assert sources.rows["lora"].name(3) == str(root / "task3")
    assert not of(sources, "left out")
    assert [e["rank"] for e in sources.manifest] == [[1], [2], [3], [4], [1], [2], [3]]
    assert sources.manifest[1] == {"path": str(root / "task1"), "type": "lora", "task": "task1", "seed": 0, "size": 74, "base": "a/base",
                                   "rank": [2], "targets": ["out", "q"], "status": "used", "reason": ""}
    space = subspace.joint_svd(sources, 6)
    assert space.labels == ["lora"]
    assert space.energy["lora"] == pytest.approx(1, abs=1e-6)


def test_names_with_and_without_a_head_are_one(adapters):
    root, found = adapters
    for i in (1, 4):
        shutil.rmtree(root / f"task{i}")
        files.lora(root / f"task{i}", found[i], prefix="bert.")
    np.testing.assert_allclose(gram(gather_folders(f"{root}/*").rows["lora"]), dense(found) @ dense(found).T, rtol=1e-5, atol=1e-4)


def test_duplicates_are_noticed(adapters):
    """The same tensors under another name, and the same change of weights in other factors."""
    root, found = adapters
    shutil.copytree(root / "task2", root / "task8")
    files.lora(root / "task9", regauged(found, seed=5)[3], alpha=1)
    sources = gather_folders(f"{root}/*")
    assert len(sources.pairs) == 7
    first, second = of(sources, "left out")
    assert (first["task"], second["task"]) == ("task8", "task9")
    assert first["reason"] == f"its tensors are those of {root / 'task2'}"
    assert second["reason"] == f"its change of weights is that of {root / 'task3'}, in other factors"
    near = [{m: (a, b + 0.01) for m, (a, b) in found[0].items()}, *found]
    assert np.linalg.norm(np.diff(sketches(near)[:2], axis=0)) > 1e-3 * np.linalg.norm(sketches(near)[0])


def test_types_are_paired_by_task(tmp_path):
    """What only some types have is a missing block; several of one task are its seeds."""
    for i, own in enumerate(solutions(n=5, ranks=(2,))):
        files.lora(tmp_path / f"t{i}-lora", own)
    for i in (0, 1, 3):
        files.ia3(tmp_path / f"t{i}-ia3", i, base="a/base/")
    files.ia3(tmp_path / "t3-ia3-again", 7)
    for i in (1, 2):
        files.bottleneck(tmp_path / f"t{i}-adapter", i, name=f"name{i}")
    sources = gather_folders(f"{tmp_path}/*", task=r"(\w+)-.*")
    assert sources.labels == ["adapter", "ia3", "lora"]
    assert sources.pairs == (("t0", 0), ("t1", 0), ("t2", 0), ("t3", 0), ("t3", 1), ("t4", 0))
    assert not sources.complete
    members = {label: [sources.pairs[i] for i in block.members] for label, block in sources.blocks.items()}
    assert members == {"adapter": [("t1", 0), ("t2", 0)], "ia3": [("t0", 0), ("t1", 0), ("t3", 0), ("t3", 1)],
                       "lora": [("t0", 0), ("t1", 0), ("t2", 0), ("t3", 0), ("t4", 0)]}
    block = sources.blocks["ia3"]
    np.testing.assert_array_equal(block.theta0, 1)
    tensors = np.random.default_rng([1, 9])
    np.testing.assert_allclose(block.rows[1], np.concatenate([tensors.standard_normal(5), tensors.standard_normal(7)]), atol=1e-6)
    both = gather_folders(f"{tmp_path}/*", task=r"(\w+)-.*", labels=["lora", "ia3"])
    assert both.labels == ["ia3", "lora"]
    assert [e["reason"] for e in of(both, "left out")] == ["its type adapter was not asked for"] * 2
    nested = tmp_path / "nested"
    for i, own in enumerate(solutions(n=3)):
        files.lora(nested / f"t{i}" / "lora", own)
    assert [task for task, _ in gather_folders(f"{nested}/*/*", task=r"/([^/]+)/lora").pairs] == ["t0", "t1", "t2"]
    space = subspace.joint_svd(gather_folders(f"{tmp_path}/*-ia3*", task=r"(\w+)-.*"), 2)
    space.save(tmp_path / "space")
    again = subspace.Subspace.load(tmp_path / "space")
    assert again.parts["ia3"].config == space.parts["ia3"].config
    assert again.space == "factors"


def test_factors_need_one_shape(tmp_path, refused):
    found = solutions(n=4, ranks=(2,))
    for i, own in enumerate(found):
        files.lora(tmp_path / f"t{i}", own)
    sources = gather_folders(f"{tmp_path}/*", space="factors")
    assert sources.space == "factors"
    rows = np.stack([np.asarray(sources.rows["lora"][n]) for n in range(4)])
    names = sources.blocks["lora"].layout.names
    wanted = np.stack([np.concatenate([own[name[:-2]]["ab".index(name[-1])].ravel() for name in names]) for own in found])
    np.testing.assert_allclose(rows, wanted, atol=1e-5)
    files.lora(tmp_path / "u", solutions(n=2, ranks=(3,))[1])
    with refused("rank 2", "rank 3", str(tmp_path / "u"), "space='product'"):
        gather_folders(f"{tmp_path}/*", space="factors")
    gather_folders(f"{tmp_path}/*")


class TestWhatIsLeftOut:
    def test_broken_folders(self, adapters, refused):
        root, _ = adapters
        os.remove(root / "task0" / "adapter_config.json")
        weights = root / "task1" / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-5])
        bad = {m: (a.copy(), b) for m, (a, b) in solutions(n=3)[0].items()}
        bad["layer.10.q"][0][1, 0] = np.nan
        files.lora(root / "task7", bad)
        files.lora(root / "task8", solutions(n=3, seed=3)[0], use_dora=True)
        (root / "README.md").write_text("not a folder")
        sources = gather_folders(f"{root}/*")
        assert len(sources.pairs) == 5
        reasons = {e["path"].rpartition("/")[2]: e["reason"] for e in of(sources, "left out")}
        assert set(reasons) == {"task0", "task1", "task7", "task8"}
        for name, words in {"task0": "adapter_config.json", "task1": "whole safetensors", "task7": "10.q.lora_A", "task8": "use_dora"}.items():
            assert words in reasons[name]
        with refused("adapter_config.json"):
            gather_folders(f"{root}/*", strict=True)
        with refused("layer.10.q.lora_A", "NaN"):
            gather_folders([f"{root}/task[2-7]"], strict=True)

    def test_too_few(self, adapters, refused, tmp_path):
        root, _ = adapters
        with refused("at least 2", "got 1 of 1"):
            gather_folders(f"{root}/task1")
        os.remove(root / "task0" / "adapter_config.json")
        with refused("at least 2", "got 0 of 1", "adapter_config.json"):
            gather_folders(f"{root}/task0")
        with refused("'nowhere/*'"):
            gather_folders([f"{root}/*", "nowhere/*"])
        files.ia3(root / "one-ia3", 3)
        sources = gather_folders(f"{root}/*")
        assert "the only ia3" in next(e["reason"] for e in of(sources, "left out") if e["type"] == "ia3")
        with refused("type ia3"):
            gather_folders(f"{root}/*", labels=["lora", "ia3"])
        with refused("regular expression"):
            gather_folders(f"{root}/*", task="(")
        odd = of(gather_folders(f"{root}/*", task=r"(task\d)"), "left out")
        assert [("one-ia3" in e["path"], "another pattern" in e["reason"]) for e in odd] == [(True, True), (False, False)]
        with refused("product or factors"):
            gather_folders(f"{root}/*", space="weights")

    def test_different_bases(self, adapters, refused):
        root, _ = adapters
        files.lora(root / "task8", solutions(seed=8, n=1)[0], base="another/base")
        with refused("a/base", "another/base", str(root / "task0"), str(root / "task8")):
            gather_folders(f"{root}/*")
        shutil.rmtree(root / "task8")
        files.lora(root / "task8", {"layer.2.q": (np.ones((12, 1)), np.ones((1, 7)))}, base=None)
        with refused("layer.2.q", "11 inputs", str(root / "task8")):
            gather_folders(f"{root}/*")

    def test_settings_that_differ(self, tmp_path, refused):
        for i in range(3):
            files.bottleneck(tmp_path / f"t{i}", i, name=f"n{i}", dropout=i / 10)
        assert len(gather_folders(f"{tmp_path}/*").pairs) == 3
        files.bottleneck(tmp_path / "t3", 3, non_linearity="gelu")
        with refused("adapter", "settings", str(tmp_path / "t3")):
            gather_folders(f"{tmp_path}/*")
        for i in range(2):
            files.ia3(tmp_path / "more" / f"t{i}", i, sizes=(5, 7, 2)[: 2 + i])
        with refused("ia3", "layer.2.k.ia3_l"):
            gather_folders(f"{tmp_path}/more/*")


class TestChanges:
    def test_of_folders(self, adapters, refused):
        root, _ = adapters
        sources = gather_folders(f"{root}/*")
        assert len(sources.files) == 14
        sources.unchanged()
        stamp = sources.stamp
        weights = root / "task4" / "adapter_model.safetensors"
        os.utime(weights, (1, 1))
        with refused(str(weights), "run it again"):
            sources.unchanged()
        with refused(str(weights), "when reading began"):
            gram(sources.rows["lora"])
        assert gather_folders(f"{root}/*").stamp != stamp == sources.stamp
        os.remove(weights)
        with refused(str(weights), "1 of 14"):
            sources.unchanged()
        with refused(str(weights)):
            sources.rows["lora"][4]

    def test_of_a_bank(self, backbone, tmp_path, refused):
        bank, starts = Bank(tmp_path / "bank", create=True), {}
        for kind in (deltas.LoRA(rank=1), deltas.BitFit()):
            starts[kind.label] = deltas.Attached.of(backbone, kind)
            bank.add_start(starts[kind.label])
        for task, label in (("a", "lora"), ("a", "bitfit"), ("b", "lora"), ("b", "bitfit"), ("c", "lora")):
            start = starts[label]
            bank.add(Solution(task=task, seed=0, config=start.config, layout=start.layout, theta0=start.theta0, backbone=backbone.fingerprint,
                              theta0_fingerprint=start.theta0_fingerprint, vector=np.ones(start.layout.size, np.float32)))
        bank.add_failure("bitfit", "c", 0, step=7)
        sources = gather(bank)
        assert [(e["type"], e["task"], e["status"]) for e in sources.manifest] == [
            ("bitfit", "a", "used"), ("bitfit", "b", "used"), ("lora", "a", "used"), ("lora", "b", "used"), ("lora", "c", "left out"),
            ("bitfit", "c", "left out")]
        assert sources.manifest[4]["reason"] == "there is no solution of bitfit for it"
        assert sources.manifest[5]["reason"] == "its training failed at step 7"
        json.dumps(sources.manifest)
        assert [e["status"] for e in gather(bank, missing=True).manifest] == ["used"] * 5 + ["left out"]
        chosen = gather(bank, ["lora"], [("b", 0)])
        assert [e["reason"] for e in chosen.manifest] == [other := "not among the solutions that were asked for", "", other]
        sources.unchanged()
        write_json(bank.file("lora", "c", 0), {})  # which was not used
        sources.unchanged()
        os.utime(bank.file("bitfit", "b", 0), (1, 1))
        with refused("bitfit/b.0", "1 of 6 files"):
            sources.unchanged()
        gather(planted()).unchanged()


def test_with_the_backbone(backbone, tmp_path, refused):
    """Places at once; DoRA is left out of product space, for its reason."""
    rng = np.random.default_rng(0)
    from deltas.checkpoints import save_peft
    from deltas.checkpoints.solutions import solution_of

    def save(name, config):
        start = deltas.Attached.of(backbone, config)
        parameters = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in zip(start.layout.names, start.layout.shapes, strict=True)}
        save_peft(solution_of(backbone, config, parameters, task=name, seed=0, provenance={}), tmp_path / name, backbone)

    for i, rank in enumerate((1, 2, 3)):
        save(f"t{i}", deltas.LoRA(rank=rank, sites=("q", "v") if i else ("q", "o")))
    save("dora", deltas.LoRA(rank=1, dora=True))
    sources = gather_folders(f"{tmp_path}/*", backbone=backbone)
    assert sources.backbone == backbone.fingerprint
    assert [task for task, _ in sources.pairs] == ["t0", "t1", "t2"]
    assert "dora" in of(sources, "left out")[0]["reason"]
    without = gather_folders(f"{tmp_path}/t*")
    np.testing.assert_allclose(gram(sources.rows["lora"]), gram(without.rows["lora"]), rtol=1e-5, atol=1e-5)
    assert "encoder.0.attn.q.a" in sources.blocks["lora"].layout.names
