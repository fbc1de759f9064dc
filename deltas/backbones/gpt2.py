"""GPT-2 (Radford et al. 2019): a decoder with layer norms before each sublayer and learned positions.

Its kernels are stored [in, out], and queries, keys and values in one tensor, which is cut into three here.
"""

from collections.abc import Mapping
from typing import Any

from deltas.backbones.architecture import Architecture
from deltas.backbones.family import Family, Names, activation, ends, fixed, head_size, sizes, token


def config(raw: Mapping[str, Any], names: frozenset[str] = frozenset()) -> Architecture:
    """From a `config.json`."""
    fixed(raw, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False, tie_word_embeddings=True)
    found = sizes(raw, vocab_size="vocab_size", d_model="n_embd", num_decoder_layers="n_layer", num_heads="n_head",
                  max_positions="n_positions")
    end = ends(raw, 50256)
    return Architecture(
        **found, d_kv=head_size(raw, found["d_model"], found["num_heads"]), d_ff=raw.get("n_inner") or 4 * found["d_model"],
        act=activation(raw.get("activation_function", "gelu_new"), "activation_function"), rms=False,
        layer_norm_epsilon=raw.get("layer_norm_epsilon", 1e-5), bias=True, positions="learned",
        pad_token_id=token(raw, "pad_token_id", end["eos_token_id"]), **end)


def names(c: Architecture) -> Names:
    """Hugging Face tensor name → path of the parameter here."""
    found: Names = {"wte.weight": "shared.table", "wpe.weight": "decoder_positions.table", "ln_f.weight": "decoder_norm.scale",
                    "ln_f.bias": "decoder_norm.bias"}
    for i in range(c.num_decoder_layers):
        for kind, ours in (("weight", "kernel"), ("bias", "bias")):
            found[f"h.{i}.attn.c_attn.{kind}"] = tuple(f"decoder.{i}.attn.{m}.{ours}" for m in "qkv")
            for their, our in (("attn.c_proj", "attn.o"), ("mlp.c_fc", "ff.up"), ("mlp.c_proj", "ff.out")):
                found[f"h.{i}.{their}.{kind}"] = f"decoder.{i}.{our}.{ours}"
        for kind, ours in (("weight", "scale"), ("bias", "bias")):
            found |= {f"h.{i}.ln_1.{kind}": f"decoder.{i}.attn_norm.{ours}", f"h.{i}.ln_2.{kind}": f"decoder.{i}.ff_norm.{ours}"}
    return found


FAMILY = Family(config=config, names=names, prefix="transformer.", transposed=False, copies={"lm_head.weight": "wte.weight"},
                unread=("h.*.attn.bias", "h.*.attn.masked_bias"))  # causal masks that old files carry
