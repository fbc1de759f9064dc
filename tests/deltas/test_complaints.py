"""What users of OpenDelta complain of, a test each."""

import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from deltaspace.support import FAMILIES
from flax import nnx
from one_layer import backbone_of, batch_for, compiled
from safetensors.numpy import save_file

import deltas
from deltas import IA3, Adapter, Attached, Bank, BitFit, Delta, LoRA, Prefix, Solution, Together
from deltas.attach import attach, belongs_to, detach, merge, own, parameter_name, sites, unmerge
from deltas.backbones import blocks, loading
from deltas.backbones.transformer import Transformer
from deltas.bank import checksum
from deltas.functional import no_probe

SEVERAL = (LoRA(rank=2), Adapter(bottleneck=3), Prefix(length=2, start="normal"), BitFit(), IA3())


def shaken(one: Attached, seed: int = 0) -> np.ndarray:
    """A θ far from θ0."""
    return one.theta0 + 0.3 * np.random.default_rng(seed).standard_normal(one.layout.size).astype(np.float32)


def solution(one: Attached) -> Solution:
    return Solution(task="a task/with a name", seed=3, config=one.config, layout=one.layout, vector=shaken(one) - one.theta0, theta0=one.theta0,
                    backbone=one.backbone.fingerprint, theta0_fingerprint=one.theta0_fingerprint, scores={"dev": 0.5})


@pytest.fixture
def module(backbone):
    return own(backbone.module)


# ------------------------------------------------------------------ prefix fails on some backbones
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_works_on_every_backbone(family):
    """Whatever the heads of keys and values, the positions and the stacks: in training, and in generation with its cache."""
    backbone, batch = backbone_of(family), dict(batch_for(family))
    one = Attached.of(backbone, Prefix(length=3))
    heads = backbone.config.num_kv_heads or backbone.config.num_heads
    assert set(one.layout.shapes) == {(3, heads, backbone.config.d_kv)}
    thetas = [jnp.asarray(theta, jnp.float32) for theta in (shaken(one), shaken(one, 1))]
    logits = compiled(one.logits, thetas[0], one.frozen, batch)
    if backbone.kind == "encoder":
        first, second = (logits(theta, one.frozen, batch) for theta in thetas)
        assert np.isfinite(first).all()
        assert float(jnp.abs(first - second).max()) > 1e-3
        return
    write = compiled(lambda theta, frozen, batch: one.generate(theta, frozen, batch, 3), thetas[0], one.frozen, batch)
    answers = [np.asarray(write(theta, one.frozen, batch)) for theta in thetas]
    for theta, tokens in zip(thetas, answers, strict=True):
        expected = np.asarray(logits(theta, one.frozen, {**batch, "target_ids": jnp.asarray(tokens)})).argmax(-1)
        ended = np.cumsum(np.pad(tokens == backbone.config.eos_token_id, ((0, 0), (1, 0))), axis=1)[:, :-1] > 0
        np.testing.assert_array_equal(np.where(ended, backbone.config.pad_token_id, expected), tokens)


# ------------------------------------------------------------------ no merging of LoRA into the weights
def test_lora_is_merged_into_the_weights_and_out_again(attached):
    one, theta = attached["lora"], shaken(attached["lora"])
    module, values = one.module(theta, one.frozen), one.layout.unflatten(theta)
    kernels = {name: np.asarray(site.kernel[...]) for name, site in sites(module).items() if site.order}
    assert {f"{name}.{m}" for name in kernels for m in "ab"} == set(values)
    merge(module, "lora")
    for name, kernel in kernels.items():
        site = sites(module)[name]
        assert site.order == ()
        np.testing.assert_allclose(site.kernel[...], kernel + 16 / 2 * values[f"{name}.a"] @ values[f"{name}.b"], atol=1e-5)
    unmerge(module, "lora")
    assert all(np.array_equal(sites(module)[name].kernel[...], kernel) for name, kernel in kernels.items())


