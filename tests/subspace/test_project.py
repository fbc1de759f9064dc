"""One adapter into a subspace and one out of it, with the backbone and without."""

import json
import warnings
from dataclasses import replace

import adapter_files as files
import numpy as np
import pytest
import toy
from lowrank_fakes import SIZES, changes, dense, factor_sources, product_sources, regauged, solutions
from subspace_fakes import planted

import deltas
import subspace
from deltas.bank import Solution
from deltas.checkpoints import load_checkpoint, save_peft
from deltas.checkpoints.solutions import solution_of
from deltas.checkpoints.unplaced_reading import read_unplaced
from subspace.export import export, placed
from subspace.foreign import gather_folders
from subspace.optimize import attach_to
from subspace.project import project

BERT = {f"encoder.layer.0.{name}": (16, 16) for name in ("attention.self.query", "attention.self.value", "attention.output.dense")}
BERT["encoder.layer.0.intermediate.dense"] = (16, 24)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Eight adapters of four ranks and their factors."""
    root, found = tmp_path_factory.mktemp("adapters"), solutions(n=8)
    for i, own in enumerate(found):
        files.lora(root / f"task{i}", own)
    return root, found


@pytest.fixture(scope="module")
def space(folders):
    return subspace.joint_svd(gather_folders(f"{folders[0]}/*"), 4)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return deltas.load_backbone(toy.write_folder(tmp_path_factory.mktemp("bert"), "bert", num_hidden_layers=1))


@pytest.fixture(scope="module")
def on_bert(tmp_path_factory):
    """Five LoRA for it, of different ranks at different modules."""
    root = tmp_path_factory.mktemp("for-bert")
    for i, own in enumerate(solutions(n=5, sizes=BERT, shared=0.3)):
        files.lora(root / f"task{i}", {m: (0.3 * a, 0.3 * b) for m, (a, b) in own.items()}, prefix="bert.")
    return root


def tokens():
    rng = np.random.default_rng(0)
    return {"input_ids": rng.integers(3, 60, (2, 5)), "attention_mask": np.array([[1] * 5, [1, 1, 1, 0, 0]])}


class TestProject:
    def test_a_source(self, folders, space):
        """All of it where k is as large as it can be; its own nearest neighbour."""
        root, found = folders
        sources = gather_folders(f"{root}/*")
        whole = subspace.joint_svd(sources, 7)
        for given in (None, sources):
            there = project(whole, root / "task3", sources=given, neighbours=3)
            assert there.name == "task3"
            np.testing.assert_allclose(there.z, whole.codes[3], atol=1e-4)
            assert max(there.residual, there.missed, there.outside) < 1e-5
            assert there.exact == (given is not None)
            assert there.neighbours[0].task == there.nearest[0].task == "task3"
            assert there.neighbours[0].cosine == pytest.approx(1, abs=1e-5)
            assert there.nearest[0].distance < 1e-4
            assert [len(there.neighbours), len(there.nearest)] == [3, 3]
        x = dense(found)
        x = x - x.mean(axis=0)
        cosines = x @ x[3] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[3])
        ours = {n.task: n.cosine for n in project(whole, root / "task3", sources=sources, neighbours=8).neighbours}
        np.testing.assert_allclose([ours[f"task{i}"] for i in range(8)], cosines, atol=1e-5)
        np.testing.assert_allclose([n.cosine for n in there.neighbours], np.sort(cosines)[::-1][:3], atol=1e-5)
        part = project(space, root / "task3", neighbours=8)
        assert 0.05 < part.missed < 1
        assert part.residual == pytest.approx(part.missed * np.linalg.norm(x[3]) / np.linalg.norm(dense(found)[3]), rel=1e-4)
        json.dumps(part.to_json())

    def test_a_newcomer_by_hand(self, tmp_path):
        """Another module and directions beyond the cores are outside; the gauge changes nothing."""
        few = replace(product_sources(solutions(n=3, seed=4, ranks=(2,)), rank=1), backbone="name:a/base")
        thin = subspace.joint_svd(few, 2)
        new = solutions(n=1, seed=9, ranks=(3,))[0]
        extra = {**new, "layer.3.q": (np.ones((4, 1)), np.ones((1, 3)))}
        files.lora(tmp_path / "one", extra)
        files.lora(tmp_path / "other", regauged([extra])[0], alpha=2)
        one, other = (project(thin, tmp_path / name) for name in ("one", "other"))
        np.testing.assert_allclose(one.z, other.z, atol=1e-4)
        assert one.missed == pytest.approx(other.missed, abs=1e-6)
        x = np.concatenate([dense([new])[0], np.ones(12)])
        q = {m: core.q for m, core in few.blocks["lora"].rows.cores.items()}
        inside = np.concatenate([(q[m] @ q[m].T @ new[m][0] @ new[m][1]).ravel() for m in SIZES] + [np.zeros(12)])
        assert one.outside == pytest.approx(np.linalg.norm(x - inside) / np.linalg.norm(x), rel=1e-4)
        decoded = changes(thin.parts["lora"], thin.decode("lora", one.z))
        rest = x - np.concatenate([decoded[m].ravel() for m in SIZES] + [np.zeros(12)])
        assert one.residual == pytest.approx(np.linalg.norm(rest) / np.linalg.norm(x), rel=1e-4)
        mean = changes(thin.parts["lora"], thin.decode("lora", np.zeros(2)))
        away = x - np.concatenate([mean[m].ravel() for m in SIZES] + [np.zeros(12)])
        assert one.missed == pytest.approx(np.linalg.norm(rest) / np.linalg.norm(away), rel=1e-4)
        ends = [changes(thin.parts["lora"], thin.decode("lora", e)) for e in np.eye(2, dtype=np.float32)]
        basis = np.stack([np.concatenate([(end[m] - mean[m]).ravel() for m in SIZES] + [np.zeros(12)]) for end in ends])
        np.testing.assert_allclose(one.z, np.linalg.lstsq(basis.T, away, rcond=None)[0], rtol=1e-3, atol=1e-4)

    def test_a_solution_of_a_bank(self, refused):
        sources = factor_sources(solutions(n=5, ranks=(2,)))
        there = subspace.joint_svd(sources, 4)
        block = sources.blocks["lora"]
        own = Solution(task="task2", seed=0, config=block.config, layout=block.layout, vector=block.rows[2], theta0=block.theta0, backbone="b0",
                       theta0_fingerprint="start")
        found = project(there, own)
        np.testing.assert_allclose(found.z, there.codes[2], atol=1e-4)
        assert found.missed < 1e-5
        assert found.nearest[0].task == "task2"
        scaled = replace(own, config=replace(own.config, alpha=4.0))
        with refused("scale"):
            project(there, scaled)
        with refused("b1"):
            project(there, replace(own, backbone="b1"))
        with refused("backbone of the subspace", "none"):
            project(there, "a/folder")
        from subspace.product import in_product_space

        product = subspace.joint_svd(in_product_space(sources), 4)
        whole, doubled = project(product, own), project(product, scaled)
        assert whole.missed < 1e-5 < doubled.missed
        with refused("sources that the subspace was fitted to"):
            project(product, own, sources=sources)

    def test_other_types(self, tmp_path, refused):
        for i in range(4):
            files.ia3(tmp_path / f"t{i}", i)
        there = subspace.joint_svd(gather_folders(f"{tmp_path}/*"), 3)
        found = project(there, tmp_path / "t1")
        np.testing.assert_allclose(found.z, there.codes[1], atol=1e-5)
        assert found.outside == 0
        with refused("another/base"):
            project(there, files.ia3(tmp_path / "other", 5, base="another/base"))
        with refused("layer.2.k.ia3_l"):
            project(there, files.ia3(tmp_path / "longer", 5, sizes=(5, 7, 3)))
        part = there.parts["ia3"]
        with refused("settings", "raw"):
            project(replace(there, parts={"ia3": replace(part, config=replace(part.config, raw="{}"))}), tmp_path / "t1")
        with refused("delta type of the subspace", "adapter"):
            project(there, files.bottleneck(tmp_path / "b", 1))


class TestExport:
    def test_without_the_backbone(self, folders, space, tmp_path):
        """The change that z decodes to, in as few ranks as it has, under the names of the files; and back to the same z."""
        z = np.array([0.5, -1, 0.3, 0.8], np.float32)
        export(space, z, tmp_path / "point")
        raw = json.loads((tmp_path / "point" / "adapter_config.json").read_text())
        assert raw["base_model_name_or_path"] == "a/base"
        assert sorted(raw["target_modules"]) == sorted(SIZES)
        wanted, adapter = changes(space.parts["lora"], space.decode("lora", z)), read_unplaced(tmp_path / "point")
        for module, (a, b) in adapter.factors.items():
            np.testing.assert_allclose(a @ b, wanted[module], atol=1e-5)
        found = project(space, tmp_path / "point")
        np.testing.assert_allclose(found.z, z, atol=1e-4)
        assert found.residual < 1e-5
        whole = subspace.joint_svd(gather_folders(f"{folders[0]}/*"), 7)
        export(whole, whole.codes[2], tmp_path / "source", base_model="mine")
        again = read_unplaced(tmp_path / "source")
        assert again.base == "mine"
        export(space, z, tmp_path / "small", rank=1)
        assert set(read_unplaced(tmp_path / "small").ranks.values()) == {1}
        assert project(space, tmp_path / "small").missed > 0.1

    def test_other_types(self, tmp_path, refused):
        for i in range(3):
            files.ia3(tmp_path / f"t{i}-ia3", i)
            files.bottleneck(tmp_path / f"t{i}-bn", i)
        there = subspace.joint_svd(gather_folders(f"{tmp_path}/*", task=r"(t\d).*"), 2)
        export(there, there.codes[1], tmp_path / "point", label="ia3")
        np.testing.assert_allclose(np.asarray(read_unplaced(tmp_path / "point").vector), np.asarray(read_unplaced(tmp_path / "t1-ia3").vector),
                                   atol=1e-5)
        with refused("PEFT has a form", "adapterhub"):
            export(there, there.codes[1], tmp_path / "point", label="adapter")
        with refused("rank or an energy", "ia3"):
            export(there, there.codes[1], tmp_path / "point", label="ia3", rank=1)
        with refused("2 numbers", "(2, 2)"):
            export(there, there.codes[:2], tmp_path / "point", label="ia3")
        with refused("backbone", "none"):
            export(subspace.joint_svd(planted(), 2), np.zeros(2), tmp_path / "point")


class TestPlaced:
    def test_a_point_runs_and_is_what_was_exported(self, bert, on_bert, tmp_path, refused):
        """Decoded on the backbone, exported without it, exported with it: the same logits; codes project back."""
        space = subspace.joint_svd(gather_folders(f"{on_bert}/*"), 3)
        there = placed(space, bert)
        assert there.backbone == bert.fingerprint
        attached = attach_to(there, bert, "lora")
        assert attached.layout == there.parts["lora"].layout
        assert {name[:-2] for name in attached.layout.names} == {f"encoder.0.{site}" for site in ("attn.o", "attn.q", "attn.v", "ff.up")}
        z = np.array([0.7, -0.4, 1.1], np.float32)
        batch = {name: value.astype(np.int32) for name, value in tokens().items()}
        module = attached.module(there.decode("lora", z), attached.frozen)
        wanted = np.asarray(module(*bert.inputs(batch)))
        export(space, z, tmp_path / "without")
        export(there, z, tmp_path / "with", backbone=bert)
        export(space, z, tmp_path / "both", backbone=bert, base_model="mine")
        plain = np.asarray(bert.logits(batch))
        for name in ("without", "with", "both"):
            found = np.asarray(bert.logits(batch, load_checkpoint(tmp_path / name, bert)))
            np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
            projected = project(there, tmp_path / name, backbone=bert)
            np.testing.assert_allclose(projected.z, z, atol=1e-3)
            assert projected.residual < 1e-4
        assert np.abs(plain - wanted).max() > 0.05
        assert read_unplaced(tmp_path / "both").base == "mine"
        assert placed(there, bert) is there
        other = replace(bert, fingerprint="another")
        with refused("another"):
            placed(there, other)

    def test_another_backbone(self, backbone, on_bert, refused):
        space = subspace.joint_svd(gather_folders(f"{on_bert}/*"), 3)
        with refused("query"):
            placed(space, backbone)

    @pytest.mark.parametrize(("kind", "config"), [
        ("gpt2", deltas.LoRA(rank=2, sites=("q", "k", "v", "ff.up"))), ("gpt2", deltas.IA3()),
        ("bert", deltas.Full(sites=("attn_norm", "ff_norm"))), ("llama", deltas.Prefix(length=2, start="normal", shift=True)),
    ], ids=lambda value: value if isinstance(value, str) else value.name)
    def test_every_number_comes_to_its_place(self, kind, config, tmp_path):
        """Fused modules too: a code of a source decodes to what loading that source with the backbone gives."""
        model = deltas.load_backbone(toy.write_folder(tmp_path / "model", kind, **{"n_layer" if kind == "gpt2" else "num_hidden_layers": 1}))
        start, rng = deltas.Attached.of(model, config), np.random.default_rng(0)
        for i in range(3):
            parameters = {name: rng.standard_normal(shape).astype(np.float32)
                          for name, shape in zip(start.layout.names, start.layout.shapes, strict=True)}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                save_peft(solution_of(model, config, parameters, task="t", seed=0, provenance={}), tmp_path / "adapters" / f"t{i}", model)
        there = placed(subspace.joint_svd(gather_folders(f"{tmp_path}/adapters/*"), 2), model)
        attached = attach_to(there, model, config.name)
        for i, z in enumerate(there.codes):
            own = load_checkpoint(tmp_path / "adapters" / f"t{i}", model)
            if config.name != "lora":
                assert own.layout == attached.layout
                np.testing.assert_allclose(there.decode(config.name, z), own.theta, atol=2e-5)
            else:
                decoded = changes(there.parts["lora"], there.decode("lora", z))
                scale = own.config.alpha / own.config.rank
                values = own.layout.unflatten(own.theta)
                wanted = {name[:-2]: scale * np.asarray(value) @ np.asarray(values[f"{name[:-2]}.b"])
                          for name, value in values.items() if name.endswith(".a")}
                assert set(decoded) == set(wanted)
                for site, change in wanted.items():
                    np.testing.assert_allclose(decoded[site], change, atol=1e-4)
