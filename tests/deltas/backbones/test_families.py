"""What families other than T5 add: how their configurations are read, which switches are refused, and the ways their files are saved."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

from deltas import load_backbone
from deltas.backbones.blocks import Rotary
from deltas.backbones.loading import FAMILIES

ONE = {"bart": {"encoder_layers": 1}, "gpt2": {"n_layer": 1}, "t5": toy.SHALLOW}
KINDS: dict[str, tuple[str, dict]] = {
    **{kind: (kind, ONE.get(kind, {"num_hidden_layers": 1})) for kind in FAMILIES},
    "headless": ("bert", {"num_hidden_layers": 1, toy.HEADLESS: True}),
}
FINGERPRINTS = {"v1.0": "0d96ef56e852c82a", "v1.1": "2d5824783f13105f", "flan": "e9eb8ff308c80642"}
"""Those of the toys before there were other families: banks carry them."""
BATCH = {"input_ids": np.array([[5, 9, 33, 7], [60, 3, 0, 0]]), "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 0, 0]]),
         "decoder_input_ids": np.array([[0, 7, 21], [0, 40, 8]])}


def leaves(backbone):
    return {".".join(map(str, p)): np.asarray(v[...]) for p, v in nnx.to_flat_state(nnx.state(backbone.module))}


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, leaves(one), leaves(other))
    assert one.fingerprint == other.fingerprint
    assert one.config == other.config


@pytest.fixture(scope="module", params=list(KINDS))
def loaded(request, tmp_path_factory):
    """(kind, changes, folder, backbone) of a family's toy of one layer."""
    kind, changes = KINDS[request.param]
    folder = toy.write_folder(tmp_path_factory.mktemp(request.param), kind, **changes)
    return kind, changes, folder, load_backbone(folder)


def write(folder, kind, tensors, shards=1, **changes):
    """A folder with these tensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(toy.config_json(kind, **changes)))
    toy.write_tokenizer(folder, kind)
    toy.write_weights(folder, tensors, shards=shards)
    return folder


# ------------------------------------------------------------------ the files of a family
def test_every_weight_is_at_its_place(loaded):
    kind, changes, _, backbone = loaded
    ours, names = leaves(backbone), FAMILIES[kind].names(backbone.config)
    for theirs, tensor in toy.weights(toy.config_of(kind, **changes), 0, kind).items():
        paths = (names[theirs],) if isinstance(names[theirs], str) else names[theirs]
        whole = np.concatenate([ours.pop(path) for path in paths], axis=-1)
        turned = paths[0].endswith("kernel") and FAMILIES[kind].transposed
        np.testing.assert_array_equal(whole, tensor.T if turned else tensor.reshape(whole.shape))
    assert not ours


def test_shards_and_the_prefix_of_the_base_change_nothing(loaded, tmp_path):
    """Saved with or without its head's prefix, in one file or in three."""
    kind, changes, _, backbone = loaded
    bare = toy.weights(toy.config_of(kind, **changes), 0, kind)
    named = {toy.saved_name(kind, name): value for name, value in bare.items()}
    assert (set(named) != set(bare)) is bool(FAMILIES[kind].prefix)
    equal(load_backbone(write(tmp_path / "bare", kind, bare, shards=3, **changes)), backbone)
    equal(load_backbone(write(tmp_path / "named", kind, named, shards=3, **changes)), backbone)


def test_bfloat16_computes_and_is_near(loaded):
    *_, folder, backbone = loaded
    half = load_backbone(folder, dtype="bfloat16")
    assert {v.dtype for v in leaves(half).values()} == {jnp.dtype("bfloat16")}
    assert half.fingerprint == backbone.fingerprint
    given, expected = half.logits(BATCH), np.asarray(backbone.logits(BATCH))
    assert given.dtype == jnp.float32
    seen = BATCH["attention_mask"] > 0 if backbone.kind != "encoder-decoder" else np.ones((2, 3), bool)
    error = np.asarray(given)[seen] - expected[seen]
    assert np.abs(error).max() > 0
    assert np.sqrt(np.mean(error**2)) < 0.03 * np.std(expected[seen])


def test_copies_of_tied_tensors_must_be_copies(loaded, tmp_path, refused):
    kind, _, folder, backbone = loaded
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = toy.weights(backbone.config, 0, kind)
    known = {copy: whole for copy, whole in FAMILIES[kind].copies.items() if whole in tensors and copy not in tensors}
    toy.write_weights(tmp_path, tensors | {copy: tensors[whole] for copy, whole in known.items()})
    equal(load_backbone(tmp_path), backbone)
    for copy, whole in known.items():
        toy.write_weights(tmp_path, tensors | {copy: tensors[whole] + 1e-3})
        with refused(copy):
            load_backbone(tmp_path)


