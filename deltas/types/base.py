"""What every delta type is: a frozen configuration that chooses its sites and builds their parts."""

import abc
import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax

from deltas.attach import select
from deltas.backbones.blocks import Attention, FeedForward, Linear
from deltas.backbones.sites import Part, Site
from deltas.errors import InputError

Probe = Callable[[int], Mapping[str, tuple[jax.Array, ...]]]
"""length P → what P real tokens give at the chosen sites: keys and values [P, kv_heads, head_dim] at attention sites, the embedded
tokens [P, d] alone where tokens enter a stack."""


@dataclass(frozen=True, kw_only=True)
class DeltaType(abc.ABC):
    """A delta type and its sizes.

    `sites` and `exclude` are patterns of `deltas.attach.select`; types whose `sites` are empty choose by the kind of site. `label` names
    the delta in a bank and in tables, so that two sizes of one type can stand side by side (default: the type's name).
    """

    name: ClassVar[str]
    label: str = ""
    sites: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("sites", "exclude"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        if not self.label:
            object.__setattr__(self, "label", self.name)
        if not self.label.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"expected a label of letters, digits, - and _, got {self.label!r}; it becomes a folder's name")

    # ------------------------------------------------------------ what a type does
    def choose(self, places: Mapping[str, Site]) -> list[str]:
        """The names of the sites that `build` wants, of all the sites of a backbone, in their order.

        Choosing among fewer sites that still hold the chosen ones gives the same.
        """
        return select(places, self.sites, self.exclude)

    @abc.abstractmethod
    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """The parts with their initial values θ0, by site.

        Args:
            sites: the chosen sites, in order.
            key: the random key of θ0.
            probe: gives what real tokens are at the sites, for types that start from activations.
        """

    # ------------------------------------------------------------ JSON
    def to_json(self) -> dict[str, Any]:
        """The type's name and every field."""
        return {"type": self.name, **{f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """From `to_json`, or from a study file's table; an unknown key is an error that names the nearest known one."""
        known = {f.name: f for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {k: _typed(v) for k, v in fields.items() if k != "type"}
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
                raise InputError(f"expected a setting of {cls.name} ({', '.join(sorted(known))}), got {key!r}; did you mean {near!r}?")
        for key, field in known.items():
            if key not in values and field.default is field.default_factory is dataclasses.MISSING:
                raise InputError(f"expected a {key} for {cls.name}, got none; add it to its settings")
        return cls(**values)

    # ------------------------------------------------------------ checks of settings
    def positive(self, *names: str) -> None:
        """Refuse a size that is not a whole number above zero."""
        for name in names:
            value = getattr(self, name)
            if type(value) is not int or value < 1:  # True is an int too
                raise InputError(f"expected {self.name}'s {name} to be a whole number of at least 1, got {value!r}; choose another")

    def finite(self, *names: str) -> None:
        """Refuse what is not a finite number."""
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"expected {self.name}'s {name} to be a finite number, got {value!r}; choose another")

    def switches(self, *names: str) -> None:
        """Refuse what is neither true nor false."""
        for name in names:
            if not isinstance(value := getattr(self, name), bool):
                raise InputError(f"expected {self.name}'s {name} to be true or false, got {value!r}; choose one of them")

    def one_of(self, name: str, choices: Sequence[str]) -> None:
        """Refuse what is no choice."""
        if (value := getattr(self, name)) not in choices:
            raise InputError(f"expected {self.name}'s {name} to be {_either(choices)}, got {value!r}; choose one of them")


def ends(site: Site) -> tuple[int, int] | None:
    """The sizes of what enters and leaves a linear or sublayer site; None for other sites."""
    if isinstance(site, Linear):
        return site.sizes
    if isinstance(site, Attention):
        return site.q.sizes[0], site.o.sizes[1]
    if isinstance(site, FeedForward):
        return site.up.sizes[0], site.out.sizes[1]
    return None


def wrong_site(kind: str, name: str, site: Site, wanted: str, choose: str) -> InputError:
    """The refusal of a site that the type cannot stand at."""
    return InputError(f"expected {wanted} for {kind}, got {name}, which is of class {type(site).__name__}; choose {choose}")


def _plain(value: Any) -> Any:
    if isinstance(value, DeltaType):
        return value.to_json()
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def _typed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_typed, value))
    if isinstance(value, Mapping) and "type" in value:
        from deltas.types import delta_type  # the table of types stands above this file

        return delta_type(value)
    return value


def _either(choices: Sequence[str]) -> str:
    *others, last = map(repr, choices)
    return f"{', '.join(others)} or {last}" if others else last
