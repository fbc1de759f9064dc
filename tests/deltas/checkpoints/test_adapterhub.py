"""AdapterHub's checkpoints compute here what the library computes; a flag that makes another function is refused by its name."""

import json
import os
import shutil

import foreign
import numpy as np
import pytest
from foreign import ADAPTERHUB
from safetensors.numpy import load_file, save_file

from deltas.checkpoints import load_adapterhub

FILE, WEIGHTS = "adapterhub_adapters.npz", "adapter.safetensors"
PYTHON = os.environ.get("DELTASPACE_ADAPTERS_PYTHON")


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """Case → its checkpoint and the library's logits, as they were stored."""
    if foreign.REGENERATE and PYTHON:
        made = foreign.make_adapterhub(ADAPTERHUB, tmp_path_factory.mktemp("made"), PYTHON)
        foreign.store(FILE, {name: foreign.pack(folder, WEIGHTS, logits, plain) for name, (folder, logits, plain) in made.items()})
    root = tmp_path_factory.mktemp("golden")
    return {name: (foreign.unpack(packed, root / name, WEIGHTS), packed["logits"]) for name, packed in foreign.stored(FILE).items()}


@pytest.mark.parametrize("name", ADAPTERHUB)
def test_stored(name, golden, backbones):
    case, (folder, theirs) = ADAPTERHUB[name], golden[name]
    backbone = backbones(case)
    foreign.agree(case.kind, foreign.logits(backbone, load_adapterhub(folder, backbone)), theirs)


@pytest.mark.parity
@pytest.mark.skipif(not PYTHON, reason="needs the path of a Python with adapters in DELTASPACE_ADAPTERS_PYTHON")
def test_live(backbones, tmp_path):
    """Pickles as the library writes them, weights alone."""
    cases = {name: ADAPTERHUB[name] for name in ("bert-pfeiffer", "t5-houlsby", "bert-prefix")}
    for name, (folder, theirs, _) in foreign.make_adapterhub(cases, tmp_path, PYTHON).items():
        (folder / WEIGHTS).unlink()
        backbone = backbones(cases[name])
        solution = load_adapterhub(folder, backbone, allow_pickle=True)
        foreign.agree(cases[name].kind, foreign.logits(backbone, solution), theirs)


class Changed:
    """A copy of a stored checkpoint that can be altered."""

    def __init__(self, folder, to):
        self.folder = shutil.copytree(folder, to)

    def config(self, **changes):
        """The same with other flags; those of the whole file by `top`."""
        path = self.folder / "adapter_config.json"
        raw = json.loads(path.read_text())
        raw |= changes.pop("top", {})
        raw["config"] |= changes
        path.write_text(json.dumps(raw))
        return self.folder

    def tensors(self, change):
        """The same with other tensors."""
        values = load_file(self.folder / WEIGHTS)
        save_file(change(values) or values, self.folder / WEIGHTS)
        return self.folder


@pytest.fixture
def changed(golden, tmp_path):
    return lambda name: Changed(golden[name][0], tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}")


