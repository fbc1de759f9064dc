"""Greedy generation with a key/value cache, as one traced loop."""

from typing import Any

import jax
import jax.numpy as jnp


def greedy(module: Any, input_ids: jax.Array, attention_mask: jax.Array, max_new_tokens: int, hidden: Any = None,
           cross: Any = None) -> jax.Array:
    """The most likely next token, again and again, until every row has ended.

    Args:
        module: a transformer with a decoder.
        input_ids, attention_mask: int32 [B, S].
        max_new_tokens: T, a Python number.
        hidden, cross: what `encode` and `across` returned, where the inputs have been read already.

    Returns:
        int32 [B, T]; after a token that ends a row all is padding.
    """
    config = module.config
    hidden = module.encode(input_ids, attention_mask) if hidden is None else hidden
    cache = module.start(hidden, max_new_tokens, cross)
    rows, ends = input_ids.shape[0], jnp.array([config.eos_token_id, *config.other_ends])

    def going(state: tuple) -> jax.Array:
        at, _, done, _, _ = state
        return (at < max_new_tokens) & ~jnp.all(done)

    def step(state: tuple) -> tuple:
        at, token, done, out, own = state  # of the cache only what grows: the loop of many solutions copies its state at every step
        logits, grown = module.step(token, at, cache._replace(own=own), attention_mask)
        token = jnp.where(done, config.pad_token_id, jnp.argmax(logits, axis=-1).astype(jnp.int32))
        out = jax.lax.dynamic_update_slice_in_dim(out, token[:, None], at, axis=1)
        return at + 1, token, done | jnp.isin(token, ends), out, grown.own

    first = module.first(input_ids, attention_mask)
    out = jnp.full((rows, max_new_tokens), config.pad_token_id, jnp.int32)
    state = (jnp.int32(0), first, jnp.zeros(rows, bool), out, cache.own)
    return jax.lax.while_loop(going, step, state)[3]
