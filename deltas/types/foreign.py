"""A delta that is kept as the tensors of another library's file, on no backbone yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax

from deltas.backbones.sites import Part, Site
from deltas.errors import InputError
from deltas.types.base import DeltaType, Probe


@dataclass(frozen=True, kw_only=True)
class Foreign(DeltaType):
    """What a checkpoint says of itself, where its tensors were read without the backbone that would give them their places.

    It can be decomposed, compared and written again; it cannot be attached or run. `subspace.placed` makes it one of the other types.
    """

    name: ClassVar[str] = "foreign"
    kind: str = "unknown"
    """The delta type that it becomes on its backbone."""
    library: str = "peft"
    """`peft` or `adapterhub`."""
    raw: str = "{}"
    """The library's configuration as JSON: only what says which function the tensors are."""

    def choose(self, places: Mapping[str, Site]) -> list[str]:
        """Refused: its sites are not known."""
        raise self._homeless()

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """Refused: its parts are not known."""
        raise self._homeless()

    def _homeless(self) -> InputError:
        return InputError(f"expected a delta that has its place on a backbone, got {self.label}, read from {self.library} without one; "
                          "give it a place with subspace.placed")
