"""How many numbers each type has: the paper's counts at T5-base's size, and the general formulas."""

import math

import jax
import pytest
import toy
from flax import nnx

from deltas import Adapter, LoRA, Prefix
from deltas.attach import attach, sites
from deltas.backbones.architecture import Architecture
from deltas.backbones.sites import Delta
from deltas.backbones.transformer import Transformer
from deltas.functional import no_probe

BASE = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12,
        "act": "gelu_new", "gated": True, "tied": False, "scaled": False}


def counts(config: Architecture, *types) -> list[int]:
    """Numbers of each type on a T5 of this size; only shapes are computed."""

    def build():
        module = Transformer(config, rngs=nnx.Rngs(0))
        places = sites(module)
        for i, kind in enumerate(types):
            chosen = {name: places[name] for name in kind.choose(places)}
            attach(module, f"delta{i}", kind.build(chosen, jax.random.key(0), no_probe(chosen)))
        return module

    found = [0] * len(types)
    for path, variable in nnx.to_flat_state(nnx.state(nnx.eval_shape(build), Delta)):
        found[int(path[path.index("attached") + 1][-1])] += math.prod(variable.shape)
    return found


def test_the_papers_sizes():
    types = Adapter(bottleneck=12), LoRA(rank=10), Prefix(length=120, bottleneck=24), Prefix(length=120, bottleneck=24, raw_view=True)
    assert counts(Architecture(**BASE), *types) == [1_105_920] * 4


@pytest.mark.parametrize("layers", [1, 3])
def test_formulas(layers):
    config = toy.config_of(num_layers=layers)
    d, n, a, r, p = 16, layers, 3, 5, 7
    types = Adapter(bottleneck=a), LoRA(rank=r), Prefix(length=p, bottleneck=r), Prefix(length=p)
    assert counts(config, *types) == [10 * a * n * d, 12 * r * n * d, 2 * d * (p + r + 2 * r * n), 2 * n * 2 * p * d]


def test_where_the_heads_are_narrower_than_the_model():
    """d_kv · heads = 12, d = 16: LoRA on q and v is d + 12 a rank, a prefix row has 12 numbers."""
    config = toy.config_of(**toy.FLAN)  # two encoder layers, one decoder layer
    assert counts(config, LoRA(rank=2), LoRA(rank=2, sites=("o",)), Adapter(bottleneck=2), Prefix(length=3)) == [
        (2 + 1 + 1) * 2 * 2 * (16 + 12), (2 + 1 + 1) * 2 * (16 + 12), (2 * 2 + 3) * 2 * 2 * 16, 3 * 2 * 3 * 12]
