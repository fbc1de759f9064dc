"""What changes the mathematics and is not built is refused by its name, and no tensor is passed over."""

import json
import shutil

import foreign
import jax.numpy as jnp
import numpy as np
import pytest
from foreign import PEFT
from safetensors.flax import save_file as save_jax
from safetensors.numpy import load_file, save_file

import deltas
from deltas.checkpoints import add_to_bank, load_checkpoint, load_peft, read_solution, save_peft
from deltas.types import Adapter, BitFit, Full, LoRA, Prefix

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    root = tmp_path_factory.mktemp("golden")
    return {name: foreign.unpack(packed, root / name, WEIGHTS) for name, packed in foreign.stored("peft_adapters.npz").items()}


@pytest.fixture
def copy(golden, tmp_path):
    """A copy of a stored checkpoint with a changed configuration and changed tensors."""

    def make(name, tensors=None, **changes):
        folder = shutil.copytree(golden[name], tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}")
        raw = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**raw, **changes}))
        if tensors is not None:
            values = load_file(folder / WEIGHTS)
            tensors(values)
            save_file(values, folder / WEIGHTS)
        return folder

    return make


@pytest.fixture
def t5(backbones):
    return backbones(PEFT["t5-lora"])


class TestSwitches:
    @pytest.mark.parametrize("changes", [
        {"modules_to_save": ["classifier"]}, {"bias": "all"}, {"bias": "lora_only"}, {"lora_bias": True}, {"target_parameters": ["w"]},
        {"layer_replication": [[0, 4]]}, {"trainable_token_indices": [1]}, {"use_qalora": True}, {"use_bdlora": {"nblocks": 2}},
        {"kasa_config": {"beta": 1}}, {"monteclora_config": {"num_samples": 2}}, {"arrow_config": {"top_k": 2}},
        {"alora_invocation_tokens": [3]}, {"ensure_weight_tying": True}, {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_4"}, {"init_lora_weights": "olora"}, {"init_lora_weights": "corda"},
        {"init_lora_weights": "loftq"}, {"init_lora_weights": "lora_ga"}, {"init_lora_weights": "brand_new"},
        *({"peft_type": kind} for kind in ("VERA", "RANDLORA", "UNILORA", "TINYLORA", "ADALORA", "P_TUNING", "OFT", "BRAND_NEW")),
    ], ids=str)
    def test_refused_by_name(self, copy, t5, refused, changes):
        (key, value), = changes.items()
        with refused(key, value if isinstance(value, str) else ""):
            load_peft(copy("t5-lora", **changes), t5)

    def test_neutral_ones_are_read(self, copy, t5):
        folder = copy("t5-lora", init_lora_weights="gaussian", lora_dropout=0.3, eva_config={"rho": 2.0}, megatron_config=None, revision="main")
        assert load_peft(folder, t5).config.rank == 3

    def test_unknown_keys_are_said(self, copy, t5):
        with pytest.warns(UserWarning, match="brand_new, newer"):
            load_peft(copy("t5-lora", newer=1, brand_new=None), t5)

    @pytest.mark.parametrize(("changes", "word"), [({"r": 0}, "r"), ({"r": True}, "r"), ({"lora_alpha": "8"}, "lora_alpha"),
                                                   ({"rank_pattern": {"wo": 1.5}}, "rank_pattern"), ({"rank_pattern": {"(": 1}}, "rank_pattern"),
                                                   ({"target_modules": "(q"}, "target_modules"), ({"target_modules": ["nowhere"]}, "nowhere")])
    def test_sizes_and_patterns(self, copy, t5, refused, changes, word):
        drop = (lambda values: values.clear()) if changes == {"target_modules": ["nowhere"]} else None
        with refused(word):
            load_peft(copy("t5-lora", drop, **changes), t5)


class TestTensors:
    def test_all_that_is_odd_is_named(self, copy, t5, refused):
        base = "base_model.model.encoder.block.0.layer.0.SelfAttention.q"

        def spoil(values):
            values[f"{base}.lora_A.weight"] = np.zeros((3, 8), np.float32)
            values["base_model.model.elsewhere.lora_A.weight"] = values.pop(f"{base}.lora_B.weight")
            values["base_model.model.shared.lora_embedding_A"] = np.zeros((3, 64), np.float32)

        with refused(f"{base}.lora_A.weight of shape (3, 8) where (3, 16)", f"no {base}.lora_B.weight",
                     "base_model.model.elsewhere.lora_A.weight, which has no place", "lora_embedding_A"):
            load_peft(copy("t5-lora", spoil), t5)

    def test_dora_without_its_magnitudes_and_the_other_way_round(self, copy, backbones, refused):
        backbone = backbones(PEFT["llama-dora"])
        with refused("lora_magnitude_vector, which has no place"):
            load_peft(copy("llama-dora", use_dora=False), backbone)
        with refused("no base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"):
            load_peft(copy("llama-dora", lambda values: [values.pop(n) for n in list(values) if n.endswith("vector")]), backbone)

    def test_another_model(self, golden, backbones, refused):
        """Names of another family; shapes of another size."""
        lost = [f"base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_{m}.weight, which has no place" for m in "AB"]
        with refused(*lost, "decoder.block.0.layer.2.DenseReluDense.wo.lora_B.weight"):
            load_peft(golden["t5-lora"], backbones(PEFT["bert-rslora"]))
        with refused("lora_A.weight of shape (3, 16)", "lora_B.weight of shape (12, 3) where (8, 3)"):
            load_peft(golden["t5-lora"], backbones(foreign.Case("t5", "", {**foreign.T5, "d_model": 8, "d_kv": 4})))
        with refused("num_layers 1", "token_dim 16", "got 2, 8"):
            load_peft(golden["llama-prefix"], backbones(PEFT["gpt2-prefix"]))


class TestFiles:
    def test_a_pickle(self, copy, t5, refused):
        folder = copy("t5-lora")
        (folder / WEIGHTS).rename(folder / "adapter_model.bin")
        with refused("adapter_model.bin", "allow_pickle=True"):
            load_peft(folder, t5)

    @pytest.mark.parity
    def test_a_pickle_by_leave(self, copy, golden, t5, refused):
        """Weights alone: a pickle that would run code is refused even then."""
        torch = pytest.importorskip("torch")
        folder = copy("t5-lora")
        torch.save({k: torch.tensor(v).to(torch.bfloat16) for k, v in load_file(folder / WEIGHTS).items()}, folder / "adapter_model.bin")
        (folder / WEIGHTS).unlink()
        np.testing.assert_array_equal(load_peft(folder, t5, allow_pickle=True).theta, load_peft(golden["t5-lora"], t5).theta)
        torch.save({"a": pytest.raises}, folder / "adapter_model.bin")
        with refused("adapter_model.bin", "tensors alone"):
            load_peft(folder, t5, allow_pickle=True)

    def test_bfloat16(self, copy, golden, t5):
        folder = copy("t5-lora")
        save_jax({k: jnp.asarray(v, jnp.bfloat16) for k, v in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
        np.testing.assert_array_equal(load_peft(folder, t5).theta, load_peft(golden["t5-lora"], t5).theta)  # sixteenths fit

    @pytest.mark.parametrize("spoil", [lambda data: data[:-40], lambda data: data[:100], lambda data: b""])
    def test_a_truncated_file(self, copy, t5, refused, spoil):
        folder = copy("t5-lora")
        (folder / WEIGHTS).write_bytes(spoil((folder / WEIGHTS).read_bytes()))
        with refused(WEIGHTS):
            load_peft(folder, t5)

    def test_shards(self, copy, golden, t5, refused, tmp_path):
        """Those beside the index are read; a path out of the folder is refused whatever is there."""
        folder = copy("t5-lora")
        values = load_file(folder / WEIGHTS)
        save_file(values, tmp_path / "outside.safetensors")
        (folder / WEIGHTS).unlink()
        names = {"one.safetensors": sorted(values)[::2], "two.safetensors": sorted(values)[1::2]}
        for shard, members in names.items():
            save_file({n: values[n] for n in members}, folder / shard)
        index = folder / f"{WEIGHTS}.index.json"
        index.write_text(json.dumps({"weight_map": {n: shard for shard, members in names.items() for n in members}}))
        np.testing.assert_array_equal(load_peft(folder, t5).theta, load_peft(golden["t5-lora"], t5).theta)
        for path in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "sub/../../outside.safetensors"):
            index.write_text(json.dumps({"weight_map": dict.fromkeys(values, path)}))
            with refused(path, "leads elsewhere"):
                load_peft(folder, t5)

    def test_what_is_no_checkpoint(self, tmp_path, t5, refused):
        with refused("no folder"):
            load_peft(tmp_path / "gone", t5)
        with refused("adapter_config.json"):
            load_peft(tmp_path, t5)
        (tmp_path / "adapter_config.json").write_text("{}")
        with refused("peft_type"):
            load_peft(tmp_path, t5)
        with refused("peft_type or a config"):
            load_checkpoint(tmp_path, t5)
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3", "feedforward_modules": []}')
        with refused(WEIGHTS):
            load_peft(tmp_path, t5)


class TestOut:
    @pytest.mark.parametrize(("config", "words", "options"), [
        (Adapter(bottleneck=2), ("adapter",), {}),
        (Adapter(bottleneck=2), ("change of weights",), {"rank": 2}),
        (Prefix(length=2, start="normal"), ("encoder.0.attn",), {}),
        (Full(sites=("q",)), ("rank or an energy",), {}),
        (BitFit(sites=("q",)), ("decoder.0.attn.q.bias",), {"rank": 2}),
        (Full(), ("encoder_norm.scale", "shared.table"), {"energy": 0.9}),
        (LoRA(rank=2), ("give one of them",), {"rank": 1, "energy": 0.5}),
        (LoRA(rank=2), ("rank of at least 1",), {"rank": 0}),
        (LoRA(rank=2), ("energy above 0",), {"energy": 1.5}),
    ])
    def test_what_has_no_form_there(self, t5, refused, tmp_path, config, words, options):
        start = deltas.Attached.of(t5, config)
        vector = np.ones(start.layout.size, np.float32)
        solution = deltas.Solution(task="t", seed=0, config=config, layout=start.layout, vector=vector, theta0=start.theta0,
                                   backbone=t5.fingerprint, theta0_fingerprint=start.theta0_fingerprint)
        with refused(*words):
            save_peft(solution, tmp_path / "out", t5, **options)
        assert not (tmp_path / "out").exists()

    def test_a_prefix_that_peft_would_shift_or_share(self, backbones, golden, refused, tmp_path):
        gpt2 = backbones(PEFT["gpt2-prefix"])
        start = deltas.Attached.of(gpt2, Prefix(length=2, start="normal"))
        solution = deltas.Solution(task="t", seed=0, config=start.config, layout=start.layout, vector=start.theta0, theta0=start.theta0,
                                   backbone=gpt2.fingerprint, theta0_fingerprint=start.theta0_fingerprint)
        with refused("shift=True"):
            save_peft(solution, tmp_path / "out", gpt2)
        case = PEFT["t5-prefix-even"]
        with pytest.warns(UserWarning, match="no layer"):
            shared = load_peft(golden["t5-prefix-even"], backbones(case))
        vector = np.array(shared.vector)
        vector[0] += 1
        apart = deltas.Solution(**{**vars(shared), "vector": vector})
        with refused("decoder.0.attn and decoder.1.attn"):
            save_peft(apart, tmp_path / "out", backbones(case))

    def test_another_backbone(self, golden, backbones, t5, refused, tmp_path):
        solution = load_peft(golden["t5-lora"], t5)
        other = backbones(foreign.Case("t5", "", {**foreign.T5, "d_ff": 32}))
        with refused("another"):
            save_peft(solution, tmp_path / "out", other)


class TestBank:
    def test_one_label_is_one_configuration(self, copy, golden, t5, refused, tmp_path):
        """Equal layouts with another scale are other functions: they do not share a label."""
        bank = deltas.Bank(tmp_path / "bank", create=True)
        add_to_bank(bank, load_peft(golden["t5-lora"], t5, task="a"), t5)
        louder = copy("t5-lora", lora_alpha=6)
        with refused("alpha", "label"):
            add_to_bank(bank, load_peft(louder, t5, task="b"), t5)
        add_to_bank(bank, load_peft(louder, t5, task="b", label="louder"), t5)
        assert bank.labels() == ["lora", "louder"]

    def test_a_solution_outside_a_bank(self, tmp_path, refused):
        (tmp_path / "task.0.safetensors").write_bytes(b"")
        with refused("θ0 is in the bank"):
            read_solution(tmp_path / "task.0.safetensors")
