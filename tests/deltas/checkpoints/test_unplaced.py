"""Adapters read without their backbone are what they are with it, once they are given their places."""

import json
import shutil

import foreign
import jax.numpy as jnp
import numpy as np
import pytest
from foreign import ADAPTERHUB, PEFT
from safetensors.flax import save_file as save_jax
from safetensors.numpy import load_file, save_file

from deltas.checkpoints import load_adapterhub, load_peft, low_rank
from deltas.checkpoints.placing import place, save_unplaced
from deltas.checkpoints.unplaced import Piece, Pieces
from deltas.checkpoints.unplaced_reading import read_unplaced
from deltas.types import Foreign, LoRA, delta_type

WEIGHTS, HUB = "adapter_model.safetensors", "adapter.safetensors"
DORA = {name for name in PEFT if name.endswith("dora")}
FUSED = {"gpt2-lora"}
NETWORK = {"bert-prefix"}
pytestmark = pytest.mark.filterwarnings("ignore:.*(never read|no layer):UserWarning")


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    root, files = tmp_path_factory.mktemp("golden"), {"peft": ("peft_adapters.npz", WEIGHTS), "adapterhub": ("adapterhub_adapters.npz", HUB)}
    return {library: {name: foreign.unpack(packed, root / library / name, weights) for name, packed in foreign.stored(file).items()}
            for library, (file, weights) in files.items()}


@pytest.fixture
def copy(golden, tmp_path):
    """A copy of a stored PEFT checkpoint with a changed configuration and changed tensors."""

    def make(name, tensors=None, save=save_file, **changes):
        folder = shutil.copytree(golden["peft"][name], tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}")
        raw = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**raw, **changes}))
        if tensors is not None:
            values = load_file(folder / WEIGHTS)
            save(tensors(values) or values, folder / WEIGHTS)
        return folder

    return make


def placed(adapter, backbone):
    return place(adapter.config, adapter.layout, adapter.theta0 + np.asarray(adapter.vector), backbone)


def changes(config, parameters):
    """ΔW by site; `alpha_pattern` and the like are read by building the delta."""
    ranks = {name.removesuffix(".a"): value.shape[1] for name, value in parameters.items() if name.endswith(".a")}
    found = {}
    for site, rank in ranks.items():
        alpha = next((alpha for pattern, alpha in config.alpha_pattern if fits(site, pattern)), config.alpha)
        found[site] = alpha / (rank**0.5 if config.rslora else rank) * parameters[f"{site}.a"] @ parameters[f"{site}.b"]
    return found


def fits(site, pattern):
    from deltas.attach import _matches

    return _matches(site, pattern)


@pytest.mark.parametrize("name", sorted(set(PEFT) - DORA))
def test_peft_in_its_place(name, golden, backbones):
    backbone, folder = backbones(PEFT[name]), golden["peft"][name]
    there, adapter = load_peft(folder, backbone), read_unplaced(folder)
    assert adapter.name == name
    assert adapter.kind == there.label
    config, parameters = placed(adapter, backbone)
    if adapter.kind == "lora":
        assert isinstance(adapter.config, LoRA)
        theirs = changes(there.config, {n: np.asarray(v) for n, v in there.layout.unflatten(there.theta).items()})
        ours = changes(config, parameters)
        assert set(ours) == set(theirs)
        for site, change in theirs.items():
            np.testing.assert_allclose(ours[site], change, rtol=1e-5, atol=1e-6)
    else:
        assert config == there.config
        assert delta_type(json.loads(json.dumps(adapter.config.to_json()))) == adapter.config
        np.testing.assert_allclose(there.layout.flatten(parameters), there.theta, rtol=0, atol=1e-6 if name.endswith("norms") else 0)


@pytest.mark.parametrize("name", sorted(set(ADAPTERHUB) - FUSED - NETWORK))
def test_adapterhub_in_its_place(name, golden, backbones):
    backbone, folder = backbones(ADAPTERHUB[name]), golden["adapterhub"][name]
    there, adapter = load_adapterhub(folder, backbone), read_unplaced(folder)
    config, parameters = placed(adapter, backbone)
    if adapter.kind == "lora":
        theirs = changes(there.config, {n: np.asarray(v) for n, v in there.layout.unflatten(there.theta).items()})
        for site, change in changes(config, parameters).items():
            np.testing.assert_allclose(change, theirs[site], rtol=1e-5, atol=1e-6)
    else:
        assert config == there.config
        np.testing.assert_array_equal(there.layout.flatten(parameters), there.theta)


