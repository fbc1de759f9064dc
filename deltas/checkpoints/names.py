"""The modules of a Hugging Face model and the sites here."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from deltas.attach import select, sites
from deltas.backbones.blocks import Linear
from deltas.backbones.loading import FAMILIES, Backbone
from deltas.backbones.sites import Site

HEADS = ("head", "head_dense", "head_norm")


@dataclass(frozen=True, eq=False)
class Names:
    """Which module of the Hugging Face model is which site here.

    `modules` maps a module's name without the base prefix to its site, or to the sites that a fused module is cut into along its output
    axis; `tensors` does the same with whole tensors and paths of parameters. `others` are modules that the model may have and no site
    stands for: a pattern must not name them by accident.
    """

    sites: dict[str, Site]
    modules: dict[str, tuple[str, ...]]
    tensors: dict[str, tuple[str, ...]]
    others: tuple[str, ...]
    prefix: str
    transposed: bool
    headed: bool
    """Whether the model has a head of its own, so that the names of its base carry the prefix."""

    @classmethod
    def of(cls, backbone: Backbone) -> Self:
        """From the family's table."""
        family, places = FAMILIES[backbone.family], sites(backbone.module)
        tensors = {name: (paths,) if isinstance(paths, str) else paths for name, paths in family.names(backbone.config).items()}
        modules: dict[str, tuple[str, ...]] = {}
        for name, paths in tensors.items():
            found = tuple(path.rpartition(".")[0] for path in paths)
            if all(site in places for site in found):
                modules[name.rpartition(".")[0]] = found
        redundant = (glob.removesuffix(".*").removesuffix(".weight") for glob in family.redundant)
        others = tuple(name for name in redundant if "*" not in name)
        return cls(places, modules, tensors, others, family.prefix, family.transposed,
                   backbone.kind != "encoder" or backbone.config.masked_head)

    def linear(self) -> list[str]:
        """The modules that are linear maps."""
        return [name for name, found in self.modules.items() if all(isinstance(self.sites[site], Linear) for site in found)]

    def size(self, site: str) -> tuple[int, int]:
        """in and out of a linear site."""
        linear = self.sites[site]
        assert isinstance(linear, Linear)
        return linear.sizes

    def sizes(self, module: str) -> tuple[int, int]:
        """in and out of a linear module, out being that of all its sites together."""
        members = [self.size(site) for site in self.modules[module]]
        return members[0][0], sum(n_out for _, n_out in members)

    def full(self, module: str, prefixed: bool) -> str:
        """The module's name in the whole model."""
        head = self.modules.get(module, ("",))[0] in HEADS
        return module if head or not prefixed else self.prefix + module

    def prefixed(self, keys: Iterable[str]) -> bool:
        """Whether a checkpoint with these module names was saved from a model with a head."""
        return bool(self.prefix) and any(key.startswith(self.prefix) for key in keys)

    def matched(self, fits: Callable[[str], bool], prefixed: bool, among: Iterable[str]) -> list[str]:
        """The modules `among` whose full name fits."""
        return [module for module in among if fits(self.full(module, prefixed))]

    def ends(self, chosen: Collection[str], prefixed: bool) -> list[str]:
        """The shortest dotted ends of full names that name the modules `chosen` and no other module of the model."""
        everything = [self.full(module, prefixed) for module in self.modules]
        everything += [self.full(module, prefixed) for module in self.others] + list(self.others)
        return shortest({self.full(module, prefixed) for module in chosen}, everything)

    def patterns(self, chosen: Collection[str]) -> tuple[str, ...]:
        """Short patterns that choose exactly these sites: dotted ends, a stack's sites of one name in all its layers, or whole names."""
        found, left = [], set(chosen)
        while left:
            words = min(left).split(".")
            ends = [".".join(words[-n:]) for n in range(1, len(words) + 1)]
            if len(words) > 2:
                ends.insert(len(words) - 2, f"{words[0]}.*.{'.'.join(words[2:])}")
            chosen_by = ((end, set(select(self.sites, (end,)))) for end in ends)
            end, members = next((end, members) for end, members in chosen_by if members <= set(chosen))
            found.append(end)
            left -= members
        return tuple(sorted(found))

    def module_of(self) -> dict[str, str]:
        """Site → its module."""
        return {site: module for module, found in self.modules.items() for site in found}


def shortest(chosen: Collection[str], everything: Collection[str]) -> list[str]:
    """The shortest dotted ends that name exactly `chosen` among `everything`."""
    rest, found, left = [name for name in everything if name not in chosen], [], set(chosen)
    while left:
        words = min(left).split(".")
        ends = (".".join(words[-n:]) for n in range(1, len(words) + 1))
        end = next((end for end in ends if not any(_ends(name, end) for name in rest)), ".".join(words))
        found.append(end)
        left = {name for name in left if not _ends(name, end)}
    return sorted(found)


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith("." + end)


def by_value(values: Mapping[str, Any], default: Any) -> dict[Any, set[str]]:
    """Names by their value, those of the default aside."""
    found: dict[Any, set[str]] = {}
    for name, value in values.items():
        if value != default:
            found.setdefault(value, set()).add(name)
    return found