class TestRefused:
    @pytest.mark.parametrize(("name", "flags"), [
        ("bert-pfeiffer", {"ln_before": True}), ("bert-pfeiffer", {"ln_after": True}), ("bert-pfeiffer", {"use_gating": True}),
        ("bert-pfeiffer", {"phm_layer": True}), ("bert-pfeiffer", {"inv_adapter": "nice"}), ("bert-pfeiffer", {"original_ln_after": False}),
        ("bert-pfeiffer", {"residual_before_ln": False}), ("bert-pfeiffer", {"residual_before_ln": "post_add"}),
        ("bert-pfeiffer", {"non_linearity": "leakyrelu"}), ("bert-pfeiffer", {"scaling": "learned"}),
        ("bert-pfeiffer", {"reduction_factor": {"0": 2, "default": 4}}), ("t5-pfeiffer", {"is_parallel": True}),
        ("bert-lora", {"use_gating": True}), ("bert-lora", {"use_dora": True}), ("bert-lora", {"composition_mode": "scale"}),
        ("bert-lora", {"vera_d": 0.1}), ("bert-lora", {"attn_matrices": ["q", "o"]}), ("bert-prefix", {"use_gating": True}),
        ("bert-prefix", {"non_linearity": "gelu"}), ("bert-lora", {"architecture": "reft"}),
    ], ids=str)
    def test_flags(self, changed, backbones, refused, name, flags):
        with refused(next(iter(flags))):
            load_adapterhub(changed(name).config(**flags), backbones(ADAPTERHUB[name]))

    def test_a_prefix_with_relative_positions(self, changed, backbones, refused):
        """There the library moves keys against queries, so that no rows of ours do the same."""
        with refused("relative positions", "t5"):
            load_adapterhub(changed("bart-prefix-flat").folder, backbones(ADAPTERHUB["t5-lora"]))

    def test_unknown_keys_are_said(self, changed, backbones):
        with pytest.warns(UserWarning, match="brand_new"):
            load_adapterhub(changed("bert-pfeiffer").config(brand_new=1), backbones(ADAPTERHUB["bert-pfeiffer"]))

    def test_a_head(self, changed, backbones, refused):
        folder = changed("bert-pfeiffer").folder
        (folder / "head_config.json").write_text("{}")
        with refused("head_config.json", "without_head=True"):
            load_adapterhub(folder, backbones(ADAPTERHUB["bert-pfeiffer"]))
        assert load_adapterhub(folder, backbones(ADAPTERHUB["bert-pfeiffer"]), without_head=True).task == "mine"

    def test_a_pickle(self, changed, backbones, refused):
        folder = changed("bert-pfeiffer").folder
        (folder / WEIGHTS).rename(folder / "pytorch_adapter.bin")
        with refused("pytorch_adapter.bin", "allow_pickle=True"):
            load_adapterhub(folder, backbones(ADAPTERHUB["bert-pfeiffer"]))

    def test_every_odd_tensor_is_named(self, changed, backbones, refused):
        ends = ("adapter_down.0.weight", "adapter_up.weight", "adapter_up.bias")
        down, up, bias = (f"encoder.layer.0.output.adapters.mine.{end}" for end in ends)

        def spoil(values):
            values["elsewhere.weight"] = values.pop(f"bert.{down}")
            values[f"bert.{up}"] = np.zeros((5, 4), np.float32)
            del values[f"bert.{bias}"]

        with refused(f"no {down}", f"{up} of shape (5, 4)", f"no {bias}", "elsewhere.weight"):
            load_adapterhub(changed("bert-pfeiffer").tensors(spoil), backbones(ADAPTERHUB["bert-pfeiffer"]))

    def test_copies_of_a_prefix_that_differ(self, changed, backbones, refused):
        def spoil(values):
            copy = next(name for name in values if ".pool." in name)
            values[copy] = values[copy] + 1

        with refused("differs from prefix_tuning.prefix_tunings.mine"):
            load_adapterhub(changed("bert-prefix-flat").tensors(spoil), backbones(ADAPTERHUB["bert-prefix-flat"]))

    def test_another_family(self, changed, backbones, refused):
        with refused("no encoder.block.0.layer.1.adapters.mine.adapter_down.0.weight", "encoder.layer.0.output.adapters.mine.adapter_up.bias"):
            load_adapterhub(changed("bert-pfeiffer").folder, backbones(ADAPTERHUB["t5-pfeiffer"]))


class TestNames:
    @pytest.mark.parametrize(("name", "old", "new"), [("t5-houlsby", "", "transformer."), ("bert-pfeiffer", "bert.", "")])
    def test_of_other_classes(self, changed, golden, backbones, name, old, new):
        """A T5 with flexible heads puts a prefix before every name; a BERT without a head leaves its own out."""
        backbone = backbones(ADAPTERHUB[name])
        folder = changed(name).tensors(lambda values: {new + key.removeprefix(old): value for key, value in values.items()})
        np.testing.assert_array_equal(load_adapterhub(folder, backbone).theta, load_adapterhub(golden[name][0], backbone).theta)


class TestVersions:
    def test_the_scale_of_old_loras(self, changed, backbones, refused):
        """Before 1.1.0 the library divided by nothing: their scale was 1."""
        backbone = backbones(ADAPTERHUB["bert-lora"])
        assert load_adapterhub(changed("bert-lora").folder, backbone).config.alpha == 5
        assert load_adapterhub(changed("bert-lora").config(top={"version": "adapters.1.0.1"}), backbone).config.alpha == 2
        with refused("version", "'3.2.1'"):
            load_adapterhub(changed("bert-lora").config(top={"version": "3.2.1"}), backbone)

    def test_the_names_of_activations_before_versions(self, changed, backbones):
        adapter = changed("bert-pfeiffer")
        raw = json.loads((adapter.folder / "adapter_config.json").read_text())
        del raw["version"]
        (adapter.folder / "adapter_config.json").write_text(json.dumps(raw))
        assert load_adapterhub(adapter.folder, backbones(ADAPTERHUB["bert-pfeiffer"])).config.act == "gelu_new"
