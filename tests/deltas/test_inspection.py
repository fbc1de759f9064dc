"""What an inspection says is what numpy counts, folding loses nothing, and a damaged file is told of."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import toy
from flax import nnx
from rich.console import Console
from safetensors.numpy import load_file

from deltas import Bank, LoRA, Prefix, Solution
from deltas.attach import attach, sites
from deltas.backbones.sites import Delta, Part
from deltas.backbones.transformer import Transformer
from deltas.inspection import inspect
from deltas.inspection.module import describe
from deltas.inspection.solution import groups
from deltas.inspection.text import bar, heights, settings, size
from deltas.inspection.tree import tree, with_types
from deltas.layout import Layout


def shapes(kind="t5", **changes):
    config = toy.config_of(kind, **changes)
    return nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))


def child(node, name):
    return next(each for each in node.nodes if each.name == name)


class TestTree:
    def test_counts_are_those_of_the_file(self, folder, backbone):
        tensors = load_file(folder / "model.safetensors")
        numbers = sum(tensor.size for tensor in tensors.values())
        for thing in (folder, str(folder), backbone, backbone.module):
            report = inspect(thing)
            assert report.parameters == numbers
            assert report.nbytes == {"float32": 4 * numbers}
            assert (report.deltas, report.trainable, report.trainable_ratio, report.delta_ratio) == ((), 0, 0.0, 0.0)
        assert inspect(folder).tree == inspect(backbone).tree
        assert inspect(folder).on_disk == (folder / "model.safetensors").stat().st_size
        assert inspect(folder, dtype="bfloat16").nbytes == {"bfloat16": 2 * numbers}
        assert (inspect(folder).fingerprint, inspect(backbone).fingerprint) == (None, backbone.fingerprint)

    @pytest.mark.parametrize("kind", ["t5", *toy.OTHERS])
    def test_every_family(self, kind):
        tensors = toy.weights(toy.config_of(kind), kind=kind)
        assert tree(shapes(kind)).parameters == sum(tensor.size for tensor in tensors.values())

    def test_lora_by_hand(self, backbone):
        report = inspect(backbone, types=[LoRA(rank=2)])
        d, inner, sites_ = 16, 2 * 8, 3 * 2  # q and v of the encoder's attention and of the decoder's two
        (lora,) = report.deltas
        assert (lora.parameters, lora.sites) == (sites_ * (d * 2 + 2 * inner), sites_)
        assert lora.nbytes == {"float32": 4 * lora.parameters}
        assert report.delta_ratio == lora.ratio == lora.parameters / report.parameters
        assert report.trainable_ratio == lora.parameters / (report.parameters + lora.parameters)
        assert not [site for site in sites(backbone.module).values() if site.order], "the backbone stays as it is"

    def test_shapes_alone_give_what_attaching_gives(self, backbone, attached):
        together = inspect(backbone, types=[one.config for one in attached.values()])
        assert {f.label: f.parameters for f in together.deltas} == {label: one.layout.size for label, one in attached.items()}
        assert together.trainable == sum(one.layout.size for one in attached.values())
        for one in attached.values():
            assert inspect(one) == inspect(backbone, types=[one.config])

    def test_a_frozen_part_of_a_delta_is_not_trained(self, backbone):
        class Half(Part):
            def __init__(self):
                self.a, self.fixed = Delta(np.zeros(3)), nnx.Param(np.zeros(5))

        report = inspect(grown(backbone.module, "half", {"encoder.0.ff": Half()}))
        assert (report.deltas[0].parameters, report.deltas[0].trained, report.trainable) == (8, 3, 3)

    def test_equal_blocks_are_folded(self):
        module = shapes(num_layers=3, num_decoder_layers=2)
        encoder = child(tree(module), "encoder")
        assert [(node.name, node.times) for node in encoder.nodes] == [("0 … 2", 3)]
        flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
        assert tree(module).parameters == sum(np.prod(variable.shape) for _, variable in flat)
        assert encoder.nodes[0].parameters * 3 == sum(np.prod(v.shape) for path, v in flat if path[0] == "encoder")
        text = str(describe(module, name="toy"))
        assert "encoder.0 … 2 (3 ×)" in text
        assert "decoder.0 … 1 (2 ×)" in text

    @pytest.mark.parametrize(("config", "names"), [
        (LoRA(rank=2), ["0 … 2"]),
        (LoRA(rank=2, sites=("encoder.1.attn.q",)), ["0", "1", "2"]),
        (LoRA(rank=2, sites=(r"re:encoder\.[12]\.attn\.q",)), ["0", "1 … 2"]),
        (LoRA(rank=2, rank_pattern=(("encoder.2.*", 3),), sites=("encoder.*.q",)), ["0 … 1", "2"]),
        (Prefix(length=3, bottleneck=2), ["0", "1 … 2"]),  # the first holds the numbers of the network that they share
    ])
    def test_blocks_that_differ_are_not(self, config, names):
        module = with_types(shapes(num_layers=3), [config])
        encoder = child(tree(module), "encoder")
        assert [node.name for node in encoder.nodes] == names
        assert sum(node.times for node in encoder.nodes) == 3
        made = sum(np.prod(v.shape) for _, v in nnx.to_flat_state(nnx.state(module, Delta)))
        assert describe(module, name="toy").trainable == made

    def test_a_module_of_ones_own(self):
        class Mlp(nnx.Module):
            def __init__(self, rngs):
                self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(11)])
                self.again, self.drop = self.layers[0], nnx.Dropout(0.1, rngs=rngs)
                self.last = nnx.Linear(4, 2, use_bias=False, rngs=rngs)

        report = inspect(Mlp(nnx.Rngs(0)))
        assert report.parameters == 11 * (4 * 4 + 4) + 4 * 2, "what two names share is counted once"
        assert "drop" not in str(report)
        assert report.name == "Mlp"
        assert {(node.name, node.times) for top in report.tree.nodes for node in top.nodes} >= {("1 … 10", 10)}

    def test_deltas_are_marked_in_colour_in_a_terminal_alone(self, backbone):
        report = inspect(backbone, types=[LoRA(rank=2), Prefix(length=3)])
        plain, coloured = printed(report, force_terminal=False), printed(report, force_terminal=True, color_system="standard")
        assert "\x1b" not in plain
        assert [line.rstrip() for line in plain.splitlines()] == str(report).splitlines()
        marks = {label: next(line for line in coloured.splitlines() if f"+ {label}" in line) for label in ("lora", "prefix")}
        assert "\x1b[32m+ lora" in marks["lora"]
        assert "\x1b[35m+ prefix" in marks["prefix"]
        assert sum("+ lora" in line for line in plain.splitlines()) == 6 + 1, "six sites and the total"

    def test_json(self, backbone):
        facts = json.loads(json.dumps(inspect(backbone, types=[LoRA(rank=2)]).to_json()))
        assert facts["kind"] == "backbone"
        assert facts["deltas"][0]["label"] == "lora"
        table = {"name": "table", "shape": [len(toy.VOCABULARY), 16], "dtype": "float32", "trained": False}
        assert facts["tree"]["nodes"][0]["weights"] == [table]


def grown(module, name, parts):
    module = nnx.merge(*nnx.split(module))
    attach(module, name, parts)
    return module


def printed(report, **options):
    stream = io.StringIO()
    Console(file=stream, width=60, **options).print(report, soft_wrap=True)
    return stream.getvalue()


# ------------------------------------------------------------ banks and solutions
def solution_of(attached, task, seed=0, dev=0.5, **changes):
    vector = np.random.default_rng([seed, len(task)]).standard_normal(attached.layout.size).astype(np.float32)
    fields = {"task": task, "seed": seed, "config": attached.config, "layout": attached.layout, "vector": vector, "theta0": attached.theta0,
              "backbone": attached.backbone.fingerprint, "theta0_fingerprint": attached.theta0_fingerprint,
              "scores": {"metric": "accuracy", "dev": dev, "test": dev / 2}, "provenance": {"step": 7, "history": [{"step": 7}]}}
    return Solution(**(fields | changes))


@pytest.fixture
def bank(tmp_path, attached):
    """lora has a/b with seeds 0 and 1, and c with seed 0; adapter has a/b with seed 0 and failed at c."""
    bank = Bank(tmp_path / "bank", create=True)
    for label in ("lora", "adapter"):
        bank.add_start(attached[label])
    for label, task, seed, dev in (("lora", "a/b", 0, 0.25), ("lora", "a/b", 1, 0.5), ("lora", "c", 0, 0.75), ("adapter", "a/b", 0, 1.0)):
        bank.add(solution_of(attached[label], task, seed, dev))
    bank.add_failure("adapter", "c", 0, 12)
    return bank


class TestBank:
    def test_facts(self, bank, attached, backbone):
        report = inspect(bank)
        assert (report.tasks, report.seeds, report.backbones) == (("a/b", "c"), (0, 1), (backbone.fingerprint,))
        adapter, lora = report.labels
        assert (lora.size, lora.theta0, lora.solutions) == (attached["lora"].layout.size, attached["lora"].theta0_fingerprint, 3)
        assert lora.settings == "lora rank=2 alpha=16.0 sites=q,v"
        assert (lora.dev.mean, lora.dev.low, lora.dev.high, lora.test.mean) == (0.5, 0.25, 0.75, 0.25)
        norms = [np.linalg.norm(bank.load("lora", task, seed).vector) for task, seed in bank.pairs(["lora"])]
        assert lora.norm.mean == pytest.approx(np.mean(norms))
        assert (lora.missing, adapter.missing) == ((), (("a/b", 1), ("c", 0)))
        assert report.metrics == {"accuracy": 4}
        assert report.failed == ({"label": "adapter", "task": "c", "seed": 0, "step": 12},)
        assert report.nbytes == sum(p.stat().st_size for p in bank.path.rglob("*.*"))
        assert report.damaged == {}
        assert inspect(bank.path) == report
        text = str(report)
        assert "failed: adapter c.0 at step 12" in text
        assert "incomplete" in text
        json.dumps(report.to_json())

    def test_a_whole_bank_says_so(self, bank, attached):
        for task, seed in (("a/b", 1), ("c", 0)):
            bank.add(solution_of(attached["adapter"], task, seed))
        assert "complete: every type has every task and seed" in str(inspect(bank))

    def test_damaged_files_are_told_of_and_the_rest_is_read(self, bank):
        spoiled = {"solutions/lora/a%2Fb.0.safetensors": lambda b: b[:-8], "solutions/lora/c.0.safetensors": lambda b: b[:-1] + b"~",
                   "failed/adapter/c.0.json": lambda b: b[:9]}
        for name, spoil in spoiled.items():
            (bank.path / name).write_bytes(spoil((bank.path / name).read_bytes()))
        whole = bank.file("lora", "a/b", 1)
        (whole.parent / "elsewhere.1.safetensors").write_bytes(whole.read_bytes())
        (whole.parent / "nameless.safetensors").write_bytes(b"")
        report = inspect(Bank(bank.path))
        names = {*spoiled, "solutions/lora/elsewhere.1.safetensors", "solutions/lora/nameless.safetensors"}
        assert set(report.damaged) == names
        assert all("expected" in what for what in report.damaged.values())
        assert [(s["label"], s["task"], s["seed"]) for s in report.solutions] == [("adapter", "a/b", 0), ("lora", "a/b", 1)]
        assert all(name in str(report) for name in names)

    def test_a_damaged_start(self, bank):
        path = bank.path / "theta0" / "lora.safetensors"
        path.write_bytes(path.read_bytes()[:100])
        report = inspect(Bank(bank.path))
        assert [facts.label for facts in report.labels] == ["adapter"]
        assert len(report.damaged) == 1 + 3
        assert report.damaged["theta0/lora.safetensors"]

    def test_backbones_that_are_mixed(self, bank, attached, backbone):
        prefix = attached["prefix"]
        bank.add_start(replace(prefix, backbone=replace(backbone, fingerprint="another")))
        report = inspect(bank)
        assert set(report.backbones) == {backbone.fingerprint, "another"}
        assert "different backbones" in str(report)

    def test_an_empty_bank(self, tmp_path):
        (tmp_path / "theta0").mkdir()
        report = inspect(tmp_path)
        assert (report.labels, report.solutions, report.backbones) == ((), (), ())
        assert "0 solutions of 0 tasks" in str(report)

    def test_progress_is_told(self, bank):
        told = []
        inspect(bank, on_progress=lambda done, total: told.append((done, total)))
        assert told == [(i, 4) for i in range(1, 5)]


class TestSolution:
    def test_groups_by_hand(self):
        layout = Layout(("encoder.2.attn.q.a", "encoder.10.attn.q.a", "shared.table"), ((2, 1), (1, 1), (3,)))
        first, second = groups(layout, np.array([3, 4, 12, 0, 0, 0], np.float32))
        assert (first.name, first.parameters, first.norm, first.share) == ("encoder.*.attn.q", 3, 13.0, 1.0)
        assert first.sites == {"encoder.2.attn.q": 5.0, "encoder.10.attn.q": 12.0}
        assert first.shapes == {"a": "2×1 or 1×1"}
        assert (second.name, second.norm, second.share) == ("shared", 0.0, 0.0)

    def test_in_its_bank_and_apart(self, bank, attached, tmp_path):
        path = bank.file("lora", "a/b", 1)
        here, solution = inspect(path), bank.load("lora", "a/b", 1)
        assert (here.task, here.seed, here.label, here.size) == ("a/b", 1, "lora", attached["lora"].layout.size)
        assert here.scores == {"metric": "accuracy", "dev": 0.5, "test": 0.25}
        assert here.norm == pytest.approx(np.linalg.norm(solution.vector))
        assert here.theta0_norm == pytest.approx(np.linalg.norm(attached["lora"].theta0))
        assert sum(group.parameters for group in here.groups) == here.size
        assert sum(group.share for group in here.groups) == pytest.approx(1)
        assert sum(norm**2 for group in here.groups for norm in group.sites.values()) == pytest.approx(here.norm**2)
        alone = tmp_path / "alone.safetensors"
        alone.write_bytes(path.read_bytes())
        assert inspect(alone) == replace(here, path=str(alone), theta0_norm=None)
        assert inspect(solution) == replace(here, path=None, nbytes=None)
        assert "encoder.*.attn.q" in str(here)
        assert "jax" in str(here), "the versions"
        json.dumps(here.to_json())

    @pytest.mark.parametrize("alone", [False, True])
    @pytest.mark.parametrize("spoil", [lambda b: b[:-8], lambda b: b[:-1] + b"~", lambda b: b.replace(b'accuracy', b'accuracx')],
                             ids=["truncated", "altered", "header"])
    def test_a_damaged_file_is_refused(self, bank, tmp_path, refused, spoil, alone):
        whole = bank.file("lora", "c", 0)
        path = tmp_path / "alone.safetensors" if alone else whole
        path.write_bytes(spoil(whole.read_bytes()))
        with refused(path.name):
            inspect(path)

    def test_one_that_is_cut_in_its_header(self, bank, refused):
        path = bank.file("lora", "c", 0)
        path.write_bytes(path.read_bytes()[:20])
        with refused(path.name, "damaged"):
            inspect(path)


class TestWhatIsNothing:
    def test_what_was_looked_for_is_named(self, tmp_path, refused, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        for thing in (tmp_path, tmp_path / "gone", "./gone"):
            with refused("a backbone", "a bank", "a solution's file", str(thing)):
                inspect(thing)

    def test_a_folder_around_a_bank(self, bank, refused):
        with refused("try", str(bank.path)):
            inspect(bank.path.parent)

    def test_other_objects(self, refused):
        with refused("a dict"):
            inspect({})

    def test_a_backbone_that_cannot_be_read(self, tmp_path, refused):
        (tmp_path / "config.json").write_text('{"model_type": "rwkv"}')
        with refused("'rwkv'"):
            inspect(tmp_path)

    def test_types_that_do_not_fit(self, bank, backbone, refused):
        for thing in (bank, bank.path, bank.load("lora", "c", 0)):
            with refused("types for a backbone alone", "lora"):
                inspect(thing, types=[LoRA()])
        with refused("'nowhere'"):
            inspect(backbone, types=[LoRA(sites=("nowhere",))])
        with refused("'lora'", "attached already"):
            inspect(backbone, types=[LoRA(), LoRA()])


def test_how_facts_are_written():
    assert [size(n) for n in (0, 999, 1000, 1_234_567, 5 * 10**9, 3 * 10**12)] == ["0 B", "999 B", "1.0 kB", "1.2 MB", "5.0 GB", "3.0 TB"]
    assert [bar(share, 2) for share in (0, 1 / 16, 0.5, 0.75, 1, 2, float("nan"))] == ["", "▏", "█", "█▌", "██", "██", ""]
    assert heights([0, 1, 2, 4]) == "▁▃▅█"
    assert heights([0, 0]) == "▁▁"
    assert settings(LoRA(label="small", exclude=("encoder.*",))) == "lora rank=8 alpha=16.0 sites=q,v exclude=encoder.*"
