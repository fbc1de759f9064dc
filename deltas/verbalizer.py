"""How an encoder answers: one of the task's labels, by a fixed way from its hidden states to a score per label.

    words    s_l = mean over the label's tokens t of log p(t at the t-th mask token), where there is a masked-language head;
    cosine   s_l = cos(h, e_l) / 0.05, h the mean of the hidden states, e_l that of the label's own text through the bare backbone;
    linear   s_l = w_l · h + b_l, fitted once to the bare backbone's h on the training rows, and frozen.

p(label) = softmax(s). No way has a parameter that is trained with the delta, so a score is the delta's own. The labels' tables travel with
each batch: `label_ids` [L, W] and `label_mask` [L, W] for words, `label_vectors` [L, d] (and `label_bias` [L]) for the others,
`label_exists` [L] for all.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deltas.backbones.blocks import NEGATIVE, Dropout
from deltas.backbones.loading import Backbone
from deltas.errors import InputError
from deltas.tasks import Encoded, Example, Reading, Task
from deltas.tasks.batches import tokens, turned

TEMPERATURE = 0.05
"""Of cosines: a twentieth, as sentence encoders are trained with."""
ROWS_AT_ONCE = 64


def way(backbone: Backbone, reading: Reading) -> str:
    """The verbalizer: the one that was asked for, or words where the backbone has a masked-language head and cosine where it has none."""
    has_head = backbone.config.masked_head
    chosen = reading.verbalizer or ("words" if has_head else "cosine")
    if chosen == "words" and not has_head:
        raise InputError(f"expected a masked-language head for the verbalizer 'words', got {backbone.name} without one; use cosine or linear")
    if chosen == "words" and backbone.tokenizer.mask_token_id is None:
        raise InputError(f"expected a tokenizer with a mask token for the verbalizer 'words', got that of {backbone.name} without; restore "
                         "tokenizer_config.json or use cosine or linear")
    return chosen


def answers(backbone: Backbone, reading: Reading) -> str:
    """How answers come about, in words, for whoever reads a score: nothing but the delta is trained."""
    if backbone.kind != "encoder":
        return {"generate": "generated greedily", "rank": "labels ranked by likelihood",
                "auto": "labels ranked by likelihood where a task has labels, else generated greedily"}[reading.decode]
    return {"words": "label words at mask tokens, by the backbone's own masked-language head",
            "cosine": "cosine to the labels' embeddings by the bare backbone",
            "linear": "a linear head fitted once to the bare backbone, and frozen"}[way(backbone, reading)]


def can_answer(backbone: Backbone, tasks: Sequence[Task], reading: Reading) -> None:
    """Refuse tasks that the backbone cannot answer as they are to be read.

    Raises:
        InputError: answers that an encoder is to generate, or labels that are to be ranked of a task without.
    """
    encoder = backbone.kind == "encoder"
    if encoder and reading.decode == "generate":
        raise InputError(f"expected decode 'rank' for the encoder {backbone.name}, got {reading.decode!r}; an encoder can only choose "
                         "among labels")
    for task in tasks:
        if (encoder or reading.decode == "rank") and not task.labels:
            raise InputError(f"expected label words to rank for task {task.name}, got a task without; "
                             + ("use a backbone with a decoder" if encoder else "use decode 'generate' or 'auto'"))


def encode_labelled(backbone: Backbone, task: Task, examples: Sequence[Example], reading: Reading) -> Encoded:
    """The examples as input tokens, and as target the number of the first answer that is a label: [R, 1]; no target where none is."""
    tables = label_tables(backbone, task, reading)
    masks = (backbone.tokenizer.mask_token_id,) * (tables["label_ids"].shape[1] if "label_ids" in tables else 0)
    ids, lengths = tokens(turned(examples, task.name, reading), backbone.tokenizer, reading, reading.max_input, backbone.config.pad_token_id,
                          backbone.before, (*masks, *backbone.after))
    number = {label: i for i, label in enumerate(task.labels or ())}
    known = [[number[answer] for answer in example.answers if answer in number][:1] for example in examples]
    targets = np.array([found or [0] for found in known], np.int32)
    return Encoded(ids, lengths, targets, np.array([len(found) for found in known], np.int32), backbone.config.pad_token_id, tables)


@functools.lru_cache(maxsize=512)
def label_tables(backbone: Backbone, task: Task, reading: Reading) -> dict[str, np.ndarray]:
    """What a batch carries of the labels, by the way of answering."""
    chosen, labels = way(backbone, reading), task.labels or ()
    texts = [reading.target.format(answer=label, task=task.name) for label in labels]
    tables: dict[str, np.ndarray] = {"label_exists": np.ones(len(labels), bool)}
    if chosen == "words":
        rows = backbone.tokenizer([" " + text for text in texts], add_special_tokens=False)["input_ids"]  # a word within a text
        rows = [row[: reading.max_target] or [backbone.config.pad_token_id] for row in rows]
        width = max(map(len, rows))
        tables["label_ids"] = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
        tables["label_mask"] = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int32)
        return tables
    if chosen == "cosine":
        return tables | {"label_vectors": features(backbone, texts, reading)}
    from sklearn.linear_model import LogisticRegression

    inputs = turned(task.train, task.name, reading)
    number = {label: i for i, label in enumerate(labels)}
    answers = np.array([number[e.answers[0]] for e in task.train])
    vectors, bias = np.zeros((len(labels), backbone.config.d_model), np.float32), np.full(len(labels), NEGATIVE, np.float32)
    if len(seen := np.unique(answers)) == 1:
        bias[seen] = 0
    else:
        fitted = LogisticRegression(max_iter=1000).fit(features(backbone, inputs, reading), answers)
        coefficients, intercepts = fitted.coef_, fitted.intercept_
        if len(seen) == 2:  # one row for two classes: the second against the first
            coefficients, intercepts = np.concatenate([0 * coefficients, coefficients]), np.concatenate([0 * intercepts, intercepts])
        vectors[seen], bias[seen] = coefficients, intercepts
    return tables | {"label_vectors": vectors, "label_bias": bias}


def features(backbone: Backbone, texts: Sequence[str], reading: Reading) -> np.ndarray:
    """h of the texts through the bare backbone: float32 [R, d]."""
    ids, lengths = tokens(texts, backbone.tokenizer, reading, reading.max_input, backbone.config.pad_token_id, backbone.before, backbone.after)
    graphdef, state = nnx.split(backbone.module)
    pad = -len(ids) % min(ROWS_AT_ONCE, len(ids))
    ids, lengths = np.pad(ids, ((0, pad), (0, 0)), mode="edge"), np.pad(lengths, (0, pad), mode="edge")
    masks = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int32)
    step = min(ROWS_AT_ONCE, len(ids))
    found = [_pooled(graphdef, state, ids[i : i + step], masks[i : i + step]) for i in range(0, len(ids), step)]
    return np.concatenate([np.asarray(h) for h in found])[: len(ids) - pad]


@functools.partial(jax.jit, static_argnums=0)
def _pooled(graphdef: Any, state: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
    return pooled(nnx.merge(graphdef, state).encode(ids, mask), mask)


def pooled(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of the hidden states [B, S, d] of the tokens under the mask [B, S]: float32 [B, d]."""
    weights = mask.astype(jnp.float32)[..., None]
    return jnp.sum(hidden.astype(jnp.float32) * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1)


