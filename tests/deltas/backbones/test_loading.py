"""Hugging Face folders: what is read, and every way in which one can be bad."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

from deltas import load_backbone
from deltas.backbones import t5
from deltas.backbones.loading import weight_files


def leaves(backbone):
    return {".".join(map(str, p)): np.asarray(v[...]) for p, v in nnx.to_flat_state(nnx.state(backbone.module))}


@pytest.fixture(scope="module")
def inputs(batch):
    return {**batch, "decoder_input_ids": np.pad(batch["target_ids"], ((0, 0), (1, 0)))[:, :-1]}


@pytest.fixture
def broken(folder, tmp_path):
    """A copy of the good folder, to be spoiled."""
    return shutil.copytree(folder, tmp_path / "broken")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_weight_of_the_file_is_at_its_place(folder, backbone):
    names, ours = t5.names(backbone.config), leaves(backbone)
    assert sorted(names.values()) == sorted(ours)
    for theirs, tensor in toy.weights(backbone.config).items():
        np.testing.assert_array_equal(ours[names[theirs]], tensor.T if names[theirs].endswith("kernel") else tensor)


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_equal_a_single_file(backbone, tmp_path, shards):
    sharded = load_backbone(toy.write_folder(tmp_path, shards=shards, **toy.SHALLOW))
    jax.tree.map(np.testing.assert_array_equal, leaves(sharded), leaves(backbone))
    assert sharded.fingerprint == backbone.fingerprint


def test_the_fingerprint_follows_the_weights(backbone, folder, tmp_path):
    assert load_backbone(folder).fingerprint == backbone.fingerprint
    tensors = toy.weights(backbone.config)
    tensors["encoder.block.0.layer.0.SelfAttention.q.weight"][3, 5] += 1e-3
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    toy.write_weights(tmp_path, tensors)
    assert load_backbone(tmp_path).fingerprint != backbone.fingerprint


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_low_precision_files_load_in_float32(backbone, tmp_path, stored):
    loaded = leaves(load_backbone(toy.write_folder(tmp_path, dtype=stored, **toy.SHALLOW)))
    for name, value in leaves(backbone).items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_array_equal(loaded[name], np.asarray(jnp.asarray(value, stored), np.float32))


def test_bfloat16_is_close(folder, backbone, inputs):
    half = load_backbone(folder, dtype="bfloat16")
    assert {v.dtype for v in leaves(half).values()} == {jnp.dtype("bfloat16")}
    ours, theirs = half.logits(inputs), backbone.logits(inputs)
    assert ours.dtype == jnp.float32
    assert np.corrcoef(np.ravel(ours), np.ravel(theirs))[0, 1] > 0.999


def test_the_head_is_tied_where_the_file_has_none():
    raw = toy.config_json(tie_word_embeddings=True)
    assert t5.config(raw).tied
    untied = t5.config(raw, frozenset({"shared.weight", "lm_head.weight"}))
    assert not untied.tied
    assert untied.scaled  # the scaling is version 1.0's, whatever the head
    tied = t5.config(toy.config_json(), frozenset({"shared.weight"}))
    assert tied.tied
    assert not tied.scaled


@pytest.mark.parametrize(("projection", "act", "gated"), [("relu", "relu", False), ("gated-gelu", "gelu_new", True),
                                                          ("gelu", "gelu", False), ("gated-silu", "silu", True)])
def test_feed_forward(projection, act, gated):
    config = toy.config_of(feed_forward_proj=projection)
    assert (config.act, config.gated) == (act, gated)


def test_copies_of_the_embedding_in_old_files_are_ignored(folder, backbone, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = toy.weights(backbone.config)
    toy.write_weights(tmp_path, tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"]})
    assert load_backbone(tmp_path).fingerprint == backbone.fingerprint


# ------------------------------------------------------------------ refusals
def test_no_folder(refused, tmp_path):
    with refused("nowhere"):
        load_backbone(tmp_path / "nowhere")
    with refused("config.json"):
        load_backbone(tmp_path)
    (tmp_path / "file").write_text("")
    with refused("file"):
        load_backbone(tmp_path / "file")


def test_bad_config(refused, broken, tmp_path):
    change_config(broken, model_type="mamba")
    with refused("mamba", "t5"):
        load_backbone(broken)
    change_config(broken, model_type="t5", feed_forward_proj="tanh")
    with refused("tanh"):
        load_backbone(broken)
    change_config(broken, feed_forward_proj="gated-gelu", d_ff=None)
    with refused("d_ff"):
        load_backbone(broken)
    for text in ("{", "[]"):
        (broken / "config.json").write_text(text)
        with refused("config.json"):
            load_backbone(broken)


def test_unknown_dtype(refused, folder):
    with refused("float64"):
        load_backbone(folder, dtype="float64")


def test_no_safetensors(refused, broken):
    (broken / "model.safetensors").unlink()
    with refused("model.safetensors.index.json", "neither"):
        load_backbone(broken)
    (broken / "pytorch_model.bin").write_bytes(b"")
    with refused("pytorch_model.bin", "pickle"):
        load_backbone(broken)


@pytest.mark.parametrize("spoil", ["missing", "unknown", "shape"])
def test_tensors_that_do_not_fit_the_config(refused, broken, backbone, spoil):
    tensors, name = toy.weights(backbone.config), "decoder.block.0.layer.2.DenseReluDense.wo.weight"
    if spoil == "missing":
        del tensors[name]
    elif spoil == "unknown":
        name = "decoder.block.9.layer.0.layer_norm.weight"
        tensors[name] = np.ones(16, np.float32)
    else:
        tensors[name] = tensors[name][:, :-1]
    toy.write_weights(broken, tensors)
    with refused(name, *(["(16, 24)", "(16, 23)"] if spoil == "shape" else [])):
        load_backbone(broken)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_truncated_file(refused, broken, share):
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with refused("model.safetensors", "download"):
        load_backbone(broken)


def test_bad_shards(refused, tmp_path):
    toy.write_folder(tmp_path, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    assert len(set(weight_files(tmp_path).values())) == 2
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with refused("model-00002-of-00002.safetensors"):
        load_backbone(tmp_path)
    for outside in ("../model.safetensors", "/model.safetensors", "inner/model.safetensors"):
        index.write_text(json.dumps({"weight_map": {"shared.weight": outside}}))
        with refused(repr(outside), "leads elsewhere"):
            load_backbone(tmp_path)
    index.write_text("{}")
    with refused("weight_map"):
        load_backbone(tmp_path)


def test_no_tokenizer(refused, broken):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).unlink()
    with refused("tokenizer", str(broken)):
        load_backbone(broken)
