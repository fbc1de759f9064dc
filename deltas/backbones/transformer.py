"""The transformer that every family is: embeddings, an encoder, a decoder or both, and a head.

What is common to all is `encode(input_ids, attention_mask)`. Those with a decoder go on from what it returns, whatever that is:
`decode` gives the logits of a whole answer, `start` and `step` those of one token after the other. An encoder-decoder returns hidden
states, which its decoder attends to across; a decoder alone returns the keys and values of the prompt, and continues it. The prompt's last
token is the first that `decode` and `step` read, so that a decoder alone starts as an encoder-decoder does from its start token.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from deltas.backbones.architecture import Architecture
from deltas.backbones.blocks import ACTIVATIONS, Attention, Bias, Dropout, Embedding, Entry, FeedForward, Linear, Norm, RelativePositions, drop
from deltas.backbones.sites import Site
from deltas.errors import InputError

KeysValues = tuple[jax.Array, jax.Array]


class Block(nnx.Module):
    """Self-attention, cross-attention where there is one, feed-forward, each with its norm and residual."""

    def __init__(self, c: Architecture, *, cross: bool, rngs: nnx.Rngs) -> None:
        self.norm_first = c.norm_first
        self.attn_norm, self.attn = norm(c), attention(c, rngs)
        self.ff_norm = norm(c)
        self.ff = FeedForward(c.d_model, c.d_ff, act=c.act, gated=c.gated, bias=c.bias, stds=(c.d_model**-0.5, c.d_ff**-0.5), rngs=rngs)
        if cross:
            self.cross_norm, self.cross = norm(c), attention(c, rngs)

    def before(self, norm: Norm, x: jax.Array) -> jax.Array:
        """What a sublayer reads of the residual stream."""
        return norm(x) if self.norm_first else x

    def after(self, site: Site, norm: Norm, x: jax.Array, y: jax.Array, dropout: Dropout | None) -> jax.Array:
        """The residual stream with a sublayer's output."""
        x = x + drop(site.joining(y, x, None if self.norm_first else norm), dropout)
        return x if self.norm_first else norm(x)

    def feed_forward(self, x: jax.Array, dropout: Dropout | None = None) -> jax.Array:
        """The last sublayer with its residual."""
        return self.after(self.ff, self.ff_norm, x, self.ff(self.before(self.ff_norm, x), dropout=dropout), dropout)


def norm(c: Architecture) -> Norm:
    """A norm of the family's kind."""
    return Norm(c.d_model, eps=c.layer_norm_epsilon, rms=c.rms)


def attention(c: Architecture, rngs: nnx.Rngs) -> Attention:
    """An attention of the family's kind."""
    stds = ((c.d_model * c.d_kv) ** -0.5, c.d_model**-0.5, (c.num_heads * c.d_kv) ** -0.5)
    return Attention(c.d_model, heads=c.num_heads, kv_heads=c.num_kv_heads, head_dim=c.d_kv, rotary=c.rotary, stds=stds, rngs=rngs,
                     scale=c.d_kv**-0.5 if c.scaled_attention else 1.0, out_bias=c.bias, bias=c.bias if c.qkv_bias is None else c.qkv_bias)


class Prompt(NamedTuple):
    """What a decoder alone keeps of a prompt of S tokens: all but its last token can be seen by what follows."""

    layers: list[KeysValues]
    """[B, S, kv_heads, head_dim] each."""
    visible: jax.Array
    """Bool [B, S]."""
    at: jax.Array
    """The position of each token, int [B, S]."""
    last: jax.Array
    """The position of each row's last token, int [B, 1]."""


class Cache(NamedTuple):
    """What generation keeps: per layer the keys and values so far, and what the decoder started from."""

    own: list[KeysValues]
    """[B, T, kv_heads, head_dim] each, filled up to the current step."""
    cross: list[KeysValues]
    """[B, S, heads, head_dim] each, computed once; empty for a decoder alone."""
    hidden: Any
    """The prompt of a decoder alone."""