def test_one_tensor_under_two_names(tmp_path, refused):
    tensors = toy.weights(toy.config_of("gpt2"), 0, "gpt2")
    with refused("wte.weight", "transformer.wte.weight"):
        load_backbone(write(tmp_path, "gpt2", tensors | {"transformer.wte.weight": tensors["wte.weight"]}))


@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_a_head_of_its_own_must_be_there(kind, tmp_path, refused):
    """The base of a model whose head is not tied has none that could write."""
    tensors = toy.weights(toy.config_of(kind, tie_word_embeddings=True), 0, kind)
    with refused("lm_head.weight"):
        load_backbone(write(tmp_path, kind, tensors, tie_word_embeddings=False))


@pytest.mark.parametrize("loaded", ["bert", "headless"], indirect=True)
def test_what_only_pretraining_used_is_left_out(loaded, tmp_path):
    kind, changes, _, backbone = loaded
    assert backbone.config.masked_head is (toy.HEADLESS not in changes)
    tensors = toy.weights(backbone.config, 0, kind)
    more = {"pooler.dense.weight": np.ones((16, 16)), "pooler.dense.bias": np.ones(16), "embeddings.position_ids": np.arange(64)[None]}
    equal(load_backbone(write(tmp_path, kind, tensors | more, **changes)), backbone)


@pytest.mark.parametrize("version", list(FINGERPRINTS))
def test_fingerprints_stay(version, tmp_path):
    assert load_backbone(toy.write_folder(tmp_path, **toy.FAMILY[version])).fingerprint == FINGERPRINTS[version]


@pytest.mark.parity
def test_a_folder_that_transformers_saved(loaded, tmp_path):
    kind, changes, _, backbone = loaded
    pytest.importorskip("torch")
    toy.original(kind, **changes).save_pretrained(tmp_path)
    toy.write_tokenizer(tmp_path, kind)
    equal(load_backbone(tmp_path), backbone)


# ------------------------------------------------------------------ configurations
def test_what_a_configuration_leaves_out_is_what_transformers_takes():
    """A config.json with only the sizes, and the same as transformers fills it up, are read alike."""
    import transformers

    sizes = {"t5": ("d_kv",), "bart": ("encoder", "decoder"), "gpt2": ("n_",)}
    for kind in FAMILIES:
        full = {name: value for name, value in toy.config_json(kind).items() if name not in ("n_inner", "rope_parameters")}
        kept = ("vocab", "d_model", "d_ff", "num_layers", "hidden_size", "num_hidden", "num_attention", "num_heads", "intermediate", "max_pos")
        small = {name: value for name, value in full.items() if name.startswith((*kept, *sizes.get(kind, ())))} | {"model_type": kind}
        small.pop("decoder_start_token_id", None)
        if kind in ("mistral", "qwen2"):  # their own number of heads of keys and values is larger than a toy's
            small |= {"num_attention_heads": 32, "hidden_size": 64}
        filled = transformers.CONFIG_MAPPING[kind](**{k: v for k, v in small.items() if k != "model_type"}).to_dict()
        ours, theirs = (FAMILIES[kind].config(raw, frozenset({"lm_head.weight"} if kind in ("llama", "mistral", "qwen2") else ()))
                        for raw in (small, filled))
        assert ours == theirs, kind


@pytest.mark.parametrize(("kind", "changes"), [
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}), ("gpt2", {"scale_attn_weights": False}), ("gpt2", {"add_cross_attention": True}),
    ("gpt2", {"tie_word_embeddings": False}), ("gpt2", {"activation_function": "quick_gelu"}), ("gpt2", {"n_head": None}),
    ("llama", {"attention_bias": True}), ("llama", {"mlp_bias": True}), ("llama", {"pretraining_tp": 2}),
    ("llama", {"num_key_value_heads": 3}), ("llama", {"hidden_act": "relu2"}), ("llama", {"hidden_size": 18}),
    ("mistral", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    ("bert", {"position_embedding_type": "relative_key"}), ("bert", {"is_decoder": True}), ("bert", {"add_cross_attention": True}),
    ("bert", {"tie_word_embeddings": False}), ("roberta", {"position_embedding_type": "relative_key_query"}), ("roberta", {"hidden_size": 15}),
    ("bart", {"decoder_attention_heads": 4}), ("bart", {"decoder_ffn_dim": 32}), ("bart", {"normalize_before": True}),
    ("bart", {"static_position_embeddings": True}), ("bart", {"is_decoder": True}), ("t5", {"is_decoder": True}),
    ("t5", {"num_decoder_layers": 0}),
])
def test_a_switch_that_changes_the_mathematics_is_refused_by_name(kind, changes, refused):
    said = {"num_key_value_heads": "num_key_value_heads", "layer_types": "layer_types", "use_sliding_window": "layer_types",
            "hidden_size": "hidden size"}
    first = next(iter(changes))
    with refused(said.get(first, first)):
        FAMILIES[kind].config(toy.config_json(kind, **changes), frozenset())


