"""Llama (Touvron et al. 2023, arXiv 2302.13971), and Mistral and Qwen2 as far as their configuration only switches its parts.

A decoder with RMS norms before each sublayer, rotary positions, keys and values shared by groups of heads, and a gated feed-forward.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from deltas.backbones.architecture import Architecture
from deltas.backbones.blocks import Rotary
from deltas.backbones.family import Family, Names, activation, fixed, sizes, token
from deltas.errors import InputError


def config(kind: str, raw: Mapping[str, Any], names: frozenset[str] = frozenset()) -> Architecture:
    """From a `config.json` and the names of the tensors, which say whether the head is tied."""
    fixed(raw, pretraining_tp=1, mlp_bias=False)
    found = sizes(raw, vocab_size="vocab_size", d_model="hidden_size", num_decoder_layers="num_hidden_layers",
                  num_heads="num_attention_heads", d_ff="intermediate_size")
    bias = bool(raw.get("attention_bias", False))
    if kind == "llama" and bias:
        raise InputError("expected attention_bias false in config.json, got true, which is not built for llama; choose another backbone")
    window = raw.get("sliding_window")
    if kind == "llama" or not raw.get("use_sliding_window", kind == "mistral"):
        window = None
    if window is not None and raw.get("max_window_layers", 0):
        raise InputError("expected a sliding_window for all layers or none, got max_window_layers in config.json; choose another backbone")
    eos = token(raw, "eos_token_id", 2)
    return Architecture(
        **found, d_kv=raw.get("head_dim") or found["d_model"] // found["num_heads"],
        num_kv_heads=raw.get("num_key_value_heads") or found["num_heads"], act=activation(raw.get("hidden_act", "silu"), "hidden_act"),
        gated=True, layer_norm_epsilon=raw.get("rms_norm_eps", 1e-6), qkv_bias=kind == "qwen2", positions="rotary", rotary=rotary(raw),
        window=window, tied="lm_head.weight" not in names if names else bool(raw.get("tie_word_embeddings", False)),
        pad_token_id=token(raw, "pad_token_id", eos), eos_token_id=eos)


def rotary(raw: Mapping[str, Any]) -> Rotary:
    """The rotary positions of a `config.json`, in its older or newer form."""
    fields: dict[str, Any] = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    base = float(fields.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind == "default":
        return Rotary(base)
    if kind == "linear":
        return Rotary(base, float(fields["factor"]))
    if kind == "llama3":
        return Rotary(base, float(fields["factor"]), int(fields["original_max_position_embeddings"]), float(fields["low_freq_factor"]),
                      float(fields["high_freq_factor"]))
    raise InputError(f"expected rope_type default, linear or llama3 in config.json, got {kind!r}; choose another backbone")


def names(c: Architecture) -> Names:
    """Hugging Face tensor name → path of the parameter here."""
    found: Names = {"embed_tokens.weight": "shared.table", "norm.weight": "decoder_norm.scale"}
    if not c.tied:
        found["lm_head.weight"] = "head.kernel"
    maps = {"self_attn.q_proj": "attn.q", "self_attn.k_proj": "attn.k", "self_attn.v_proj": "attn.v", "self_attn.o_proj": "attn.o",
            "mlp.gate_proj": "ff.gate", "mlp.up_proj": "ff.up", "mlp.down_proj": "ff.out"}
    for i in range(c.num_decoder_layers):
        found |= {f"layers.{i}.{their}.weight": f"decoder.{i}.{our}.kernel" for their, our in maps.items()}
        found |= {f"layers.{i}.input_layernorm.weight": f"decoder.{i}.attn_norm.scale",
                  f"layers.{i}.post_attention_layernorm.weight": f"decoder.{i}.ff_norm.scale"}
        if c.qkv_bias:
            found |= {f"layers.{i}.self_attn.{m}_proj.bias": f"decoder.{i}.attn.{m}.bias" for m in "qkv"}
    return found


def _family(kind: str) -> Family:
    return Family(config=partial(config, kind), names=names, prefix="model.", redundant=("layers.*.self_attn.rotary_emb.inv_freq",))


LLAMA, MISTRAL, QWEN2 = (_family(kind) for kind in ("llama", "mistral", "qwen2"))
