"""What every delta type is: a frozen configuration that builds the parts for the sites it chooses."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax

from deltas.backbones.sites import Part, Site
from deltas.errors import InputError

Probe = Callable[[int], Mapping[str, tuple[jax.Array, jax.Array]]]
"""length P → for each attention site its keys and values [P, heads, head_dim] on P real tokens."""


@dataclass(frozen=True, kw_only=True)
class DeltaType:
    """A delta type and its sizes.

    `sites` are patterns of `deltas.attach.select`; `label` names the delta in a bank and in tables, so that two sizes of one type can
    stand side by side (default: the type's name).
    """

    name: ClassVar[str]
    label: str = ""
    sites: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", tuple(self.sites))
        object.__setattr__(self, "exclude", tuple(self.exclude))
        if not self.label:
            object.__setattr__(self, "label", self.name)
        if not self.label.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"expected a label of letters, digits, - and _, got {self.label!r}; it becomes a folder's name")

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """The parts with their initial values θ0, by site.

        Args:
            sites: the chosen sites, in order.
            key: the random key of θ0.
            probe: gives keys and values of real tokens, for types that start from activations.
        """
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """The type's name and every field."""
        return {"type": self.name, **dataclasses.asdict(self)}

    def positive(self, *names: str) -> None:
        """Refuse a size that is not a whole number above zero."""
        for name in names:
            value = getattr(self, name)
            if type(value) is not int or value < 1:  # True is an int too
                raise InputError(f"expected {self.name}'s {name} to be a whole number of at least 1, got {value!r}; choose another")

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """From `to_json`, or from a study file's table; an unknown key is an error that names the nearest known one."""
        known = {f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k != "type"}
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
                raise InputError(f"expected a setting of {cls.name} ({', '.join(sorted(known))}), got {key!r}; did you mean {near!r}?")
        return cls(**values)
