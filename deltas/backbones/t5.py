"""T5: versions 1.0, 1.1 and flan (Raffel et al. 2020, arXiv 1910.10683).

What sets it apart: RMS norms before each sublayer, no biases, no scaling of the scores, and one relative-position table per stack shared
by its layers.
"""

from collections.abc import Mapping
from typing import Any

from deltas.backbones.architecture import Architecture
from deltas.backbones.family import Family, activation, ends, fixed, sizes, token
from deltas.errors import InputError


def config(raw: Mapping[str, Any], names: frozenset[str] = frozenset()) -> Architecture:
    """From a `config.json` and the names of the tensors beside it.

    Whether the head is tied is read from the tensors, since configurations are wrong about it; the scaling is read from the
    configuration's `scale_decoder_outputs`, or in older files from `tie_word_embeddings`, which is what tells version 1.0 from 1.1 there.
    """
    fixed(raw, is_decoder=False)
    projection = str(raw.get("feed_forward_proj", "relu"))
    gated = projection.startswith("gated-")
    act = "gelu_new" if projection == "gated-gelu" else activation(projection.removeprefix("gated-"), "feed_forward_proj")
    found = sizes(raw, vocab_size="vocab_size", d_model="d_model", d_kv="d_kv", d_ff="d_ff", num_layers="num_layers", num_heads="num_heads")
    optional = ("num_decoder_layers", "relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon")
    found = {"num_decoder_layers": found["num_layers"], **found, **{n: raw[n] for n in optional if raw.get(n) is not None}}
    if not found["num_decoder_layers"]:
        raise InputError("expected a T5 with a decoder, got num_decoder_layers 0 in config.json; choose an encoder-decoder")
    scaled = raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings", True)) is not False
    tied = "lm_head.weight" not in names if names else scaled
    return Architecture(**found, act=act, gated=gated, tied=tied, scaled=scaled, scaled_attention=False, **ends(raw, 1),
                        pad_token_id=token(raw, "pad_token_id", 0), decoder_start_token_id=token(raw, "decoder_start_token_id", 0))


def names(c: Architecture) -> dict[str, str]:
    """Hugging Face tensor name → path of the parameter here."""
    found = {"shared.weight": "shared.table"}
    if not c.tied:
        found["lm_head.weight"] = "head.kernel"
    ff = {"wi_0": "gate", "wi_1": "up", "wo": "out"} if c.gated else {"wi": "up", "wo": "out"}
    for stack, layers in (("encoder", c.num_layers), ("decoder", c.num_decoder_layers)):
        found[f"{stack}.final_layer_norm.weight"] = f"{stack}_norm.scale"
        found[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = f"{stack}_positions.table"
        sublayers = [("SelfAttention", "attn")] + [("EncDecAttention", "cross")] * (stack == "decoder")
        for i in range(layers):
            theirs, ours = f"{stack}.block.{i}.layer", f"{stack}.{i}"
            for j, (their, our) in enumerate(sublayers):
                found[f"{theirs}.{j}.layer_norm.weight"] = f"{ours}.{our}_norm.scale"
                found |= {f"{theirs}.{j}.{their}.{m}.weight": f"{ours}.{our}.{m}.kernel" for m in "qkvo"}
            j = len(sublayers)
            found[f"{theirs}.{j}.layer_norm.weight"] = f"{ours}.ff_norm.scale"
            found |= {f"{theirs}.{j}.DenseReluDense.{w}.weight": f"{ours}.ff.{our}.kernel" for w, our in ff.items()}
    return found


FAMILY = Family(config=config, names=names,
                copies=dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "shared.weight"),
                unread=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",))