# ------------------------------------------------------------------ no Llama
def test_llama_learns():
    backbone, batch = backbone_of("llama"), batch_for("llama")
    one = Attached.of(backbone, LoRA(rank=2))
    c = backbone.config
    assert dict(zip(one.layout.names, one.layout.shapes, strict=True)) == {
        "decoder.0.attn.q.a": (16, 2), "decoder.0.attn.q.b": (2, c.num_heads * c.d_kv),
        "decoder.0.attn.v.a": (16, 2), "decoder.0.attn.v.b": (2, c.num_kv_heads * c.d_kv)}
    theta = jnp.asarray(one.theta0)
    both = compiled(jax.value_and_grad(one.loss), theta, one.frozen, batch)
    loss, gradient = both(theta, one.frozen, batch)
    assert both(theta - 0.1 * gradient, one.frozen, batch)[0] < loss - 1e-3


# ------------------------------------------------------------------ keys lost on save with several deltas
def test_no_tensor_is_lost_when_several_deltas_are_saved(backbone, tmp_path):
    """Each in its file and all in one file: what comes back is every tensor of the module, bit for bit."""
    bank = Bank(tmp_path, create=True)
    for config in (*SEVERAL, Together(parts=SEVERAL)):
        one = Attached.of(backbone, config)
        bank.add_start(one)
        bank.add(solution(one))
    again = Bank(tmp_path)
    assert again.labels() == sorted([*(config.label for config in SEVERAL), "together"])
    found = {label: again.load(label, "a task/with a name", 3) for label in again.labels()}
    carried = deltas.carrying(backbone, *(found[config.label] for config in SEVERAL))
    whole = Attached.of(backbone, Together(parts=SEVERAL))
    tensors = 0
    for number, config in enumerate(SEVERAL):
        values = found[config.label].layout.unflatten(shaken(Attached.of(backbone, config)))
        attached = {parameter_name(path): leaf[...] for path, leaf in
                    nnx.to_flat_state(nnx.state(carried.module, belongs_to(f"{number}-{config.label}")))}
        assert attached.keys() == values.keys()
        assert all(np.array_equal(attached[name], value) for name, value in values.items())
        tensors += len(values)
    assert len(jax.tree.leaves(nnx.state(carried.module, Delta))) == len(found["together"].layout.names) == tensors
    together = found["together"]
    assert together.layout == whole.layout
    np.testing.assert_array_equal(together.theta, shaken(whole))


# ------------------------------------------------------------------ adapter dims inferred by a fragile dummy pass
def test_sizes_are_known_without_running_anything(monkeypatch):
    """Those of a Llama of seven thousand million parameters, of which not one is made, and no layer is ever called."""
    def called(*_, **__):
        raise AssertionError("a pass through the model")

    for cls in (Transformer, blocks.Linear, blocks.Attention, blocks.FeedForward, blocks.Norm, blocks.Embedding):
        monkeypatch.setattr(cls, "__call__", called)
    for name in ("encode", "decode"):
        monkeypatch.setattr(Transformer, name, called)
    raw = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
           "intermediate_size": 11008}
    config = loading.FAMILIES["llama"].config(raw, frozenset({"lm_head.weight"}))
    kinds = {LoRA(rank=8): 4_194_304, Adapter(bottleneck=24): 64 * 2 * 4096 * 24, Adapter(bottleneck=24, variant="pfeiffer", label="one"):
             32 * 2 * 4096 * 24, Prefix(length=20): 32 * 2 * 20 * 4096, IA3(): 32 * (4096 + 4096 + 11008)}

    def build():
        module = Transformer(config, rngs=nnx.Rngs(0))
        places = sites(module)
        for kind in kinds:
            chosen = {name: places[name] for name in kind.choose(places)}
            attach(module, kind.label, kind.build(chosen, jax.random.key(0), no_probe(chosen)))
        return module

    module = nnx.eval_shape(build)
    counts = {kind: sum(map(math.prod, (leaf.shape for leaf in jax.tree.leaves(nnx.state(module, belongs_to(kind.label)))))) for kind in kinds}
    assert counts == kinds
    own_weights = nnx.state(module, lambda path, _: "attached" not in path)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(own_weights)) == 6_738_415_616


