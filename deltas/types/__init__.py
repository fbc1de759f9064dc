"""The delta types, one file each.

lora      y' = y + (alpha/r) · x A B             at linear maps
adapter   y' = y + swish(y A) B                  after sublayers
prefix    keys and values left of position 0     in self-attention
"""

from collections.abc import Mapping
from typing import Any

from deltas.errors import InputError
from deltas.types.adapter import Adapter
from deltas.types.base import DeltaType
from deltas.types.lora import LoRA
from deltas.types.prefix import Prefix

TYPES: dict[str, type[DeltaType]] = {cls.name: cls for cls in (LoRA, Adapter, Prefix)}


def delta_type(fields: Mapping[str, Any]) -> DeltaType:
    """The configuration from its JSON fields, whose `type` names the delta type."""
    kind = fields.get("type")
    if kind not in TYPES:
        raise InputError(f"expected a delta type ({', '.join(TYPES)}), got {kind!r}; choose one of them")
    return TYPES[kind].from_json(fields)


__all__ = ["TYPES", "Adapter", "DeltaType", "LoRA", "Prefix", "delta_type"]
