"""BART (Lewis et al. 2020, arXiv 1910.13461): an encoder-decoder with layer norms after each sublayer and learned positions."""

from collections.abc import Mapping
from typing import Any

from deltas.backbones.architecture import Architecture
from deltas.backbones.family import Family, Names, activation, ends, fixed, head_size, sizes, token
from deltas.errors import InputError

OFFSET = 2  # the first two rows of a table of positions are never used


def config(raw: Mapping[str, Any], names: frozenset[str] = frozenset()) -> Architecture:
    """From a `config.json`; encoder and decoder have the same heads and feed-forward sizes."""
    fixed(raw, normalize_before=False, add_final_layer_norm=False, extra_pos_embeddings=2, normalize_embedding=True,
          static_position_embeddings=False, is_decoder=False)
    found = sizes(raw, vocab_size="vocab_size", d_model="d_model", num_layers="encoder_layers", num_decoder_layers="decoder_layers",
                  num_heads="encoder_attention_heads", d_ff="encoder_ffn_dim", max_positions="max_position_embeddings")
    for one, other in (("encoder_attention_heads", "decoder_attention_heads"), ("encoder_ffn_dim", "decoder_ffn_dim")):
        if raw.get(other, raw[one]) != raw[one]:
            raise InputError(f"expected {other} {raw[one]} as {one}, got {raw[other]} in config.json; choose another backbone")
    return Architecture(
        **{**found, "max_positions": found["max_positions"] + OFFSET}, d_kv=head_size(raw, found["d_model"], found["num_heads"]),
        act=activation(raw.get("activation_function", "gelu"), "activation_function"), rms=False, layer_norm_epsilon=1e-5, norm_first=False,
        embed_norm=True, bias=True, positions="learned", position_offset=OFFSET,
        embed_scale=found["d_model"] ** 0.5 if raw.get("scale_embedding") else 1.0,
        tied=raw.get("tie_word_embeddings", True) is not False, head_bias="final_logits_bias" in names,
        pad_token_id=token(raw, "pad_token_id", 1), **ends(raw, 2), decoder_start_token_id=token(raw, "decoder_start_token_id", 2))


def names(c: Architecture) -> Names:
    """Hugging Face tensor name → path of the parameter here."""
    found: Names = {"shared.weight": "shared.table"}
    if c.head_bias:
        found["final_logits_bias"] = "head_bias.bias"
    if not c.tied:
        found["lm_head.weight"] = "head.kernel"
    for stack, layers in (("encoder", c.num_layers), ("decoder", c.num_decoder_layers)):
        found[f"{stack}.embed_positions.weight"] = f"{stack}_positions.table"
        for kind, ours in (("weight", "scale"), ("bias", "bias")):
            found[f"{stack}.layernorm_embedding.{kind}"] = f"{stack}_embed_norm.{ours}"
        sublayers = [("self_attn", "attn")] + [("encoder_attn", "cross")] * (stack == "decoder")
        for i in range(layers):
            theirs, ours = f"{stack}.layers.{i}", f"{stack}.{i}"
            maps = {f"{their}.{m}_proj": f"{our}.{m[0]}" for their, our in sublayers for m in ("q", "k", "v", "out")}
            maps |= {"fc1": "ff.up", "fc2": "ff.out"}
            norms = {f"{their}_layer_norm": f"{our}_norm" for their, our in sublayers} | {"final_layer_norm": "ff_norm"}
            for their, our in maps.items():
                found |= {f"{theirs}.{their}.weight": f"{ours}.{our}.kernel", f"{theirs}.{their}.bias": f"{ours}.{our}.bias"}
            for their, our in norms.items():
                found |= {f"{theirs}.{their}.weight": f"{ours}.{our}.scale", f"{theirs}.{their}.bias": f"{ours}.{our}.bias"}
    return found


FAMILY = Family(config=config, names=names, prefix="model.", copies=dict.fromkeys(
    ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), "shared.weight"))