class Transformer(nnx.Module):
    """A pretrained transformer with its head; `config.kind` says which stacks it has."""

    encoder: Any
    decoder: Any
    encoder_input: Entry
    decoder_input: Entry

    def __init__(self, config: Architecture, *, rngs: nnx.Rngs) -> None:
        c = self.config = config
        self.shared = Embedding(c.vocab_size, c.d_model, std=1.0, rngs=rngs)
        if c.token_types:
            self.token_types = Embedding(c.token_types, c.d_model, std=0.02, rngs=rngs)
        if c.num_layers:
            self._add_stack("encoder", c.num_layers, rngs)
        if c.num_decoder_layers:
            self._add_stack("decoder", c.num_decoder_layers, rngs)
        if c.masked_head:
            self.head_dense, self.head_norm = Linear(c.d_model, c.d_model, std=0.02, bias=True, rngs=rngs), norm(c)
        if not c.tied:
            self.head = Linear(c.d_model, c.vocab_size, std=c.d_model**-0.5, rngs=rngs)
        if c.head_bias:
            self.head_bias = Bias(c.vocab_size)

    def _add_stack(self, stack: str, layers: int, rngs: nnx.Rngs) -> None:
        """The blocks of a stack, and what tokens pass before and after them."""
        c, answers = self.config, stack == "decoder" and self.config.kind == "encoder-decoder"
        setattr(self, stack, nnx.List([Block(c, cross=answers, rngs=rngs) for _ in range(layers)]))
        setattr(self, f"{stack}_input", Entry(c.d_model, prompts=not answers))
        if c.positions == "relative":
            setattr(self, f"{stack}_positions", RelativePositions(
                buckets=c.relative_attention_num_buckets, furthest=c.relative_attention_max_distance, heads=c.num_heads,
                two_way=stack == "encoder", std=c.d_model**-0.5, rngs=rngs))
        if c.positions == "learned":
            setattr(self, f"{stack}_positions", Embedding(c.max_positions, c.d_model, std=0.02, rngs=rngs))
        if c.embed_norm:
            setattr(self, f"{stack}_embed_norm", norm(c))
        if c.final_norm:
            setattr(self, f"{stack}_norm", norm(c))

    # ------------------------------------------------------------ what enters and leaves a stack
    def embed(self, stack: str, ids: jax.Array, at: jax.Array, dropout: Dropout | None, prompts: Sequence[jax.Array] = ()) -> jax.Array:
        """Embedded tokens [B, P + S, d] of the tokens [B, S], P rows of prompts before them, all at positions [P + S] or [B, P + S]."""
        c = self.config
        x = self.shared(ids)
        if c.embed_scale != 1.0:
            x = x * c.embed_scale
        if prompts:
            x = jnp.concatenate([jnp.broadcast_to(rows.astype(x.dtype), (len(x), *rows.shape)) for rows in prompts] + [x], axis=1)
        if c.token_types:
            x = x + self.token_types(jnp.zeros((), jnp.int32))
        if c.positions == "learned":
            x = x + getattr(self, f"{stack}_positions")(at + c.position_offset)
        if c.embed_norm:
            x = getattr(self, f"{stack}_embed_norm")(x)
        return drop(x, dropout)

    def relative(self, stack: str, queries: jax.Array, keys: jax.Array) -> tuple[RelativePositions, jax.Array, jax.Array] | None:
        """The bias on scores between positions [S] and [K], in families that have one."""
        return (getattr(self, f"{stack}_positions"), queries, keys) if self.config.positions == "relative" else None

    def close(self, stack: str, x: jax.Array, dropout: Dropout | None = None) -> jax.Array:
        """The last hidden states of a stack, from those of its last block."""
        return drop(getattr(self, f"{stack}_norm")(x), dropout) if self.config.final_norm else x

    def logits_of(self, x: jax.Array) -> jax.Array:
        """Float32 logits [..., vocabulary] of the last hidden states [..., d]."""
        c = self.config
        if c.scaled:
            x = x * c.d_model**-0.5
        if c.masked_head:
            x = self.head_norm(ACTIVATIONS[c.head_act](self.head_dense(x)))
        y = x @ self.shared.values().T if c.tied else self.head(x)
        return (self.head_bias(y) if c.head_bias else y).astype(jnp.float32)

    # ------------------------------------------------------------ reading
    def encode(self, input_ids: jax.Array, attention_mask: jax.Array, *, dropout: Dropout | None = None) -> Any:
        """What the tokens [B, S] are to what follows: hidden states [B, S, d], or the prompt of a decoder alone.

        Rows of prompt tokens that a delta puts before an encoder's tokens are in front of the hidden states: [B, P + S, d].
        """
        if self.config.kind == "decoder":
            return self._read(input_ids, attention_mask, dropout)[0]
        prompts, at = self.encoder_input.before(), self._at("encoder", jnp.arange(input_ids.shape[1]))
        self._check_room("encoder", input_ids.shape[1])
        at, mask = _beside(prompts, at, attention_mask)
        x = self.embed("encoder", input_ids, at, dropout, prompts)
        seen = mask[:, None, :].astype(bool)
        for block in self.encoder:
            h = block.before(block.attn_norm, x)
            y = block.attn(h, block.attn.keys_values(h, at), seen, at=at, positions=self.relative("encoder", at, at), dropout=dropout)
            x = block.feed_forward(block.after(block.attn, block.attn_norm, x, y, dropout), dropout)
        return self.close("encoder", x, dropout)

    def hidden(self, input_ids: jax.Array, attention_mask: jax.Array, *, dropout: Dropout | None = None) -> jax.Array:
        """The last hidden states [B, S, d] of the tokens themselves: those of the encoder, or of a decoder alone."""
        alone = self.config.kind == "decoder"
        found = (self._read(input_ids, attention_mask, dropout)[1] if alone else
                 self.encode(input_ids, attention_mask, dropout=dropout))
        return found[:, -input_ids.shape[1]:]

    def _at(self, stack: str, at: jax.Array) -> jax.Array:
        """The positions of tokens that stand at `at` where nothing is attached."""
        shift = getattr(self, f"{stack}_input").shift()
        return at + shift if shift else at

    def _check_room(self, stack: str, tokens: int) -> None:
        """Refuse more tokens than the table of positions has rows: an index beyond it would read its last row."""
        room, shift = self.config.room, getattr(self, f"{stack}_input").shift()
        if room is not None and shift + tokens > room:
            raise InputError(f"expected at most {room} positions in the {stack}, got {tokens} tokens after {shift} others; cut the texts to "
                             f"{room - shift} tokens")

    def _read(self, input_ids: jax.Array, attention_mask: jax.Array, dropout: Dropout | None) -> tuple[Prompt, jax.Array]:
        """A decoder alone reads: what it keeps, and its last hidden states [B, P + S, d]."""
        prompts = self.decoder_input.before()
        self._check_room("decoder", input_ids.shape[1])
        at = self._at("decoder", jnp.maximum(jnp.cumsum(attention_mask, axis=1) - 1, 0))
        last = jnp.max(jnp.where(attention_mask > 0, at, 0), axis=1, keepdims=True)
        at, mask = _beside(prompts, at, attention_mask)
        x = self.embed("decoder", input_ids, at, dropout, prompts)
        seen = self._causal(at, at) & (mask[:, None, :] > 0)
        layers = []
        for block in self.decoder:
            h = block.before(block.attn_norm, x)
            layers.append(block.attn.keys_values(h, at))
            y = block.attn(h, layers[-1], seen, at=at, dropout=dropout)
            x = block.feed_forward(block.after(block.attn, block.attn_norm, x, y, dropout), dropout)
        return Prompt(layers, (mask > 0) & (at < last), at, last), self.close("decoder", x, dropout)

    def _causal(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """Which keys at [B, K] or [K] a query at [B, S] or [S] may see: bool [B or 1, S, K]."""
        queries, keys = (p[None] if p.ndim == 1 else p for p in (queries, keys))
        distance = queries[:, :, None] - keys[:, None, :]
        seen = distance >= 0
        return seen if self.config.window is None else seen & (distance < self.config.window)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array, decoder_input_ids: jax.Array | None = None, *,
                 dropout: Dropout | None = None) -> jax.Array:
        """Logits [B, T, vocabulary] of the decoder's tokens, or [B, S, vocabulary] of the tokens themselves where there is one stack.

        An encoder without a head returns its hidden states [B, S, d].
        """
        c = self.config
        if c.kind == "decoder":
            return self.logits_of(self._read(input_ids, attention_mask, dropout)[1][:, -input_ids.shape[1]:])
        hidden = self.encode(input_ids, attention_mask, dropout=dropout)
        if c.kind == "encoder":
            hidden = hidden[:, -input_ids.shape[1]:]
            return self.logits_of(hidden) if c.masked_head else hidden.astype(jnp.float32)
        assert decoder_input_ids is not None
        return self.decode(decoder_input_ids, hidden, attention_mask, dropout=dropout)

    # ------------------------------------------------------------ writing
    def first(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """The token [B] that the decoder reads first: its start token, or the last of the prompt."""
        if self.config.kind == "encoder-decoder":
            return jnp.full(len(input_ids), self.config.decoder_start_token_id, jnp.int32)
        place = jnp.max(jnp.where(attention_mask > 0, jnp.arange(input_ids.shape[1]), 0), axis=1)
        return jnp.take_along_axis(input_ids, place[:, None], axis=1)[:, 0]

    def across(self, hidden: Any) -> list[KeysValues]:
        """The keys and values of the hidden states, a block of the decoder of an encoder-decoder."""
        return [block.cross.keys_values(hidden) for block in self.decoder] if self.config.kind == "encoder-decoder" else []

    def decode(self, decoder_input_ids: jax.Array, hidden: Any, attention_mask: jax.Array, *, cross: list[KeysValues] | None = None,
               dropout: Dropout | None = None) -> jax.Array:
        """Logits [B, T, vocabulary] of the decoder's tokens [B, T] given what `encode` (and `across`) returned; each sees those up to it."""
        cross = self.across(hidden) if cross is None else cross
        return self._write(decoder_input_ids, jnp.arange(decoder_input_ids.shape[1]), hidden, cross, attention_mask, dropout=dropout)[0]

    def start(self, hidden: Any, length: int, cross: list[KeysValues] | None = None) -> Cache:
        """An empty cache for `length` generated tokens."""
        c, alone = self.config, self.config.kind == "decoder"
        kept = hidden.layers[0][0] if alone else hidden
        empty = jnp.zeros((len(kept), length, c.num_kv_heads or c.num_heads, c.d_kv), kept.dtype)
        return Cache([(empty, empty)] * c.num_decoder_layers, self.across(hidden) if cross is None else cross, hidden if alone else None)

    def step(self, token: jax.Array, at: jax.Array, cache: Cache, attention_mask: jax.Array) -> tuple[jax.Array, Cache]:
        """Logits [B, vocabulary] after the token [B], the `at`-th that the decoder reads, and the cache with it."""
        logits, own = self._write(token[:, None], at[None], cache.hidden, cache.cross, attention_mask, cache=cache.own)
        return logits[:, 0], cache._replace(own=own)

    def _write(self, ids: jax.Array, number: jax.Array, hidden: Any, cross: list[KeysValues], attention_mask: jax.Array, *,
               cache: list[KeysValues] | None = None, dropout: Dropout | None = None) -> tuple[jax.Array, list[KeysValues]]:
        """Logits of the tokens ids [B, T], which are the `number`-th [T] of the answer, and the keys and values of the answer so far."""
        alone = self.config.kind == "decoder"
        all_number = number if cache is None else jnp.arange(cache[0][0].shape[1])
        prompt = hidden.at.shape[1] - 1 - sum(map(len, self.decoder_input.before())) if alone else 0
        self._check_room("decoder", prompt + len(all_number))
        at, key_at = ((hidden.last + n) if alone else self._at("decoder", n) for n in (number, all_number))
        x = self.embed("decoder", ids, at, dropout)
        seen = self._causal(at, key_at)
        if alone:
            before = self._causal(at, hidden.at) & hidden.visible[:, None, :]
            seen = jnp.concatenate([before, jnp.broadcast_to(seen, (*before.shape[:2], seen.shape[2]))], axis=-1)
        mask, made = attention_mask[:, None, :].astype(bool), []
        if cross:  # the encoder's prompts are in front of its tokens
            mask = jnp.pad(mask, ((0, 0), (0, 0), (cross[0][0].shape[1] - mask.shape[2], 0)), constant_values=True)
        for i, block in enumerate(self.decoder):
            h = block.before(block.attn_norm, x)
            k, v = block.attn.keys_values(h, at)
            if cache is not None:
                k, v = (jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), number[0], axis=1)
                        for old, new in zip(cache[i], (k, v), strict=True))
            made.append((k, v))
            if alone:
                k, v = (jnp.concatenate([old, new], axis=1) for old, new in zip(hidden.layers[i], (k, v), strict=True))
            y = block.attn(h, (k, v), seen, at=at, positions=self.relative("decoder", at, key_at), dropout=dropout)
            x = block.after(block.attn, block.attn_norm, x, y, dropout)
            if cross:
                y = block.cross(block.before(block.cross_norm, x), cross[i], mask, dropout=dropout)
                x = block.after(block.cross, block.cross_norm, x, y, dropout)
            x = block.feed_forward(x, dropout)
        return self.logits_of(self.close("decoder", x, dropout)), made


def _beside(prompts: Sequence[jax.Array], at: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Positions and mask with those of the prompts in front: a prompt stands at 0 … P − 1, and is always seen."""
    length = sum(len(rows) for rows in prompts)
    if not length:
        return at, mask
    front = jnp.broadcast_to(jnp.arange(length), (*at.shape[:-1], length))
    return jnp.concatenate([front, at], axis=-1), jnp.pad(mask, ((0, 0), (length, 0)), constant_values=1)
