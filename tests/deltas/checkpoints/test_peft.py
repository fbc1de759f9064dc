"""PEFT's checkpoints compute here what PEFT computes, and come back as they were."""

import json
import warnings

import foreign
import numpy as np
import pytest
from foreign import PEFT
from safetensors.numpy import load_file, save_file

import deltas
from deltas.checkpoints import add_to_bank, load_peft, save_peft

FILE, WEIGHTS = "peft_adapters.npz", "adapter_model.safetensors"
UNREAD = ("t5-prefix-even", "t5-prompt", "bart-prompt")
"""Of which PEFT saves rows that it never reads."""


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """Case → its checkpoint and PEFT's logits, as they were stored."""
    if foreign.REGENERATE:
        made = {}
        for name, case in PEFT.items():
            folder = tmp_path_factory.mktemp("made") / name
            made[name] = foreign.pack(folder, WEIGHTS, *foreign.make_peft(case, folder))
        foreign.store(FILE, made)
    root = tmp_path_factory.mktemp("golden")
    return {name: (foreign.unpack(packed, root / name, WEIGHTS), packed["logits"]) for name, packed in foreign.stored(FILE).items()}


def read(name, folder, backbone, **options):
    """The solution; PEFT's unread rows are said once."""
    if name in UNREAD:
        with pytest.warns(UserWarning, match="never read|no layer"):
            return load_peft(folder, backbone, **options)
    return load_peft(folder, backbone, **options)


@pytest.mark.parametrize("name", PEFT)
def test_stored(name, golden, backbones, tmp_path):
    """The same logits; and through a bank and out again, the same tensors to the bit."""
    case, (folder, theirs) = PEFT[name], golden[name]
    backbone = backbones(case)
    solution = read(name, folder, backbone, task="a task/with a slash")
    foreign.agree(case.kind, foreign.logits(backbone, solution), theirs)
    bank = deltas.Bank(tmp_path / "bank", create=True)
    add_to_bank(bank, solution, backbone)
    back = bank.load(solution.label, "a task/with a slash", 0)
    save_peft(back, tmp_path / "out", backbone)
    old, new = load_file(folder / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    if name in UNREAD:  # what is read is the same
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            np.testing.assert_array_equal(load_peft(tmp_path / "out", backbone).theta, solution.theta)
        return
    assert set(new) == set(old)
    for key, value in old.items():
        if name.endswith("norms"):  # copies, made of the backbone and a difference: one rounding
            np.testing.assert_allclose(new[key], value, rtol=2e-7)
        else:
            assert new[key].tobytes() == value.tobytes(), key
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["peft_type"] == json.loads((folder / "adapter_config.json").read_text())["peft_type"]


def test_names_without_a_head(golden, backbones, tmp_path):
    """A checkpoint of the model without its head leaves the base prefix out, here and on the way back."""
    folder, backbone = golden["gpt2-lora"][0], backbones(PEFT["gpt2-lora"])
    bare = tmp_path / "bare"
    bare.mkdir()
    tensors = {key.replace(".transformer.", "."): value for key, value in load_file(folder / WEIGHTS).items()}
    save_file(tensors, bare / WEIGHTS)
    (bare / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    solution = load_peft(bare, backbone)
    np.testing.assert_array_equal(solution.theta, load_peft(folder, backbone).theta)
    save_peft(solution, tmp_path / "out", backbone)
    assert set(load_file(tmp_path / "out" / WEIGHTS)) == set(tensors)


def test_a_minus_zero_comes_back(golden, backbones, tmp_path):
    """The identity is one of bits."""
    folder, backbone = golden["t5-lora"][0], backbones(PEFT["t5-lora"])
    minus = tmp_path / "minus"
    minus.mkdir()
    tensors = {key: np.full_like(value, -0.0) for key, value in load_file(folder / WEIGHTS).items()}
    save_file(tensors, minus / WEIGHTS)
    (minus / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    save_peft(load_peft(minus, backbone), tmp_path / "out", backbone)
    assert all(np.all(np.signbit(value)) for value in load_file(tmp_path / "out" / WEIGHTS).values())
