"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691): trained rows among the embedded tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from deltas.attach import select
from deltas.backbones.blocks import Entry
from deltas.backbones.sites import Delta, Part, Site
from deltas.errors import InputError
from deltas.types.base import DeltaType, Probe, wrong_site


@dataclass(frozen=True, kw_only=True)
class Prompt(DeltaType):
    """`length` rows [d] before the embedded tokens of the stack that reads the input; the tokens stand `length` positions further right.

    `start = "tokens"` takes the embeddings of real tokens, `"normal"` draws N(0, std²). Empty `sites` are where the input enters: the
    encoder where there is one, else the decoder.
    """

    name: ClassVar[str] = "prompt"
    length: int = 20
    start: Literal["tokens", "normal"] = "tokens"
    std: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("length")
        self.one_of("start", ("tokens", "normal"))
        self.finite("std")

    def choose(self, places: Mapping[str, Site]) -> list[str]:
        """Where the input enters."""
        entries = [name for name, site in places.items() if isinstance(site, Entry) and site.prompts]
        if not self.sites and not entries:
            raise InputError("expected a site where tokens enter a stack for prompt, got none; use a delta of another type")
        return select(places, self.sites or entries, self.exclude)

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """The rows of each stack."""
        entries = {name: _entry(name, site) for name, site in sites.items()}
        given = probe(self.length) if self.start == "tokens" else {}
        return {name: Tokens(self, site, key, given[name][0] if given else None)
                for (name, site), key in zip(entries.items(), jax.random.split(key, len(entries)))}


def _entry(name: str, site: Site) -> Entry:
    if not isinstance(site, Entry):
        raise wrong_site("prompt", name, site, "a site where tokens enter a stack", "encoder_input or decoder_input")
    return site


class Tokens(Part):
    """Trained rows before the tokens of one stack."""

    rows: Any  # the parameter's name; an entry asks its parts for tokens, so no one misses the hook of that name

    def __init__(self, config: Prompt, site: Entry, key: jax.Array, given: jax.Array | None) -> None:
        start = config.std * jax.random.normal(key, (config.length, site.d)) if given is None else given
        self.rows = Delta(start.astype(jnp.float32))

    def tokens(self) -> jax.Array:
        """The rows as they are."""
        return self.rows[...]
