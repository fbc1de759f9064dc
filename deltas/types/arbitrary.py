"""Any structure of any size (Su et al. 2023, arXiv 2306.02320): groups of parameters from everywhere, as many as a budget pays for."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import jax

from deltas.attach import select
from deltas.backbones.blocks import Attention, Entry, FeedForward, Linear
from deltas.backbones.sites import Part, Site
from deltas.errors import InputError
from deltas.files import sha256
from deltas.types.adapter import Adapter
from deltas.types.base import DeltaType, Probe, ends
from deltas.types.full import Difference, own_shapes
from deltas.types.lora import LoRA
from deltas.types.prefix import Prefix
from deltas.types.prompt import Prompt
from deltas.types.together import chained

TENSOR = "tensor"
KINDS = ("lora", "adapter", "prompt", "prefix", TENSOR)


@dataclass(frozen=True)
class Group:
    """Parameters that are taken together or not at all."""

    kind: str
    site: str
    size: int
    weight: str = ""
    """Of a backbone tensor, its name at the site."""


@dataclass(frozen=True, kw_only=True)
class Arbitrary(DeltaType):
    """At most `budget` numbers in whole groups, drawn by the key `structure` from those at all sites:

    lora      A [in, rank] and B [rank, out] at a linear map
    adapter   A [d, bottleneck], B [bottleneck, d] and their biases at a sublayer
    prompt    `length` rows [d] before the tokens that a stack reads
    prefix    `length` keys and values at an attention
    tensor    one tensor of the backbone, as the difference to it

    Groups stand in an order shuffled by the key. Groups of deltas are taken, each that still fits, up to `share` of the budget; then
    tensors, up to all of it; then deltas again with what no tensor could use. A share of 0 or 1 leaves the other half out. The realised
    count is `realised(places)`.

    A group's place in the order depends on the key and its own name alone, so the same key gives the same structure on every machine.
    """

    name: ClassVar[str] = "arbitrary"
    budget: int
    structure: int = 0
    share: float = 0.5
    kinds: tuple[str, ...] = KINDS
    rank: int = 8
    alpha: float = 16.0
    bottleneck: int = 24
    length: int = 20
    start: Literal["activations", "normal"] = "activations"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kinds", tuple(self.kinds))
        self.positive("budget", "rank", "bottleneck", "length")
        self.finite("alpha", "share")
        self.one_of("start", ("activations", "normal"))
        if type(self.structure) is not int:
            raise InputError(f"expected arbitrary's structure to be a whole number, got {self.structure!r}; it is a key")
        if not 0 <= self.share <= 1:
            raise InputError(f"expected arbitrary's share to be from 0 to 1, got {self.share!r}; it is the deltas' part of the budget")
        if odd := [kind for kind in self.kinds if kind not in KINDS]:
            raise InputError(f"expected arbitrary's kinds among {', '.join(KINDS)}, got {odd[0]!r}; choose among them")
        if not self._kinds():
            raise InputError(f"expected a kind that a share of {self.share} has room for, got {', '.join(self.kinds) or 'none'}; name more")

    # ------------------------------------------------------------ the structure
    def choose(self, places: Mapping[str, Site]) -> list[str]:
        """Every site that a group could be at: the structure follows from them all."""
        return list(dict.fromkeys(group.site for group in self.groups(places)))

    def groups(self, places: Mapping[str, Site]) -> list[Group]:
        """All groups there could be."""
        names = select(places, self.sites or ("*",), self.exclude)
        return [group for name in names for group in self._at(name, places[name])]

    def taken(self, places: Mapping[str, Site]) -> list[Group]:
        """The groups that the delta consists of.

        Raises:
            InputError: the budget is smaller than the smallest group, or larger than all of them.
        """
        groups = self.groups(places)
        sizes = [group.size for group in groups]
        if not sizes or not min(sizes) <= self.budget <= sum(sizes):
            span = f"{min(sizes)} to {sum(sizes)} numbers" if sizes else "a backbone with sites"
            raise InputError(f"expected a budget of {span} for arbitrary on these sites, got {self.budget}; choose another")
        groups.sort(key=lambda group: sha256(f"{self.structure} {group.kind} {group.site} {group.weight}"))
        deltas = [group for group in groups if group.kind != TENSOR]
        tensors = [group for group in groups if group.kind == TENSOR]
        taken = _fitting(deltas, int(self.share * self.budget))
        taken += _fitting(tensors, self.budget - _total(taken))
        left = [group for group in deltas if group not in set(taken)]
        return taken + _fitting(left, self.budget - _total(taken))

    def realised(self, places: Mapping[str, Site]) -> int:
        """How many numbers the delta has."""
        return _total(self.taken(places))

    def _kinds(self) -> tuple[str, ...]:
        """The kinds that get some of the budget."""
        return tuple(kind for kind in self.kinds if (self.share < 1 if kind == TENSOR else self.share > 0))

    def _at(self, name: str, site: Site) -> list[Group]:
        """The groups at one site."""
        found = []
        if isinstance(site, Linear):
            found.append(Group("lora", name, self.rank * sum(site.sizes)))
        sizes = ends(site)
        if isinstance(site, Attention | FeedForward) and sizes is not None:
            found.append(Group("adapter", name, (2 * self.bottleneck + 1) * sizes[1] + self.bottleneck))
        if isinstance(site, Entry) and site.prompts:
            found.append(Group("prompt", name, self.length * site.d))
        if isinstance(site, Attention):
            found.append(Group("prefix", name, 2 * self.length * site.kv_heads * site.head_dim))
        found += [Group(TENSOR, name, prod(shape), weight) for weight, shape in own_shapes(site).items()]
        return [group for group in found if group.kind in self._kinds()]

    # ------------------------------------------------------------ its parts
    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """The parts of the groups taken; a site without any gets none."""
        tokens: Literal["tokens", "normal"] = "tokens" if self.start == "activations" else "normal"
        types = (LoRA(rank=self.rank, alpha=self.alpha), Adapter(bottleneck=self.bottleneck, bias=True),
                 Prompt(length=self.length, start=tokens), Prefix(length=self.length, start=self.start))
        taken, probe = self.taken(sites), functools.cache(probe)
        made: dict[str, Mapping[str, Part]] = {}
        for config, own in zip(types, jax.random.split(key, len(types))):
            chosen = {group.site for group in taken if group.kind == config.name}
            if chosen:
                made[config.name] = config.build({name: sites[name] for name in sites if name in chosen}, own, probe)
        weights = {name: [group.weight for group in taken if group.kind == TENSOR and group.site == name] for name in sites}
        made[TENSOR] = {name: Difference(sites[name], names) for name, names in weights.items() if names}
        return chained(made)


def _total(groups: Iterable[Group]) -> int:
    return sum(group.size for group in groups)


def _fitting(groups: Sequence[Group], budget: int) -> list[Group]:
    """Each group in its turn that what is left of the budget pays for."""
    taken = []
    for group in groups:
        if group.size <= budget:
            taken.append(group)
            budget -= group.size
    return taken