def test_factors_are_those_of_the_file(golden):
    """By hand: ΔWᵀ = s · B A with s of rslora, and a rank of the pattern."""
    values, adapter = load_file(golden["peft"]["bert-rslora"] / WEIGHTS), read_unplaced(golden["peft"]["bert-rslora"])
    seen = set()
    for module, (a, b) in adapter.factors.items():
        key = f"base_model.model.{module}.lora_"
        theirs = 8 / np.sqrt(len(values[f"{key}A.weight"])) * values[f"{key}B.weight"] @ values[f"{key}A.weight"]
        np.testing.assert_allclose((a @ b).T, theirs, rtol=1e-5, atol=1e-6)
        seen |= {a.shape[1]}
    assert seen == {3, 5} == set(adapter.ranks.values())
    assert {key.removeprefix("base_model.model.").rpartition(".lora")[0] for key in values} == set(adapter.factors)


def test_only_what_is_asked_for_is_read(golden):
    adapter = read_unplaced(golden["peft"]["t5-lora"])
    whole = np.concatenate([adapter.pieces[name].read().ravel() for name in adapter.layout.names])
    np.testing.assert_array_equal(np.asarray(adapter.vector), whole)
    assert adapter.vector.shape == whole.shape == (adapter.layout.size,)
    for cut in (slice(0, 1), slice(5, 200), slice(17, None), slice(40, 40), slice(-9, None)):
        np.testing.assert_array_equal(adapter.vector[cut], whole[cut])

    class Asked(Piece):
        def read(self):
            raise AssertionError("read")

    one = np.arange(6.0).reshape(2, 3)
    rows = Pieces([Asked("a", one), Piece("b", one, turned=True, scale=2.0, start=1.0)])
    np.testing.assert_array_equal(rows[6:], 2 * one.T.ravel() - 1)
    with pytest.raises(AssertionError, match="read"):
        rows[5:]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_read_exactly(copy, dtype):
    """Multiples of 1/16 below 1/2 are exact in both."""
    half = copy("t5-lora", lambda values: {name: jnp.asarray(value, dtype) for name, value in values.items()}, save_jax)
    np.testing.assert_array_equal(np.asarray(read_unplaced(half).vector), np.asarray(read_unplaced(copy("t5-lora")).vector))


def test_names_with_and_without_the_prefix_of_a_head(golden):
    adapter = read_unplaced(golden["peft"]["bert-rslora"])
    assert adapter.prefix == "bert."
    bare = adapter.renamed("")
    assert set(bare.config.sites) == {name.removeprefix("bert.") for name in adapter.config.sites}
    assert bare.renamed("bert.").layout == adapter.layout
    np.testing.assert_array_equal(np.asarray(bare.renamed("bert.").vector), np.asarray(adapter.vector))
    ia3 = read_unplaced(golden["peft"]["bert-ia3"]).renamed("")
    raw = json.loads(ia3.config.raw)
    assert not any(name.startswith("bert.") for name in raw["target_modules"])
    assert raw["feedforward_modules"] == ["encoder.layer.0.attention.output.dense", "encoder.layer.0.output.dense"]


@pytest.mark.parametrize("name", ["t5-lora", "bert-rslora", "bert-ia3", "llama-prefix", "bert-norms"])
def test_written_again(name, golden, backbones, tmp_path):
    """As PEFT's files that compute the same."""
    adapter, backbone = read_unplaced(golden["peft"][name]), backbones(PEFT[name])
    save_unplaced(adapter.config, adapter.layout, adapter.theta0 + np.asarray(adapter.vector), tmp_path, base="a/base")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "a/base"
    foreign.agree(PEFT[name].kind, foreign.logits(backbone, load_peft(tmp_path, backbone)), foreign.stored("peft_adapters.npz")[name]["logits"])
    if adapter.kind == "lora":
        save_unplaced(adapter.config, adapter.layout, np.asarray(adapter.vector), tmp_path / "small", rank=1)
        assert set(read_unplaced(tmp_path / "small").ranks.values()) == {1}


