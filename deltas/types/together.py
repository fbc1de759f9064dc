"""Several deltas as one: trained together, stored as one vector."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from deltas.backbones.sites import Norm, Part, Site, Weights, reweighed
from deltas.errors import InputError
from deltas.files import sha256
from deltas.types.base import DeltaType, Probe


@dataclass(frozen=True, kw_only=True)
class Together(DeltaType):
    """The deltas `parts`, each at its own sites; at a site that several share, each hook runs through them in their order.

    A parameter is named by the site, the label of its part and its name there: `decoder.0.attn.q.lora.a`.
    """

    name: ClassVar[str] = "together"
    parts: tuple[DeltaType, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts or not all(isinstance(part, DeltaType) for part in self.parts):
            raise InputError(f"expected delta types as the parts of together, got {self.parts!r}; give at least one, such as LoRA()")
        if self.sites or self.exclude:
            raise InputError(f"expected the sites of together in its parts, got {', '.join(self.sites + self.exclude)}; name them there")
        labels = [part.label for part in self.parts]
        for label in labels:
            if labels.count(label) > 1 or hasattr(Chain, label):
                raise InputError(f"expected labels of together's parts that differ and are no hook's name, got {', '.join(labels)}; "
                                 f"give {label!r} another label")

    def choose(self, places: Mapping[str, Site]) -> list[str]:
        """The sites of any part."""
        chosen = {name for part in self.parts for name in part.choose(places)}
        return [name for name in places if name in chosen]

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """Every part's own, chained where they meet."""
        made = {}
        for part in self.parts:
            own = {name: sites[name] for name in part.choose(sites)}
            made[part.label] = part.build(own, jax.random.fold_in(key, int(sha256(part.label)[:7], 16)), probe)
        return chained(made)


def chained(made: Mapping[str, Mapping[str, Part]]) -> dict[str, Part]:
    """By site the chain of the parts there, from label → site → part."""
    sites = dict.fromkeys(site for parts in made.values() for site in parts)
    return {site: Chain({label: parts[site] for label, parts in made.items() if site in parts}) for site in sites}


def flat(parts: Iterable[Part]) -> list[Part]:
    """The parts with each chain's own in its place."""
    return [inner for part in parts for inner in (part.each() if isinstance(part, Chain) else [part])]


class Chain(Part):
    """Parts at one site, one after the other in every hook."""

    labels: tuple[str, ...] = ()

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self.labels = tuple(parts)
        for label, part in parts.items():
            setattr(self, label, part)

    def each(self) -> list[Part]:
        """The parts, in order."""
        return flat(getattr(self, label) for label in self.labels)

    def weights(self, own: Weights) -> Weights:
        """The weights after every part."""
        return _through(self.each(), lambda part, own: part.weights(own), own)

    def input(self, x: jax.Array) -> jax.Array:
        """x after every part."""
        return _through(self.each(), lambda part, x: part.input(x), x)

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """y after every part."""
        return _through(self.each(), lambda part, y: part.output(x, y), y)

    def joined(self, y: jax.Array, residual: jax.Array, norm: Norm | None) -> jax.Array:
        """What joins the residual stream after every part."""
        return _through(self.each(), lambda part, y: part.joined(y, residual, norm), y)

    def rows(self) -> tuple[jax.Array, jax.Array] | None:
        """All rows, those of the first part furthest left."""
        rows = [found for part in self.each() if (found := part.rows()) is not None]
        return (jnp.concatenate([keys for keys, _ in rows]), jnp.concatenate([values for _, values in rows])) if rows else None

    def reweigh(self, own: jax.Array) -> jax.Array:
        """Each part's rows as that part weighs them."""
        return reweighed(self.each(), own)

    def tokens(self) -> jax.Array | None:
        """All tokens, those of the first part furthest left."""
        tokens = [found for part in self.each() if (found := part.tokens()) is not None]
        return jnp.concatenate(tokens) if tokens else None

    def shift(self) -> int:
        """The sum of all shifts."""
        return sum(part.shift() for part in self.each())

    def stages(self) -> set[int]:
        """Those of every part."""
        return set().union(*(part.stages() for part in self.each()))

    def merged(self, own: Weights) -> Weights:
        """The weights that all parts together come to, if each can be merged."""
        return _through(sorted(self.each(), key=lambda part: min(part.stages())), lambda part, own: part.merged(own), own)


def _through(parts: Iterable[Part], hook: Callable[[Part, Any], Any], value: Any) -> Any:
    for part in parts:
        value = hook(part, value)
    return value
