"""T5: versions 1.0, 1.1 and flan (Raffel et al. 2020, arXiv 1910.10683), from the shared blocks.

How its configuration maps to blocks, and its table of Hugging Face weight names. What sets it apart: RMS norms before each sublayer, no
biases, no scaling of the scores, and one relative-position table per stack shared by its layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from deltas.backbones.blocks import Attention, Dropout, Embedding, FeedForward, Linear, RelativePositions, RMSNorm, drop
from deltas.errors import InputError


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """The sizes of a T5, under the names of its `config.json`."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    num_decoder_layers: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    act: str = "relu"
    gated: bool = False
    tied: bool = True
    scaled: bool = True
    """Whether the decoder's output is multiplied by d_model^-1/2 before the head: version 1.0 does."""
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], names: frozenset[str] = frozenset()) -> "T5Config":
        """From a `config.json` and the names of the tensors beside it.

        Whether the head is tied is read from the tensors, since configurations are wrong about it; the scaling is read from the
        configuration's `tie_word_embeddings`, which is what tells version 1.0 from 1.1 in Hugging Face's files.
        """
        projection = str(raw.get("feed_forward_proj", "relu"))
        act = projection.removeprefix("gated-")
        if act not in ("relu", "gelu", "gelu_new", "silu"):
            raise InputError(f"expected feed_forward_proj relu, gelu, silu or gated-…, got {projection!r}; mend config.json")
        gated = projection.startswith("gated-")
        sizes = {name: raw[name] for name in cls.__dataclass_fields__ if raw.get(name) is not None}
        missing = [n for n in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads") if n not in sizes]
        if missing:
            raise InputError(f"expected {', '.join(missing)} in a T5's config.json, got none; restore the file")
        sizes.setdefault("num_decoder_layers", sizes["num_layers"])
        scaled = raw.get("tie_word_embeddings", True) is not False
        tied = "lm_head.weight" not in names if names else scaled
        act = "gelu_new" if projection == "gated-gelu" else act
        return cls(**{**sizes, "act": act, "gated": gated, "tied": tied, "scaled": scaled})


class T5Block(nnx.Module):
    """x ← x + sublayer(norm(x)) for self-attention and feed-forward."""

    def __init__(self, c: T5Config, *, rngs: nnx.Rngs) -> None:
        self.attn_norm, self.attn = _norm(c), _attention(c, rngs)
        self.ff_norm = _norm(c)
        self.ff = FeedForward(c.d_model, c.d_ff, act=c.act, gated=c.gated, stds=(c.d_model**-0.5, c.d_ff**-0.5), rngs=rngs)

    def feed_forward(self, x: jax.Array, dropout: Dropout | None = None) -> jax.Array:
        """The last sublayer with its residual."""
        return x + drop(self.ff(self.ff_norm(x), dropout=dropout), dropout)


class T5DecoderBlock(T5Block):
    """A block with cross-attention between the two."""

    def __init__(self, c: T5Config, *, rngs: nnx.Rngs) -> None:
        super().__init__(c, rngs=rngs)
        self.cross_norm, self.cross = _norm(c), _attention(c, rngs)


def _norm(c: T5Config) -> RMSNorm:
    return RMSNorm(c.d_model, eps=c.layer_norm_epsilon)


def _attention(c: T5Config, rngs: nnx.Rngs) -> Attention:
    stds = ((c.d_model * c.d_kv) ** -0.5, c.d_model**-0.5, (c.num_heads * c.d_kv) ** -0.5)
    return Attention(c.d_model, heads=c.num_heads, head_dim=c.d_kv, scale=1.0, stds=stds, rngs=rngs)


class Cache(NamedTuple):
    """What generation keeps: per layer the keys and values so far and those of the encoder."""

    own: list[tuple[jax.Array, jax.Array]]
    """[B, T, heads, head_dim] each, filled up to the current step."""
    cross: list[tuple[jax.Array, jax.Array]]
    """[B, S, heads, head_dim] each, computed once."""


class T5(nnx.Module):
    """A T5 encoder-decoder with a language-model head."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        c = self.config = config
        self.shared = Embedding(c.vocab_size, c.d_model, std=1.0, rngs=rngs)

        def positions(two_way: bool) -> RelativePositions:
            return RelativePositions(
                buckets=c.relative_attention_num_buckets, furthest=c.relative_attention_max_distance, heads=c.num_heads,
                two_way=two_way, std=c.d_model**-0.5, rngs=rngs)

        self.encoder = nnx.List([T5Block(c, rngs=rngs) for _ in range(c.num_layers)])
        self.encoder_positions, self.encoder_norm = positions(True), _norm(c)
        self.decoder = nnx.List([T5DecoderBlock(c, rngs=rngs) for _ in range(c.num_decoder_layers)])
        self.decoder_positions, self.decoder_norm = positions(False), _norm(c)
        self.head = None if c.tied else Linear(c.d_model, c.vocab_size, std=c.d_model**-0.5, rngs=rngs)

    def encode(self, input_ids: jax.Array, attention_mask: jax.Array, *, dropout: Dropout | None = None) -> jax.Array:
        """Hidden states [B, S, d] of the tokens [B, S]."""
        x = drop(self.shared(input_ids), dropout)
        mask, at = attention_mask[:, None, :].astype(bool), jnp.arange(input_ids.shape[1])
        for block in self.encoder:
            h = block.attn_norm(x)
            y = block.attn(h, block.attn.keys_values(h), mask, positions=(self.encoder_positions, at, at), dropout=dropout)
            x = block.feed_forward(x + drop(y, dropout), dropout)
        return drop(self.encoder_norm(x), dropout)

    def decode(
        self, decoder_input_ids: jax.Array, hidden: jax.Array, attention_mask: jax.Array, *, dropout: Dropout | None = None
    ) -> jax.Array:
        """Logits [B, T, vocabulary] of the decoder's tokens [B, T] given the encoder's hidden states."""
        x = drop(self.shared(decoder_input_ids), dropout)
        at = jnp.arange(decoder_input_ids.shape[1])
        causal = (at[:, None] >= at[None, :])[None]
        mask = attention_mask[:, None, :].astype(bool)
        for block in self.decoder:
            h = block.attn_norm(x)
            y = block.attn(h, block.attn.keys_values(h), causal, positions=(self.decoder_positions, at, at), dropout=dropout)
            x = x + drop(y, dropout)
            y = block.cross(block.cross_norm(x), block.cross.keys_values(hidden), mask, dropout=dropout)
            x = block.feed_forward(x + drop(y, dropout), dropout)
        return self.logits_of(drop(self.decoder_norm(x), dropout))

    def logits_of(self, x: jax.Array) -> jax.Array:
        """Float32 logits of the decoder's last hidden states."""
        if self.config.scaled:
            x = x * self.config.d_model**-0.5
        y = x @ self.shared.table[...].T if self.head is None else self.head(x)
        return y.astype(jnp.float32)

    def __call__(
        self, input_ids: jax.Array, attention_mask: jax.Array, decoder_input_ids: jax.Array, *, dropout: Dropout | None = None
    ) -> jax.Array:
        """Logits [B, T, vocabulary]; a decoder token sees itself and those before it."""
        hidden = self.encode(input_ids, attention_mask, dropout=dropout)
        return self.decode(decoder_input_ids, hidden, attention_mask, dropout=dropout)

    def start(self, hidden: jax.Array, length: int) -> Cache:
        """An empty cache for `length` generated tokens."""
        c = self.config
        empty = jnp.zeros((hidden.shape[0], length, c.num_heads, c.d_kv), hidden.dtype)
        return Cache([(empty, empty)] * c.num_decoder_layers, [b.cross.keys_values(hidden) for b in self.decoder])

    def step(self, token: jax.Array, at: jax.Array, cache: Cache, attention_mask: jax.Array) -> tuple[jax.Array, Cache]:
        """Logits [B, vocabulary] after the token [B] at position `at`, and the cache with it."""
        x = self.shared(token[:, None])
        mask, all_at, own = attention_mask[:, None, :].astype(bool), jnp.arange(cache.own[0][0].shape[1]), []
        for block, (keys, values), cross in zip(self.decoder, cache.own, cache.cross, strict=True):
            h = block.attn_norm(x)
            k, v = block.attn.keys_values(h)
            keys = jax.lax.dynamic_update_slice_in_dim(keys, k.astype(keys.dtype), at, axis=1)
            values = jax.lax.dynamic_update_slice_in_dim(values, v.astype(values.dtype), at, axis=1)
            own.append((keys, values))
            seen = jnp.broadcast_to(all_at <= at, (x.shape[0], 1, all_at.shape[0]))
            x = x + block.attn(h, (keys, values), seen, positions=(self.decoder_positions, at[None], all_at))
            x = block.feed_forward(x + block.cross(block.cross_norm(x), cross, mask))
        return self.logits_of(self.decoder_norm(x))[:, 0], Cache(own, cache.cross)


def weight_names(c: T5Config) -> dict[str, str]:
    """Hugging Face tensor name → path of the parameter here; every `Linear` kernel is stored transposed there."""
    names = {"shared.weight": "shared.table", "encoder.final_layer_norm.weight": "encoder_norm.scale",
             "decoder.final_layer_norm.weight": "decoder_norm.scale"}
    if not c.tied:
        names["lm_head.weight"] = "head.kernel"
    ff = {"wi_0": "gate", "wi_1": "up", "wo": "out"} if c.gated else {"wi": "up", "wo": "out"}
    for stack, layers in (("encoder", c.num_layers), ("decoder", c.num_decoder_layers)):
        names[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = f"{stack}_positions.table"
        sublayers = [("SelfAttention", "attn")] + [("EncDecAttention", "cross")] * (stack == "decoder")
        for i in range(layers):
            theirs, ours = f"{stack}.block.{i}.layer", f"{stack}.{i}"
            for j, (their, our) in enumerate(sublayers):
                names[f"{theirs}.{j}.layer_norm.weight"] = f"{ours}.{our}_norm.scale"
                names |= {f"{theirs}.{j}.{their}.{m}.weight": f"{ours}.{our}.{m}.kernel" for m in "qkvo"}
            j = len(sublayers)
            names[f"{theirs}.{j}.layer_norm.weight"] = f"{ours}.ff_norm.scale"
            names |= {f"{theirs}.{j}.DenseReluDense.{w}.weight": f"{ours}.ff.{our}.kernel" for w, our in ff.items()}
    return names


# Copies of the shared embedding, and one table that old files carry and no T5 reads.
REDUNDANT = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
             "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight")