def test_the_least_rank_of_a_product():
    """The singular values of A B, though A and B are wider than its rank."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((12, 3)) @ rng.standard_normal((3, 7)), rng.standard_normal((7, 9))
    u, v = low_rank.of_product(a, b, rank=None, energy=1.0)
    assert u.shape == (12, 3)
    np.testing.assert_allclose(u @ v, a @ b, atol=1e-4)
    for rank in (1, 2):
        ours, theirs = low_rank.of_product(a, b, rank=rank, energy=None), low_rank.factors(a @ b, rank=rank, energy=None)
        np.testing.assert_allclose(ours[0] @ ours[1], theirs[0] @ theirs[1], atol=1e-4)
    assert low_rank.of_product(a, 0 * b, rank=None, energy=1.0)[0].shape == (12, 1)


class TestRefusals:
    @pytest.mark.parametrize(("changes", "word"), [
        ({"bias": "all"}, "bias"), ({"use_dora": True}, "backbone"), ({"modules_to_save": ["x"]}, "modules_to_save"),
        ({"peft_type": "VERA"}, "VERA"),
        ({"r": 4}, "of shape (3, 16) where (4, 16) fits"), ({"rank_pattern": {}}, "of shape (2,"), ({"lora_alpha": None}, "lora_alpha"),
        ({"target_modules": ["q"]}, "wo.lora_A.weight, which has no place"), ({"exclude_modules": ["wo", "q"]}, "no place")], ids=str)
    def test_what_changes_the_mathematics(self, copy, refused, changes, word):
        with refused(word):
            read_unplaced(copy("t5-lora", **changes))

    def test_a_prediction_head(self, copy, golden, backbones, refused):
        """PEFT saves one with the adapters of classifiers; embeddings that were trained too are no head."""
        backbone = backbones(PEFT["t5-lora"])

        def head(values):
            values["base_model.model.classifier.dense.weight"] = np.ones((2, 3), np.float32)

        folder = copy("t5-lora", head, modules_to_save=["classifier", "score"])
        for read in (read_unplaced, lambda folder, **options: load_peft(folder, backbone, **options)):
            with refused("prediction head", "without_head=True"):
                read(folder)
        plain = golden["peft"]["t5-lora"]
        np.testing.assert_array_equal(np.asarray(read_unplaced(folder, without_head=True).vector), np.asarray(read_unplaced(plain).vector))
        np.testing.assert_array_equal(load_peft(folder, backbone, without_head=True).theta, load_peft(plain, backbone).theta)
        with refused("modules_to_save", "embed_tokens"):
            read_unplaced(copy("t5-lora", modules_to_save=["embed_tokens"]), without_head=True)

    def test_a_half(self, copy, refused):
        key = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight"
        with refused(f"no {key}"):
            read_unplaced(copy("t5-lora", lambda values: {name: value for name, value in values.items() if name != key}))
        with refused("extra.weight, which has no place"):
            read_unplaced(copy("bert-ia3", lambda values: values.update({"extra.weight": np.ones(3, np.float32)})))
        with refused("got none"):
            read_unplaced(copy("t5-lora", lambda values: values.clear()))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_numbers_that_are_none(self, copy, refused, bad):
        key = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight"

        def spoil(values):
            values[key][1, 2] = bad

        folder = copy("t5-lora", spoil)
        with refused("NaN or infinity", str(folder / WEIGHTS), key):
            read_unplaced(folder)

    def test_files(self, copy, tmp_path, refused):
        folder = copy("t5-lora")
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])
        with refused("whole safetensors file", WEIGHTS):
            read_unplaced(folder)
        (folder / WEIGHTS).rename(folder / "adapter_model.bin")
        with refused("pickle", "allow_pickle"):
            read_unplaced(folder)
        with refused("I8", "unquantised"):
            read_unplaced(copy("t5-lora", lambda values: {name: value.astype(np.int8) for name, value in values.items()}))
        (tmp_path / "other").mkdir()
        with refused("adapter_config.json"):
            read_unplaced(tmp_path / "other")
        (tmp_path / "other" / "adapter_config.json").write_text("{}")
        with refused("another library"):
            read_unplaced(tmp_path / "other")

    def test_what_only_the_backbone_tells(self, golden, backbones, refused):
        with refused("fused", "give the backbone"):
            read_unplaced(golden["adapterhub"]["gpt2-lora"])
        with refused("network", "eject"):
            adapter = read_unplaced(golden["adapterhub"]["bert-prefix"])
            placed(adapter, backbones(ADAPTERHUB["bert-prefix"]))
        with refused("PEFT has a form", "adapterhub"):
            adapter = read_unplaced(golden["adapterhub"]["bert-houlsby"])
            save_unplaced(adapter.config, adapter.layout, np.asarray(adapter.vector), golden["adapterhub"]["bert-houlsby"])
        with refused("subspace.placed"):
            Foreign(label="ia3", kind="ia3").choose({})

    def test_another_backbone(self, golden, backbones, refused):
        with refused("query", "no place"):
            placed(read_unplaced(golden["peft"]["bert-rslora"]), backbones(PEFT["t5-lora"]))