# ------------------------------------------------------------------ re-attach raises
@pytest.mark.parametrize("config", SEVERAL, ids=lambda config: config.label)
def test_what_was_detached_can_be_attached_again(module, config, refused):
    """And again; only under a name that is still there it is refused, which changes nothing."""
    deltas.attach(module, config)
    once = nnx.split(module)
    with refused(config.label, "attached already"):
        deltas.attach(module, config)
    assert nnx.split(module)[0] == once[0]
    for _ in range(2):
        detach(module, config.label)
        deltas.attach(module, config)
    again = nnx.split(module)
    assert again[0] == once[0]
    jax.tree.map(np.testing.assert_array_equal, again[1], once[1])


# ------------------------------------------------------------------ detach removes the outermost delta rather than the one asked for
@pytest.mark.parametrize("name", ["inner", "middle", "outer"])
def test_detach_removes_the_one_that_was_asked_for(module, name):
    names = ["inner", "middle", "outer"]
    for kind, label in zip((LoRA, IA3, BitFit), names, strict=True):
        deltas.attach(module, kind(label=label, sites=("attn.q", "ff.up"), **({"inputs": ()} if kind is IA3 else {})))
    held = {site: {label: place.attached[label] for label in names} for site, place in sites(module).items() if place.order}
    assert len(held) == 4
    detach(module, name)
    left = [label for label in names if label != name]
    for site, place in sites(module).items():
        assert list(place.order) == (left if site in held else [])
        assert all(place.attached[label] is held[site][label] for label in place.order)


# ------------------------------------------------------------------ BitFit cannot be detached
@pytest.mark.parametrize("family", ["t5", "bert", "qwen2"])
def test_bitfit_is_detached_and_the_added_biases_are_gone(family):
    """A T5 has no biases, a BERT all, a Qwen2 some."""
    bare, module = backbone_of(family).module, own(backbone_of(family).module)
    biases = {name: site.bias for name, site in sites(bare).items() if "bias" in site.own}
    deltas.attach(module, BitFit())
    nnx.update(module, jax.tree.map(lambda bias: bias + 1, nnx.state(module, Delta)))
    assert all(site.weights()["bias"] is not None for site in sites(module).values() if site.order)
    deltas.attach(module, LoRA(rank=2))
    detach(module, "bitfit")
    detach(module, "lora")
    for name, bias in biases.items():
        found = sites(module)[name].bias
        assert (found is None) == (bias is None)
        assert found is None or found[...] is bias[...]
    assert nnx.split(module)[0] == nnx.split(bare)[0]


# ------------------------------------------------------------------ breaks gradient checkpointing
def test_each_block_under_gradient_checkpointing(module):
    """As long models are trained: block by block, the activations of each computed again on the way back."""
    for config in SEVERAL:
        deltas.attach(module, config)
    rng = np.random.default_rng(5)
    nnx.update(module, jax.tree.map(lambda value: value + 0.2 * rng.standard_normal(value.shape).astype(np.float32), nnx.state(module, Delta)))
    x, seen = jnp.asarray(rng.standard_normal((2, 4, 16)), jnp.float32), jnp.ones((2, 4, 4), bool)
    graphdef, trained, frozen = nnx.split(module.encoder[0], Delta, ...)

    def block(trained, x):
        block = nnx.merge(graphdef, trained, frozen)
        h = block.before(block.attn_norm, x)
        y = block.attn(h, block.attn.keys_values(h), seen)
        return block.feed_forward(block.after(block.attn, block.attn_norm, x, y, None))

    def two(block):
        return jax.value_and_grad(lambda trained: jnp.sum(jnp.square(block(trained, block(trained, x)))))

    plain, again = (compiled(two(each), trained)(trained) for each in (block, jax.checkpoint(block)))
    np.testing.assert_allclose(plain[0], again[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), plain[1], again[1])
    without_effect = [path for path, value in nnx.to_flat_state(plain[1]) if float(jnp.abs(value[...]).max()) == 0]
    assert not without_effect


