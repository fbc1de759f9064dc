"""Llama (Touvron et al. 2023, arXiv 2302.13971), and Mistral and Qwen2 as far as their configuration only switches its parts.

A decoder with RMS norms before each sublayer, rotary positions, keys and values shared by groups of heads, and a gated feed-forward.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from deltas.backbones.architecture import Architecture
from deltas.backbones.blocks import Rotary
from deltas.backbones.family import Family, Names, activation, ends, fixed, head_size, sizes, token
from deltas.errors import InputError


def config(kind: str, raw: Mapping[str, Any], names: frozenset[str] = frozenset()) -> Architecture:
    """From a `config.json` and the names of the tensors, which say whether the head is tied."""
    fixed(raw, pretraining_tp=1, mlp_bias=False)
    found = sizes(raw, vocab_size="vocab_size", d_model="hidden_size", num_decoder_layers="num_hidden_layers",
                  num_heads="num_attention_heads", d_ff="intermediate_size")
    bias = bool(raw.get("attention_bias", False))
    if kind == "llama" and bias:
        raise InputError("expected attention_bias false in config.json, got true, which is not built for llama; choose another backbone")
    heads, end = found["num_heads"], ends(raw, 2)
    kv_heads = raw.get("num_key_value_heads", {"mistral": 8, "qwen2": 32}.get(kind)) or heads
    if heads % kv_heads:
        raise InputError(f"expected num_key_value_heads that divide the {heads} heads, got {kv_heads} in config.json; restore the file")
    return Architecture(
        **found, d_kv=raw.get("head_dim") or head_size(raw, found["d_model"], heads), num_kv_heads=kv_heads,
        act=activation(raw.get("hidden_act", "silu"), "hidden_act"), gated=True, layer_norm_epsilon=raw.get("rms_norm_eps", 1e-6),
        qkv_bias=kind == "qwen2", positions="rotary", rotary=rotary(raw), window=window(kind, raw, found["num_decoder_layers"]),
        tied=raw.get("tie_word_embeddings") is True and "lm_head.weight" not in names,  # a head of its own is used, as it is there
        pad_token_id=token(raw, "pad_token_id", end["eos_token_id"]), **end)


def window(kind: str, raw: Mapping[str, Any], layers: int) -> int | None:
    """How far back the layers see: all of them as far, or else the configuration is refused."""
    far = None if kind == "llama" else raw.get("sliding_window", 4096)
    if kind == "qwen2" and not raw.get("use_sliding_window", False):
        far = None
    first = 0 if far is None or kind == "mistral" else raw.get("max_window_layers", 28)
    kinds = raw.get("layer_types") or ["sliding_attention" if far is not None and i >= first else "full_attention" for i in range(layers)]
    if set(kinds) not in ({"full_attention"}, {"sliding_attention"}) or (far is None and "sliding_attention" in kinds):
        raise InputError(f"expected a sliding_window for all layers or none, got layer_types {', '.join(sorted(set(kinds)))} "
                         f"with sliding_window {far} in config.json; choose another backbone")
    return far if "sliding_attention" in kinds else None


def rotary(raw: Mapping[str, Any]) -> Rotary:
    """The rotary positions of a `config.json`, in its older or newer form."""
    fields: dict[str, Any] = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    base = float(fields.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    kind = fields.get("rope_type", fields.get("type", "default"))
    turned = fields.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if turned not in (None, 1):
        raise InputError(f"expected partial_rotary_factor 1 in config.json, got {turned}, which is not built; choose another backbone")
    wanted = {"default": {}, "linear": {"factor": "factor"},
              "llama3": {"factor": "factor", "original": "original_max_position_embeddings", "low": "low_freq_factor",
                         "high": "high_freq_factor"}}
    if kind not in wanted:
        raise InputError(f"expected rope_type {', '.join(wanted)} in config.json, got {kind!r}; choose another backbone")
    missing = [theirs for theirs in wanted[kind].values() if fields.get(theirs) is None]
    if missing:
        raise InputError(f"expected {', '.join(missing)} beside rope_type {kind} in config.json, got none; restore the file")
    return Rotary(base, **{ours: fields[theirs] for ours, theirs in wanted[kind].items()})


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
    return Family(config=partial(config, kind), names=names, prefix="model.",
                  unread=("layers.*.self_attn.rotary_emb.inv_freq",))  # old files carry what follows from the configuration


LLAMA, MISTRAL, QWEN2 = (_family(kind) for kind in ("llama", "mistral", "qwen2"))
