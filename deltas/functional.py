"""A backbone with one delta attached, as pure functions of the vector θ.

The graph definition is static and the backbone's arrays are an argument (`frozen`), so every function here goes under `jax.jit`, `grad`,
`vmap` and `lax.map` as it is, and no weight is copied or baked into a compiled program, whatever the number of solutions in flight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deltas.attach import attach, belongs_to, natural, no_probe, own, parameter_name, sites
from deltas.backbones.blocks import Attention, Dropout, Entry
from deltas.backbones.generate import greedy
from deltas.backbones.loading import Backbone
from deltas.backbones.sites import Delta, Part
from deltas.errors import InputError
from deltas.files import sha256
from deltas.layout import Layout
from deltas.types import DeltaType
from deltas.verbalizer import label_scores

Batch = Mapping[str, jax.Array]
"""input_ids, attention_mask [B, S]; target_ids, target_mask [B, T]: the answer and its end, without the decoder's start token."""
Theta = jax.Array | Mapping[str, jax.Array]
"""θ [D], or its parameters by the names of the layout: apart, so that what some of them do not enter does not seem to depend on θ."""


@dataclass(frozen=True, eq=False)
class Attached:
    """θ ∈ R^D ↦ loss, logits, generated tokens.

    `frozen` holds the backbone's arrays (shared with the backbone), `theta0` the delta's initial parameters, float32 [D].
    """

    backbone: Backbone
    config: DeltaType
    layout: Layout
    theta0: np.ndarray
    graphdef: Any
    frozen: Any
    paths: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, backbone: Backbone, config: DeltaType, *, theta0: Any = None, seed: int = 0, text: Sequence[str] = ()) -> Self:
        """Attach `config` to its sites on the backbone, which itself stays as it is.

        Args:
            theta0: the initial parameters; None draws them once, from `seed` and the label.
            seed: of the draw.
            text: real text of the tasks, for types that start from activations; without it, random words of the vocabulary.
        """
        module = own(backbone.module)
        places = sites(module)
        chosen = {name: places[name] for name in config.choose(places)}
        key = jax.random.fold_in(jax.random.key(seed), int(sha256(config.label)[:7], 16))

        def probe(length: int) -> dict[str, tuple[jax.Array, ...]]:
            return activations(backbone, list(chosen), _tokens(backbone, text, length, key))

        if theta0 is not None:  # nothing to draw: the values are replaced below
            probe = no_probe(chosen)
        attach(module, config.label, config.build(chosen, key, probe))
        graphdef, delta, frozen = nnx.split(module, belongs_to(config.label), ...)
        flat = {path: variable[...] for path, variable in nnx.to_flat_state(delta)}
        names = {parameter_name(path): path for path in flat}
        order = sorted(names, key=natural)
        layout = Layout(tuple(order), tuple(flat[names[n]].shape for n in order))
        if theta0 is None:
            theta0 = layout.flatten({n: flat[names[n]] for n in order})
        theta0 = np.asarray(theta0, np.float32)
        if theta0.shape != (layout.size,):
            raise InputError(f"expected θ0 of {config.label} with {layout.size} numbers, got shape {theta0.shape}; it belongs to "
                             "another backbone or another size of the delta")
        return cls(backbone, config, layout, theta0, graphdef, frozen, tuple(names[n] for n in order))

    @property
    def label(self) -> str:
        """The delta's label."""
        return self.config.label

    @cached_property
    def theta0_fingerprint(self) -> str:
        """SHA-256 of θ0 and its layout."""
        return sha256(self.theta0.tobytes(), str(self.layout.to_json()))

    def check(self, solution: Any) -> None:
        """Refuse a solution of another backbone or another θ0."""
        for what, theirs, ours in (("backbone", solution.backbone, self.backbone.fingerprint),
                                   ("θ0", solution.theta0_fingerprint, self.theta0_fingerprint)):
            if theirs != ours:
                raise InputError(f"expected a solution of {what} {ours}, got {solution.task} of {what} {theirs}; "
                                 f"use the {what} it was trained with")

    def module(self, theta: Theta, frozen: Any) -> Any:
        """The `nnx` module at θ."""
        return nnx.merge(self.graphdef, self.state(theta), frozen)

    def state(self, theta: Theta) -> Any:
        """The delta's part of the module's state at θ [..., D]; leading axes are kept."""
        values = theta if isinstance(theta, Mapping) else self.layout.unflatten(theta)
        return nnx.from_flat_state([(path, Delta(values[n])) for path, n in zip(self.paths, self.layout.names, strict=True)])

    def logits(self, theta: Theta, frozen: Any, batch: Batch, dropout: Dropout | None = None) -> jax.Array:
        """Float32 logits [B, T, vocabulary] for the targets, each position given the true targets before it; of an encoder the scores of
        the labels, [B, 1, L]."""
        module = self.module(theta, frozen)
        if self.backbone.kind == "encoder":
            return label_scores(module, batch, dropout)[:, None]
        return _written(module, _read(module, batch, dropout), batch, batch["target_ids"], dropout)

    def token_losses(self, theta: Theta, frozen: Any, batch: Batch, dropout: Dropout | None = None) -> jax.Array:
        """Cross-entropy of each target token, 0 where there is none: float32 [B, T]."""
        return _cross_entropy(self.logits(theta, frozen, batch, dropout), batch["target_ids"]) * batch["target_mask"]

    def loss(self, theta: Theta, frozen: Any, batch: Batch, key: jax.Array | None = None, rate: float = 0.0) -> jax.Array:
        """Mean cross-entropy over the target tokens of the batch; dropout at `rate` where a key is given."""
        dropout = Dropout(key, rate) if key is not None and rate > 0 else None
        return jnp.sum(self.token_losses(theta, frozen, batch, dropout)) / jnp.maximum(jnp.sum(batch["target_mask"]), 1)

    def generate(self, theta: Theta, frozen: Any, batch: Batch, max_new_tokens: int) -> jax.Array:
        """Greedy answers, int32 [B, T]."""
        return greedy(self.module(theta, frozen), batch["input_ids"], batch["attention_mask"], max_new_tokens)

    def likelihoods(self, theta: Theta, frozen: Any, batch: Batch, labels: jax.Array, mask: jax.Array) -> jax.Array:
        """log p(label | input), summed over its tokens: [B, L] for L labels int32 [L, T] under mask [L, T].

        An encoder's labels are those of the batch's tables.
        """
        module = self.module(theta, frozen)
        if self.backbone.kind == "encoder":
            return jax.nn.log_softmax(label_scores(module, batch))
        return _likelihoods(module, _read(module, batch), batch, labels, mask)

    def generated(self, theta: Theta, frozen: Any, batch: Batch, max_new_tokens: int) -> tuple[jax.Array, jax.Array]:
        """Greedy answers and token losses, of one reading of the inputs."""
        module = self.module(theta, frozen)
        read = _read(module, batch)
        answers = greedy(module, batch["input_ids"], batch["attention_mask"], max_new_tokens, *read)
        return answers, _cross_entropy(_written(module, read, batch, batch["target_ids"]), batch["target_ids"]) * batch["target_mask"]

    def ranked(self, theta: Theta, frozen: Any, batch: Batch, labels: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Likelihoods of the labels and token losses, of one reading of the inputs."""
        module, targets = self.module(theta, frozen), batch["target_ids"]
        if self.backbone.kind == "encoder":
            scores = label_scores(module, batch)
            return jax.nn.log_softmax(scores), _cross_entropy(scores[:, None], targets) * batch["target_mask"]
        read = _read(module, batch)
        losses = _cross_entropy(_written(module, read, batch, targets), targets) * batch["target_mask"]
        return _likelihoods(module, read, batch, labels, mask), losses


def _read(module: Any, batch: Batch, dropout: Dropout | None = None) -> tuple[Any, list[Any]]:
    """What the decoder goes on from: what `encode` returned, and the keys and values of it that every block attends to across."""
    hidden = module.encode(batch["input_ids"], batch["attention_mask"], dropout=dropout)
    return hidden, module.across(hidden)


def _written(module: Any, read: tuple[Any, list[Any]], batch: Batch, targets: jax.Array, dropout: Dropout | None = None) -> jax.Array:
    """Logits [B, T, vocabulary] for the targets [B, T], each position given the true targets before it."""
    first = module.first(batch["input_ids"], batch["attention_mask"])
    return module.decode(_shifted(first, targets), read[0], batch["attention_mask"], cross=read[1], dropout=dropout)


def _likelihoods(module: Any, read: tuple[Any, list[Any]], batch: Batch, labels: jax.Array, mask: jax.Array) -> jax.Array:
    def one(ids: jax.Array, keep: jax.Array) -> jax.Array:
        targets = jnp.broadcast_to(ids, (len(batch["input_ids"]), ids.shape[0]))
        return -jnp.sum(_cross_entropy(_written(module, read, batch, targets), targets) * keep, axis=-1)

    return jax.lax.map(lambda label: one(*label), (labels, mask)).T


def _shifted(first: jax.Array, targets: jax.Array) -> jax.Array:
    """What the decoder reads to write the targets [B, T]: the first token [B], then each target but the last."""
    return jnp.concatenate([first[:, None].astype(targets.dtype), targets[:, :-1]], axis=1)


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


class _Record(Part):
    """Keeps what the site last gave out."""

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        self.seen = nnx.Variable(y)
        return y


def activations(backbone: Backbone, chosen: Sequence[str], tokens: jax.Array) -> dict[str, tuple[jax.Array, ...]]:
    """What the tokens [P] are to the backbone at the chosen sites: keys and values [P, kv_heads, head_dim] at attention sites, turned as at
    positions −P … −1 where positions turn them; the embedded tokens [P, d] alone where tokens enter a stack."""
    module = own(backbone.module)
    places = sites(module)
    attentions = [name for name in chosen if isinstance(places[name], Attention)]
    attach(module, "record", {f"{name}.{m}": _Record() for name in attentions for m in "kv"})
    if attentions:
        module(tokens[None], jnp.ones((1, len(tokens)), jnp.int32), *((tokens[None],) if backbone.kind == "encoder-decoder" else ()))

    def seen(name: str, m: str) -> jax.Array:
        site: Any = places[name]
        rows = site.split(places[f"{name}.{m}"].attached["record"].seen[...])
        return (site.rotary(rows, jnp.arange(-len(tokens), 0)) if m == "k" and site.rotary is not None else rows)[0]

    entered = {name: (module.shared(tokens) * backbone.config.embed_scale,) for name in chosen if isinstance(places[name], Entry)}
    return {name: (seen(name, "k"), seen(name, "v")) for name in attentions} | entered


def _tokens(backbone: Backbone, text: Sequence[str], length: int, key: jax.Array) -> jax.Array:
    """`length` tokens of the text, or random ones that are no special tokens."""
    tokenizer = backbone.tokenizer
    ids = [i for line in text for i in tokenizer(line, add_special_tokens=False)["input_ids"]]
    if not ids:
        special = set(tokenizer.all_special_ids)
        ids = [i for i in range(min(len(tokenizer), backbone.config.vocab_size)) if i not in special]
        return jnp.asarray(ids, jnp.int32)[jax.random.randint(key, (length,), 0, len(ids))]
    return jnp.asarray((ids * (length // len(ids) + 1))[:length], jnp.int32)
