"""The delta types, one file each.

lora             y' = y + s · x A B, or W' = m · (W + s A B)/|W + s A B|        at linear maps
adapter          y' = y + s · act(h A) B                                        at sublayers
lowrank_adapter  the same with A A' for A and B B' for B, of low rank           at sublayers
compacter        the same with Σ R_i ⊗ (S_i T_i) for A and for B                at sublayers
prefix           keys and values left of position 0                             in attention
prompt           rows among the embedded tokens                                 where tokens enter
bitfit           y' = y + b                                                     at linear maps and norms
ia3              y' = l ⊙ y, or (l ⊙ x) W                                       at linear maps
full             W' = W + ΔW                                                    at all weights
arbitrary        groups of all of these, as many as a budget pays for           everywhere
calibrated_lora, calibrated_prefix                                              as fast as an adapter, for continual learning
together         several types as one                                           at the sites of each

h is the sublayer's output, its input, or the normed residual stream after it: see `adapter`.
"""

from collections.abc import Mapping
from typing import Any

from deltas.errors import InputError
from deltas.types.adapter import Adapter
from deltas.types.arbitrary import Arbitrary
from deltas.types.base import DeltaType
from deltas.types.bitfit import BitFit
from deltas.types.calibrated import CalibratedLoRA, CalibratedPrefix
from deltas.types.compacter import Compacter
from deltas.types.foreign import Foreign
from deltas.types.full import Full
from deltas.types.ia3 import IA3
from deltas.types.lora import LoRA
from deltas.types.lowrank_adapter import LowRankAdapter
from deltas.types.prefix import Prefix
from deltas.types.prompt import Prompt
from deltas.types.together import Together

TYPES: dict[str, type[DeltaType]] = {cls.name: cls for cls in (
    LoRA, Adapter, Prefix, Prompt, BitFit, IA3, LowRankAdapter, Compacter, Full, Arbitrary, CalibratedLoRA, CalibratedPrefix,
    Together)}
KEPT: dict[str, type[DeltaType]] = {Foreign.name: Foreign}
"""Types that are kept in files and decomposed, and are never attached or trained."""


def delta_type(fields: Mapping[str, Any]) -> DeltaType:
    """The configuration from its JSON fields, whose `type` names the delta type."""
    kind = fields.get("type")
    known = TYPES | KEPT
    if kind not in known:
        raise InputError(f"expected a delta type ({', '.join(TYPES)}), got {kind!r}; choose one of them")
    return known[kind].from_json(fields)


__all__ = [
    "IA3", "KEPT", "TYPES", "Adapter", "Arbitrary", "BitFit", "CalibratedLoRA", "CalibratedPrefix", "Compacter", "DeltaType", "Foreign", "Full",
    "LoRA", "LowRankAdapter", "Prefix", "Prompt", "Together", "delta_type",
]