# ------------------------------------------------------------------ hub sharing clumsy
@pytest.fixture
def shared(backbone, tmp_path):
    """A solution as it was fetched elsewhere: one file."""
    one = solution(Attached.of(backbone, Together(parts=(LoRA(rank=2), Prefix(length=2)))))
    deltas.save_solution(one, tmp_path / "here" / "solution.safetensors")
    (tmp_path / "there").mkdir()
    found = shutil.move(tmp_path / "here" / "solution.safetensors", tmp_path / "there" / "other name.safetensors")
    shutil.rmtree(tmp_path / "here")
    return one, found


def test_one_file_and_the_backbone_are_all_that_is_needed(backbone, folder, shared, batch, tmp_path):
    """The backbone read again from a copy of its folder: the same logits."""
    one, path = shared
    elsewhere = deltas.load_backbone(shutil.copytree(folder, tmp_path / "copy"))
    found = deltas.load_solution(path, elsewhere)
    given = {**batch, "decoder_input_ids": np.pad(batch["target_ids"], ((0, 0), (1, 0)))[:, :-1]}
    assert (found.task, found.seed, found.config, found.scores) == (one.task, one.seed, one.config, one.scores)
    np.testing.assert_array_equal(elsewhere.logits(given, found), backbone.logits(given, one))


def test_another_backbone_is_refused_by_its_hash(shared, backbone, refused):
    with refused(backbone.fingerprint, backbone_of("bart").fingerprint, "backbone"):
        deltas.load_solution(shared[1], backbone_of("bart"))
    other = deltas.load_backbone("tiny")
    with refused(backbone.fingerprint, other.fingerprint):
        deltas.load_solution(shared[1], other)


@pytest.mark.parametrize("at", [0.2, 0.6, 0.95])
def test_what_was_changed_on_the_way_is_refused(shared, backbone, refused, at):
    """A flipped bit in the header, in θ0 or in the vector, or an end that is missing."""
    path = shared[1]
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)
    with refused(path.name):
        deltas.load_solution(path, backbone)
    data[int(at * len(data))] ^= 1
    path.write_bytes(data[: int(at * len(data))])
    with refused(path.name, "fetch it again"):
        deltas.load_solution(path, backbone)


def test_what_is_no_such_file_is_refused(backbone, tmp_path, refused):
    with refused("nowhere"):
        deltas.load_solution(tmp_path / "nowhere", backbone)
    toy.write_weights(tmp_path, {"weight": np.zeros(3)})
    with refused("weight", "save_solution"):
        deltas.load_solution(tmp_path / "model.safetensors", backbone)
    bank = Bank(tmp_path / "bank", create=True)
    one = Attached.of(backbone, LoRA(rank=2))
    bank.add_start(one)
    bank.add(solution(one))
    with refused("vector", "save_solution"):
        deltas.load_solution(bank.file("lora", "a task/with a name", 3), backbone)


def test_a_file_of_a_later_format_is_refused(shared, backbone, refused):
    one, path = shared
    texts = {**one.header(), "format": '"deltaspace.solution.9"'}
    del texts["checksum"]
    texts["checksum"] = f'"{checksum(texts, one.vector)}"'
    save_file({"vector": one.vector, "theta0": one.theta0}, path, metadata=texts)
    with refused("deltaspace.solution.9", "update"):
        deltas.load_solution(path, backbone)
