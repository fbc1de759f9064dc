"""Configurations of the delta types: JSON, refusals, and the sites that each chooses by itself."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import single
from flax import nnx

from deltas.attach import sites
from deltas.backbones.architecture import Architecture
from deltas.backbones.transformer import Transformer
from deltas.types import (
    IA3,
    TYPES,
    Adapter,
    Arbitrary,
    BitFit,
    CalibratedLoRA,
    CalibratedPrefix,
    Compacter,
    DeltaType,
    Full,
    LoRA,
    LowRankAdapter,
    Prefix,
    Prompt,
    Together,
    delta_type,
)

PATTERNS = LoRA(rslora=True, dora=True, rank_pattern=(("q", 4), ("re:.*v", 2)), alpha_pattern=(("decoder.*", 3.5),))
EXAMPLES = {
    "lora": PATTERNS,
    "adapter": Adapter(variant="parallel", bias=True, act="gelu", scale=4.0, label="beside"),
    "lowrank_adapter": LowRankAdapter(rank=3),
    "compacter": Compacter(n=2, shared=False),
    "prefix": Prefix(length=3, shift=True, start="normal"),
    "prompt": Prompt(length=5, start="normal", std=0.02),
    "bitfit": BitFit(exclude=("cross.q",)),
    "ia3": IA3(sites=("k", "up"), inputs=("up",)),
    "full": Full(sites=("re:.*norm",)),
    "arbitrary": Arbitrary(budget=1000, structure=3, kinds=("lora", "tensor")),
    "calibrated_lora": CalibratedLoRA(rank=3, sites=("q",)),
    "calibrated_prefix": CalibratedPrefix(length=3, start="normal", std=0.5),
    "together": Together(parts=(PATTERNS, Together(parts=(Prefix(), BitFit()), label="inner"))),
}


@pytest.mark.parametrize("name", list(TYPES))
def test_json_round_trip(name):
    """Nested pairs come back as tuples, nested types as types, and every setting is written."""
    config = EXAMPLES[name]
    text = json.dumps(config.to_json())
    again = delta_type(json.loads(text))
    assert again == config
    assert type(again) is TYPES[name]
    assert hash(again) == hash(config)
    assert json.dumps(again.to_json()) == text


def test_the_table_of_types():
    assert set(EXAMPLES) == set(TYPES)
    for name, kind in TYPES.items():
        required = {"arbitrary": {"budget": 9}, "together": {"parts": [{"type": "lora"}]}}.get(name, {})
        assert delta_type({"type": name, **required}).label == kind.name == name


def test_a_delta_type_is_abstract():
    with pytest.raises(TypeError, match="build"):
        DeltaType()  # pyright: ignore[reportAbstractUsage]


def test_what_older_files_say_is_still_the_default():
    """Configurations stored before these settings were there."""
    assert delta_type({"type": "adapter", "label": "adapter", "sites": [r"re:.*\.(attn|cross|ff)"], "exclude": [], "bottleneck": 12,
                       "a_std": None, "b_std": 0.0}) == Adapter()
    assert delta_type({"type": "lora", "label": "lora", "sites": ["q", "v"], "exclude": [], "rank": 8, "alpha": 16.0, "bound": None}) == LoRA()
    assert delta_type({"type": "lora", "rank_pattern": {"q": 4}}) == LoRA(rank_pattern=(("q", 4),))


@pytest.mark.parametrize(("fields", "words"), [
    ({"type": "lora", "alpha": float("nan")}, ["alpha", "nan"]),
    ({"type": "lora", "bound": "small"}, ["bound", "small"]),
    ({"type": "lora", "dora": "yes"}, ["dora", "'yes'"]),
    ({"type": "lora", "rank_pattern": [["q", 0]]}, ["rank_pattern", "q"]),
    ({"type": "lora", "rank_pattern": [["q", 2.0]]}, ["rank_pattern", "2.0"]),
    ({"type": "lora", "rank_pattern": [["q"]]}, ["rank_pattern", "pairs"]),
    ({"type": "lora", "alpha_pattern": [["q", True]]}, ["alpha_pattern", "True"]),
    ({"type": "adapter", "variant": "pfeifer"}, ["variant", "'houlsby', 'pfeiffer' or 'parallel'", "pfeifer"]),
    ({"type": "adapter", "act": "mish"}, ["act", "mish"]),
    ({"type": "adapter", "bias": 1}, ["bias", "1"]),
    ({"type": "adapter", "scale": float("inf")}, ["scale", "inf"]),
    ({"type": "lowrank_adapter", "rank": 0}, ["rank", "0"]),
    ({"type": "compacter", "n": 5}, ["24", "5", "divisor"]),
    ({"type": "prefix", "shift": None}, ["shift", "None"]),
    ({"type": "prompt", "start": "zeros"}, ["start", "zeros"]),
    ({"type": "prompt", "length": 0}, ["length", "0"]),
    ({"type": "calibrated_lora", "rank": 0}, ["rank", "0"]),
    ({"type": "calibrated_prefix", "start": "zeros"}, ["start", "zeros"]),
    ({"type": "arbitrary"}, ["budget"]),
    ({"type": "arbitrary", "budget": 0}, ["budget", "0"]),
    ({"type": "arbitrary", "budget": 9, "share": 1.5}, ["share", "1.5"]),
    ({"type": "arbitrary", "budget": 9, "kinds": ["lora", "lore"]}, ["kinds", "lore"]),
    ({"type": "arbitrary", "budget": 9, "kinds": ["tensor"], "share": 1}, ["share of 1", "tensor"]),
    ({"type": "arbitrary", "budget": 9, "structure": "a"}, ["structure", "'a'"]),
    ({"type": "together"}, ["parts"]),
    ({"type": "together", "parts": []}, ["LoRA()"]),
    ({"type": "together", "parts": ["lora"]}, ["'lora'"]),
    ({"type": "together", "parts": [{"type": "lorra"}]}, ["lorra"]),
    ({"type": "together", "parts": [{"type": "lora"}, {"type": "lora"}]}, ["lora, lora", "label"]),
    ({"type": "together", "parts": [{"type": "lora", "label": "output"}]}, ["'output'", "label"]),
    ({"type": "together", "parts": [{"type": "lora"}], "sites": ["q"]}, ["sites", "parts"]),
])
def test_bad_settings(fields, words, refused):
    with refused(*words):
        delta_type(fields)


# ------------------------------------------------------------------ sites
SIZES = {"vocab_size": 16, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_heads": 2}


@pytest.fixture(scope="module")
def families():
    """The sites of an encoder-decoder, a decoder and an encoder, whose weights are zeros."""
    kinds = {
        "encoder-decoder": Architecture(**SIZES, num_layers=1, num_decoder_layers=1, tied=False),
        "decoder": Architecture(**SIZES, num_decoder_layers=1, positions="learned", rms=False, bias=True, num_kv_heads=1),
        "encoder": Architecture(**SIZES, num_layers=1, positions="learned", rms=False, norm_first=False, bias=True, masked_head=True,
                                embed_norm=True),
    }
    shapes = {kind: nnx.split(nnx.eval_shape(lambda c=c: Transformer(c, rngs=nnx.Rngs(0)))) for kind, c in kinds.items()}
    zeros = {kind: jax.tree.map(lambda v: jnp.asarray(np.zeros(v.shape, v.dtype)), state) for kind, (_, state) in shapes.items()}
    return {kind: sites(nnx.merge(graphdef, zeros[kind])) for kind, (graphdef, _) in shapes.items()}


def test_where_prompts_stand(families):
    assert {kind: Prompt().choose(places) for kind, places in families.items()} == {
        "encoder-decoder": ["encoder_input"], "decoder": ["decoder_input"], "encoder": ["encoder_input"]}


def test_bitfit_is_everywhere_but_at_the_head(families):
    for kind, places in families.items():
        expected = {name for name in places if name.split(".")[-1] in ("q", "k", "v", "o", "up", "out") or name.endswith("norm")}
        assert set(BitFit().choose(places)) == expected - {"head_norm"}, kind
        assert not any("cross" in name for name in BitFit(exclude=("*cross*",)).choose(places))


def test_full_is_every_weight(families):
    for places in families.values():
        chosen = Full().choose(places)
        assert set(places) - set(chosen) == {name for name in places if name.endswith(("_input", ".attn", ".cross", ".ff"))}
        assert {"shared", *(name for name in places if name.endswith("_positions"))} <= set(chosen)
    assert Full(sites=("re:.*norm",)).choose(families["encoder"]) == [name for name in families["encoder"] if name.endswith("norm")]


def test_where_adapters_stand(families):
    places = families["encoder-decoder"]
    sublayers = ["decoder.0.attn", "decoder.0.cross", "decoder.0.ff", "encoder.0.attn", "encoder.0.ff"]
    for config in (Adapter(), Adapter(variant="parallel"), LowRankAdapter(), Compacter()):
        assert config.choose(places) == sublayers
    assert Adapter(variant="pfeiffer").choose(places) == ["decoder.0.ff", "encoder.0.ff"]
    assert Adapter(variant="pfeiffer", sites=("cross",)).choose(places) == ["decoder.0.cross"]


def test_where_ia3_and_shifting_prefixes_stand(families):
    places = families["decoder"]
    assert IA3().choose(places) == ["decoder.0.attn.k", "decoder.0.attn.v", "decoder.0.ff.out"]
    assert Prefix(shift=True).choose(places) == ["decoder.0.attn", "decoder_input"]
    assert Prefix(shift=True, sites=("cross",)).choose(families["encoder-decoder"]) == ["decoder.0.cross", "decoder_input"]


@pytest.mark.parametrize("config", EXAMPLES.values(), ids=list(EXAMPLES))
def test_choosing_among_the_chosen_changes_nothing(families, config):
    places = families["encoder-decoder"]
    chosen = config.choose(places)
    assert config.choose({name: places[name] for name in chosen}) == chosen
    assert chosen == [name for name in places if name in chosen]


@pytest.mark.parametrize(("config", "words"), [
    (LoRA(sites=("shared",)), ["lora", "shared", "Embedding"]),
    (LoRA(rank_pattern=(("k", 3),)), ["'k'", "nearest"]),
    (Adapter(sites=("decoder_input",)), ["adapter", "decoder_input", "Entry"]),
    (Adapter(sites=("q",), variant="pfeiffer"), ["adapter", "q", "Linear", "attn, cross or ff"]),
    (Adapter(sites=("up",), variant="parallel"), ["adapter", "up", "one size"]),
    (Compacter(n=3), ["divide the size 8", "3"]),
    (Prefix(sites=("q",)), ["prefix", "attn or cross"]),
    (CalibratedLoRA(sites=("ff",)), ["calibrated_lora", "ff", "FeedForward"]),
    (CalibratedPrefix(sites=("q",)), ["calibrated_prefix", "attn or cross"]),
    (Prompt(sites=("shared",)), ["prompt", "shared", "decoder_input"]),
    (BitFit(sites=("shared",)), ["bitfit", "shared"]),
    (IA3(sites=("ff",), inputs=()), ["ia3", "ff", "FeedForward"]),
    (IA3(sites=("k",)), ["'ff.out'"]),
    (Full(sites=("ff",)), ["full", "ff"]),
    (Together(parts=(LoRA(), IA3(sites=("norm",)))), ["'norm'"]),
], ids=lambda case: getattr(case, "label", None))
def test_wrong_sites(families, config, words, refused):
    places = families["decoder"]
    with refused(*words):
        config.build({name: places[name] for name in config.choose(places)}, jax.random.key(0), single.real_tokens(places))


def test_what_a_module_of_ones_own_lacks(refused):
    own = {"first": single.linear(), "second": single.attention()}
    with refused("prompt", "where tokens enter"):
        Prompt().choose(own)
    with refused("prefix", "second_input"):
        Prefix(sites=("second",), shift=True).choose(own)
    assert BitFit().choose(own) == Full().choose(own) == ["first"]
