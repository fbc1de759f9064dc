"""`python -m deltaspace.support`: which delta type works on which family of backbones, written into deltas/types/SUPPORT.md.

The rows and columns here are the cases of tests/deltas/test_conformance.py: a cell says "trained" because a test of that name trains it,
and a cell that cannot be has its reason, which a test sees refused.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltas.files import write_text
from deltas.types import (
    IA3,
    Adapter,
    Arbitrary,
    BitFit,
    CalibratedLoRA,
    CalibratedPrefix,
    Compacter,
    DeltaType,
    Full,
    LoRA,
    LowRankAdapter,
    Prefix,
    Prompt,
    Together,
)

PAGE = Path(__file__).parent.parent / "deltas" / "types" / "SUPPORT.md"
FAMILIES = {"t5": "T5", "bart": "BART", "bert": "BERT", "headless": "BERT without a head", "roberta": "RoBERTa", "gpt2": "GPT-2",
            "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}
"""The columns; a BERT without a masked-language head is what sentence encoders are."""
SIZES = ("label", "rank", "length", "n", "bottleneck", "budget", "structure")
"""Settings that are of the tests' toys: a title leaves them out, unless there is no default."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One form of a delta type, in a toy's size."""

    config: DeltaType
    identity: bool = True
    """Whether θ0 is the backbone itself."""
    merges: bool = False
    """Whether it is a change of weights, which the backbone can take in."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why a family cannot have it."""

    @property
    def title(self) -> str:
        """The configuration as it is written in Python, without its sizes."""
        return _written(self.config)


NO_CROSS: dict[str, str] = dict.fromkeys(("bert", "headless", "roberta", "gpt2", "llama", "mistral", "qwen2"), "there is no cross-attention")
ROWS: dict[str, Row] = {row.config.label: row for row in (
    Row(config=LoRA(rank=2), merges=True),
    Row(config=LoRA(rank=2, rslora=True, label="rslora"), merges=True),
    Row(config=LoRA(rank=2, dora=True, label="dora"), merges=True),
    Row(config=Adapter(bottleneck=3)),
    Row(config=Adapter(bottleneck=3, variant="pfeiffer", bias=True, label="pfeiffer")),
    Row(config=Adapter(bottleneck=3, variant="parallel", label="parallel")),
    Row(config=LowRankAdapter(bottleneck=3)),
    Row(config=Compacter(bottleneck=4, n=2)),
    Row(config=Prefix(length=3), identity=False),
    Row(config=Prefix(length=3, bottleneck=2, label="prefix-mlp"), identity=False),
    Row(config=Prefix(length=3, shift=True, label="prefix-shift"), identity=False),
    Row(config=Prefix(length=3, sites=("cross",), label="prefix-cross"), identity=False, refused=NO_CROSS),
    Row(config=Prompt(length=3), identity=False),
    Row(config=BitFit(), merges=True),
    Row(config=IA3(), merges=True),
    Row(config=Full(), merges=True),
    Row(config=Full(sites=("re:.*norm",), label="norms"), merges=True),
    Row(config=Arbitrary(budget=900, structure=2, rank=2, bottleneck=3, length=3), identity=False),
    Row(config=CalibratedLoRA(rank=2), merges=True),
    Row(config=CalibratedPrefix(length=3), identity=False),
    Row(config=Together(parts=(LoRA(rank=2), Adapter(bottleneck=3), Prefix(length=3))), identity=False),
)}
"""The rows by label."""
CELLS = tuple((label, family) for label, row in ROWS.items() for family in FAMILIES if family not in row.refused)
"""What is trained and tested."""
REFUSED = {(label, family): reason for label, row in ROWS.items() for family, reason in row.refused.items()}
"""What cannot be, and why."""


def _written(config: DeltaType) -> str:
    settings = []
    for setting in dataclasses.fields(config):
        needed = setting.default is dataclasses.MISSING
        if setting.name in SIZES and not needed and setting.default is not None:
            continue
        if needed or dataclasses.replace(config, **{setting.name: setting.default}) != config:
            settings.append(f"{setting.name}={_value(getattr(config, setting.name))}")
    return f"{type(config).__name__}({', '.join(settings)})"


def _value(value: Any) -> str:
    if isinstance(value, DeltaType):
        return _written(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))}{',' if len(value) == 1 else ''})"
    return f'"{value}"' if isinstance(value, str) else str(value)


def page() -> str:
    """The table as Markdown."""
    reasons = list(dict.fromkeys(REFUSED.values()))
    lines = ["# Delta types and families", "", "Made by `python -m deltaspace.support` from the cases of "
             "[tests/deltas/test_conformance.py](../../tests/deltas/test_conformance.py).", "",
             "✓ trained and tested, on a random backbone of one layer: three steps of AdamW lower the loss, the gradient reaches every "
             "parameter, the flat vector comes back as the same parameters, detaching restores the backbone exactly, two solutions at once are "
             "each one alone, and a bfloat16 backbone gives the same loss within its precision. Whether θ0 is the backbone is tested in every "
             "cell too (prefixes and prompts start as real tokens, which attention sees); merging on one family a row.", "",
             "| | θ0 is the backbone | merges into the weights | " + " | ".join(FAMILIES.values()) + " |", "|---" * (3 + len(FAMILIES)) + "|"]
    for label, row in ROWS.items():
        cells = ["✓" if (label, family) in CELLS else f"– ({reasons.index(REFUSED[label, family]) + 1})" for family in FAMILIES]
        lines.append(f"| `{row.title}` | {' | '.join(('yes' if it else 'no') for it in (row.identity, row.merges))} | {' | '.join(cells)} |")
    lines += ["", *(f"– ({number}) refused: {reason}." for number, reason in enumerate(reasons, 1))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_text(PAGE, page())
