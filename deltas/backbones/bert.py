"""BERT (Devlin et al. 2019, arXiv 1810.04805) and RoBERTa (Liu et al. 2019, arXiv 1907.11692): encoders, with or without a masked-language
head; sentence encoders such as MiniLM are BERTs without one.

RoBERTa differs in its positions, which start after the padding token's id, and in its head: other names, and always a gelu.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from deltas.backbones.architecture import Architecture
from deltas.backbones.family import Family, Names, activation, fixed, head_size, sizes, token

HEADS = {
    "bert": {"cls.predictions.transform.dense": "head_dense", "cls.predictions.transform.LayerNorm": "head_norm"},
    "roberta": {"lm_head.dense": "head_dense", "lm_head.layer_norm": "head_norm"},
}
BIAS = {"bert": "cls.predictions.bias", "roberta": "lm_head.bias"}


def config(kind: str, raw: Mapping[str, Any], names: frozenset[str] = frozenset()) -> Architecture:
    """From a `config.json` and the names of the tensors, which say whether there is a masked-language head."""
    fixed(raw, is_decoder=False, add_cross_attention=False, position_embedding_type="absolute", tie_word_embeddings=True)
    found = sizes(raw, vocab_size="vocab_size", d_model="hidden_size", num_layers="num_hidden_layers", num_heads="num_attention_heads",
                  d_ff="intermediate_size", max_positions="max_position_embeddings")
    head, pad = BIAS[kind] in names, token(raw, "pad_token_id", 0 if kind == "bert" else 1)
    act = activation(raw.get("hidden_act", "gelu"), "hidden_act")
    return Architecture(
        **found, d_kv=head_size(raw, found["d_model"], found["num_heads"]), act=act, head_act=act if kind == "bert" else "gelu", rms=False,
        layer_norm_epsilon=raw.get("layer_norm_eps", 1e-12), norm_first=False, embed_norm=True, bias=True, positions="learned",
        position_offset=0 if kind == "bert" else pad + 1, token_types=raw.get("type_vocab_size", 2), masked_head=head, head_bias=head,
        pad_token_id=pad, eos_token_id=token(raw, "sep_token_id" if kind == "bert" else "eos_token_id", 102 if kind == "bert" else 2))


def names(kind: str, c: Architecture) -> Names:
    """Hugging Face tensor name → path of the parameter here."""
    found: Names = {"embeddings.word_embeddings.weight": "shared.table", "embeddings.position_embeddings.weight": "encoder_positions.table",
                    "embeddings.token_type_embeddings.weight": "token_types.table"}
    maps, norms = {}, {"embeddings.LayerNorm": "encoder_embed_norm"}
    for i in range(c.num_layers):
        theirs, ours = f"encoder.layer.{i}", f"encoder.{i}"
        maps |= {f"{theirs}.attention.self.{m}": f"{ours}.attn.{m[0]}" for m in ("query", "key", "value")}
        maps |= {f"{theirs}.attention.output.dense": f"{ours}.attn.o", f"{theirs}.intermediate.dense": f"{ours}.ff.up",
                 f"{theirs}.output.dense": f"{ours}.ff.out"}
        norms |= {f"{theirs}.attention.output.LayerNorm": f"{ours}.attn_norm", f"{theirs}.output.LayerNorm": f"{ours}.ff_norm"}
    if c.masked_head:
        found[BIAS[kind]] = "head_bias.bias"
        dense, after = HEADS[kind]
        maps[dense], norms[after] = HEADS[kind][dense], HEADS[kind][after]
    for their, our in maps.items():
        found |= {f"{their}.weight": f"{our}.kernel", f"{their}.bias": f"{our}.bias"}
    for their, our in norms.items():
        found |= {f"{their}.weight": f"{our}.scale", f"{their}.bias": f"{our}.bias"}
    return found


def _family(kind: str) -> Family:
    decoder = BIAS[kind].removesuffix("bias") + "decoder."
    return Family(
        config=partial(config, kind), names=partial(names, kind), prefix=f"{kind}.",
        copies={decoder + "weight": "embeddings.word_embeddings.weight", decoder + "bias": BIAS[kind]},
        unread=("embeddings.position_ids", "pooler.dense.*", "cls.seq_relationship.*"))  # numbers 0, 1, …; what only pretraining used


BERT, ROBERTA = _family("bert"), _family("roberta")
