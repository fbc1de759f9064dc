"""`deltaspace convert`: in, out, and what is refused before anything is written."""

import json
import shutil

import numpy as np
import pytest
import toy
import tyro
from deltaspace.convert import Convert
from safetensors.numpy import load_file, save_file

import deltas
from deltas.files import write_json


def convert(*args: object) -> None:
    tyro.cli(Convert, args=[str(arg) for arg in args]).run()


@pytest.fixture(scope="module")
def backbone_folder(tmp_path_factory):
    return toy.write_folder(tmp_path_factory.mktemp("backbone"), **toy.SHALLOW)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A PEFT LoRA on the first layer's queries."""
    folder, rng = tmp_path_factory.mktemp("peft") / "sst2", np.random.default_rng(0)
    base = "base_model.model.encoder.block.0.layer.0.SelfAttention.q"
    folder.mkdir()
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["layer.0.SelfAttention.q"],
                                                "exclude_modules": "decoder.*"})
    save_file({f"{base}.lora_A.weight": rng.standard_normal((2, 16), np.float32),
               f"{base}.lora_B.weight": rng.standard_normal((16, 2), np.float32)}, folder / "adapter_model.safetensors")
    return folder


def test_into_a_bank_and_out_again(adapter, backbone_folder, tmp_path, capsys):
    bank, out = tmp_path / "bank", tmp_path / "out"
    bank.mkdir()
    write_json(bank / "summary.json", {"seconds": {"train": 1.0}, "solutions": {}})
    convert(adapter, "--backbone", backbone_folder, "--out", bank, "--seed", "3")
    assert "64 parameters for sst2" in capsys.readouterr().out
    summary = json.loads((bank / "summary.json").read_text())
    assert summary["solutions"] == {"lora": {"sst2.3": {}}}
    assert summary["seconds"] == {"train": 1.0}  # what training said of its bank
    assert summary["converted"]["type"]["alpha"] == 3
    assert deltas.Bank(bank).load("lora", "sst2", 3).provenance["checkpoint"]["folder"] == str(adapter)
    convert(bank / "solutions" / "lora" / "sst2.3.safetensors", "--backbone", backbone_folder, "--to", "peft", "--out", out)
    old, new = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, out))
    assert {name: value.tobytes() for name, value in new.items()} == {name: value.tobytes() for name, value in old.items()}
    assert json.loads((out / "summary.json").read_text())["peft"]["r"] == 2


def test_of_another_rank_and_name(adapter, backbone_folder, tmp_path):
    """From one folder to another, without a bank between."""
    convert(adapter, "--backbone", backbone_folder, "--to", "peft", "--out", tmp_path / "small", "--rank", "1")
    assert json.loads((tmp_path / "small" / "adapter_config.json").read_text())["r"] == 1
    convert(tmp_path / "small", "--backbone", backbone_folder, "--out", tmp_path / "bank", "--task", "mine", "--label", "small")
    assert deltas.Bank(tmp_path / "bank").pairs(["small"]) == [("mine", 0)]


class TestRefused:
    def test_sources(self, adapter, backbone_folder, tmp_path, refused):
        on = ("--backbone", backbone_folder)
        with refused("gone"):
            convert(tmp_path / "gone", *on, "--out", tmp_path / "bank")
        with refused("adapter_config.json"):
            convert(tmp_path, *on, "--out", tmp_path / "bank")
        with refused("θ0 is in the bank"):
            convert(adapter / "adapter_model.safetensors", *on, "--to", "peft", "--out", tmp_path / "bank")
        assert not (tmp_path / "bank").exists()

    def test_options(self, adapter, backbone_folder, tmp_path, refused):
        on = ("--backbone", backbone_folder)
        with refused("--to peft"):
            convert(adapter, *on, "--out", tmp_path / "bank", "--rank", "2")
        with refused("which is the source"):
            convert(adapter, *on, "--to", "peft", "--out", adapter)
        with refused("give one of them"):
            convert(adapter, *on, "--to", "peft", "--out", tmp_path / "out", "--rank", "2", "--energy", "0.5")
        assert not (tmp_path / "bank").exists()

    def test_a_pickle_and_a_label_taken(self, adapter, backbone_folder, tmp_path, refused):
        on = ("--backbone", backbone_folder, "--out", tmp_path / "bank")
        louder = shutil.copytree(adapter, tmp_path / "louder")
        raw = json.loads((louder / "adapter_config.json").read_text())
        write_json(louder / "adapter_config.json", {**raw, "lora_alpha": 9})
        convert(adapter, *on)
        with refused("alpha", "label"):
            convert(louder, *on)
        (louder / "adapter_model.safetensors").rename(louder / "adapter_model.bin")
        with refused("allow_pickle=True"):
            convert(louder, *on)
