"""Prefix tuning (Li and Liang 2021, arXiv 2101.00190): trained keys and values left of every self-attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from deltas.attach import select
from deltas.backbones.blocks import Attention, Entry
from deltas.backbones.sites import Delta, Part, Site
from deltas.errors import InputError
from deltas.types.base import DeltaType, Probe, wrong_site


@dataclass(frozen=True, kw_only=True)
class Prefix(DeltaType):
    """`length` rows of keys and values at positions −length … −1 of each attention site, self-attention or cross.

    bottleneck None: the rows themselves are trained, 2 · length · kv_heads · head_dim numbers a site. `start = "activations"` takes the
    keys and values of real tokens run through the backbone (a random start trains badly and shares no space with other types);
    `"normal"` draws N(0, std²).

    bottleneck r: rows = tanh(E W0) W2 with E [length, d], W0 [d, r], W2 [r, 2 · L · kv_heads · head_dim] shared by the L sites of a stack:
    d (length + r + 2 L r) numbers a stack where the heads are as wide as the model, the form of Yi et al. 2022; it starts from
    N(0, 1/fan-in), with W2 scaled by `std`. `raw_view` reads the L · 2 · length · d numbers in the order of their code, which mixes
    positions and layers: a compatibility switch.

    `shift` moves the tokens of those stacks `length` positions to the right, which learned and rotary positions notice: rows then stand
    where tokens could have stood, at 0 … length − 1, as in PEFT.
    """

    name: ClassVar[str] = "prefix"
    length: int = 20
    bottleneck: int | None = None
    start: Literal["activations", "normal"] = "activations"
    std: float = 0.5
    raw_view: bool = False
    shift: bool = False
    sites: tuple[str, ...] = ("attn",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("length", *(("bottleneck",) if self.bottleneck is not None else ()))
        self.one_of("start", ("activations", "normal"))
        self.finite("std")
        self.switches("raw_view", "shift")
        if self.raw_view and self.bottleneck is None:
            raise InputError("expected a bottleneck beside prefix's raw_view, got none; the raw view orders the output of W2")

    def choose(self, places: Mapping[str, Site]) -> list[str]:
        """The attention sites, and with `shift` where tokens enter their stacks."""
        chosen = select(places, self.sites, self.exclude)
        if not self.shift:
            return chosen
        entries = {_stack(name) + "_input" for name in chosen if not isinstance(places[name], Entry)}
        if missing := sorted(name for name in entries if not isinstance(places.get(name), Entry)):
            raise InputError(f"expected a stack with positions to shift for prefix, got no site {missing[0]}; leave shift out")
        return [name for name in places if name in entries or name in chosen]

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """Rows for every attention site; with a bottleneck, one network a stack; shifts where tokens enter."""
        shifts: dict[str, Part] = {name: Shift(self.length) for name, site in sites.items() if self.shift and isinstance(site, Entry)}
        attentions = {name: _attention(name, site) for name, site in sites.items() if name not in shifts}
        if self.bottleneck is None:
            given = probe(self.length) if self.start == "activations" else {}
            keys = jax.random.split(key, len(attentions))
            return shifts | {name: Rows(self, site, key, given[name] if given else None) for (name, site), key in zip(attentions.items(), keys)}
        parts = shifts
        stacks = list(dict.fromkeys(map(_stack, attentions)))
        for stack, own in zip(stacks, jax.random.split(key, len(stacks))):
            members = {name: site for name, site in attentions.items() if _stack(name) == stack}
            network = Network(self, list(members.values()), own)
            parts |= {name: Shared(network, layer) for layer, name in enumerate(members)}
        return parts


def _stack(name: str) -> str:
    return name.split(".")[0]


def _attention(name: str, site: Site) -> Attention:
    if not isinstance(site, Attention):
        raise wrong_site("prefix", name, site, "an attention site", "attn or cross")
    return site


class Rows(Part):
    """Trained keys and values at one attention site."""

    def __init__(self, config: Prefix, site: Attention, key: jax.Array, given: tuple[jax.Array, ...] | None) -> None:
        shape = (config.length, site.kv_heads, site.head_dim)
        keys, values = given if given is not None else config.std * jax.random.normal(key, (2, *shape))
        self.keys, self.values = Delta(keys.astype(jnp.float32)), Delta(values.astype(jnp.float32))

    def rows(self) -> tuple[jax.Array, jax.Array]:
        """The rows as they are."""
        return self.keys[...], self.values[...]


class Network(nnx.Module):
    """tanh(E W0) W2 → the rows of all L sites of a stack."""

    def __init__(self, config: Prefix, sites: list[Attention], key: jax.Array) -> None:
        r = config.bottleneck or 1
        heads, head_dim, d = sites[0].kv_heads, sites[0].head_dim, sites[0].q.sizes[0]
        width = 2 * len(sites) * heads * head_dim
        draw = [jax.random.normal(k, shape) for k, shape in
                zip(jax.random.split(key, 3), ((config.length, d), (d, r), (r, width)), strict=True)]
        self.e, self.w0, self.w2 = Delta(draw[0]), Delta(d**-0.5 * draw[1]), Delta(config.std * r**-0.5 * draw[2])
        per_position, raw = (config.length, len(sites), 2, heads, head_dim), (len(sites), 2, config.length, heads, head_dim)
        self.shape, self.raw_view = raw if config.raw_view else per_position, config.raw_view

    def __call__(self, layer: int) -> tuple[jax.Array, jax.Array]:
        """Keys and values [P, kv_heads, head_dim] of one site."""
        rows = (jnp.tanh(self.e[...] @ self.w0[...]) @ self.w2[...]).reshape(self.shape)
        keys_values = rows[layer] if self.raw_view else rows[:, layer].swapaxes(0, 1)
        return keys_values[0], keys_values[1]


class Shared(Part):
    """One site's share of a stack's network."""

    def __init__(self, network: Network, layer: int) -> None:
        self.network, self.layer = network, layer

    def rows(self) -> tuple[jax.Array, jax.Array]:
        """The network's rows for this site."""
        return self.network(self.layer)


class Shift(Part):
    """Tokens that enter a stack stand further right."""

    def __init__(self, length: int) -> None:
        self.length = length

    def shift(self) -> int:
        """The prefix's length."""
        return self.length