def label_scores(module: Any, batch: Mapping[str, jax.Array], dropout: Dropout | None = None) -> jax.Array:
    """s [B, L] for the inputs of a batch, under the tables that it carries."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    hidden = module.encode(ids, mask, dropout=dropout)[:, -ids.shape[1]:]  # without the rows of a prompt
    if "label_ids" in batch:
        labels, kept = batch["label_ids"], batch["label_mask"].astype(jnp.float32)
        slots = jnp.max(jnp.sum(batch["label_mask"], axis=1))  # a neighbour in flight may have longer labels
        first = jnp.sum(mask, axis=1) - 1 - slots  # the mask tokens stand before the closing token
        places = jnp.clip(first[:, None] + jnp.arange(labels.shape[1]), 0, ids.shape[1] - 1)
        log_p = jax.nn.log_softmax(module.logits_of(jnp.take_along_axis(hidden, places[..., None], axis=1)))
        picked = log_p[:, jnp.arange(labels.shape[1]), labels]  # [B, L, W]
        scores = jnp.sum(picked * kept, axis=-1) / jnp.maximum(jnp.sum(kept, axis=-1), 1)
    else:
        h, vectors = pooled(hidden, mask), batch["label_vectors"]
        if "label_bias" in batch:
            scores = h @ vectors.T + batch["label_bias"]
        else:
            h, vectors = (v * jax.lax.rsqrt(jnp.sum(v * v, axis=-1, keepdims=True) + 1e-12) for v in (h, vectors))
            scores = h @ vectors.T / TEMPERATURE
    return jnp.where(batch["label_exists"], scores, NEGATIVE)