@pytest.mark.parametrize(("rope", "words"), [
    ({"rope_type": "yarn", "factor": 2.0}, ("rope_type", "yarn", "llama3")), ({"type": "dynamic", "factor": 2.0}, ("rope_type", "dynamic")),
    ({"rope_type": "longrope"}, ("longrope",)), ({"rope_type": "linear"}, ("factor", "linear")),
    ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}, ("high_freq_factor", "original_max_position_embeddings")),
    ({"rope_type": "default", "partial_rotary_factor": 0.5}, ("partial_rotary_factor",)),
])
@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
def test_rotary_positions_that_are_not_built(field, rope, words, refused):
    with refused(*words):
        FAMILIES["llama"].config({**toy.config_json("llama", rope_parameters=None), field: rope}, frozenset())


@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(("rope", "expected"), [
    ({}, Rotary(500.0)), ({"type": "linear", "factor": 3.0}, Rotary(500.0, 3.0)), ({"rope_type": "default"}, Rotary(500.0)),
    ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
     Rotary(500.0, 8.0, 32, 1.0, 4.0))])
def test_rotary_positions_in_older_and_newer_form(field, rope, expected):
    """The base stands beside the scaling in older files, within it in newer ones."""
    raw = toy.config_json("llama", rope_parameters=None)
    raw |= {field: rope, "rope_theta": 500.0} if field == "rope_scaling" else {field: {**rope, "rope_theta": 500.0}}
    assert FAMILIES["llama"].config(raw, frozenset()).rotary == expected


@pytest.mark.parametrize(("kind", "changes", "window"), [
    ("mistral", {}, 4), ("mistral", {"sliding_window": None}, None), ("llama", {"sliding_window": 4}, None),
    ("qwen2", {"sliding_window": 4}, None),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, 4),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}, None),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention"] * 2}, 4)])
def test_how_far_back_a_decoder_sees(kind, changes, window):
    assert FAMILIES[kind].config(toy.config_json(kind, **changes), frozenset()).window == window


def test_several_tokens_may_end_an_answer():
    """The first is the one that is trained on."""
    config = FAMILIES["llama"].config(toy.config_json("llama", eos_token_id=[7, 9, 1], pad_token_id=None), frozenset())
    assert (config.eos_token_id, config.other_ends, config.pad_token_id) == (7, (9, 1), 7)


def test_scaling_of_a_t5_that_was_saved_anew():
    """transformers 5 calls every T5 tied, and keeps apart whether the output is scaled."""
    assert not FAMILIES["t5"].config(toy.config_json(tie_word_embeddings=True, scale_decoder_outputs=False), frozenset()).scaled
    assert FAMILIES["t5"].config(toy.config_json(tie_word_embeddings=True), frozenset()).scaled


def test_a_family_that_is_not_known(tmp_path, refused):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlnet"}))
    with refused("xlnet", *FAMILIES):
        load_backbone(tmp_path)


@pytest.mark.parametrize("kind", ["bart", "bert", "roberta", "gpt2"])
def test_more_tokens_than_positions_are_refused(kind, tmp_path, refused):
    """An index beyond the table would silently read its last row."""
    rows = 12
    field = "n_positions" if kind == "gpt2" else "max_position_embeddings"
    backbone = load_backbone(toy.write_folder(tmp_path, kind, **{field: rows, **KINDS[kind][1]}))
    room = rows - (kind == "roberta")

    def shapes(inputs, outputs=2):
        wide = {"input_ids": np.ones((1, inputs), int), "attention_mask": np.ones((1, inputs), int)}
        return jax.eval_shape(backbone.logits, {**wide, "decoder_input_ids": np.ones((1, outputs), int)}).shape[1]

    assert shapes(room) == (2 if kind == "bart" else room)
    with refused(str(room), str(room + 1)):
        shapes(room + 1)
    if kind == "bart":
        with refused("decoder", str(room)):
            shapes(3, room + 1)
    if kind == "gpt2":  # the last token of the prompt is the first that an answer is written from
        ones = {n: jnp.ones((1, n), int) for n in (8, 5, 6)}

        def written(answer):
            module = backbone.module
            return jax.eval_shape(lambda ids, new: module.decode(new, module.encode(ids, ids), ids), ones[8], ones[answer]).shape[1]

        assert written(5) == 5
        with refused("decoder", str(room)):
            written(6)
