"""What every inspection's report is, and how its facts become lines: columns, bars, numbers with their units. Nothing is printed here."""

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from rich.text import Text

from deltas.types import DeltaType

COLOURS = ("green", "magenta", "cyan", "yellow", "blue", "red")
EIGHTHS = "▏▎▍▌▋▊▉█"
LEVELS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class Report(abc.ABC):
    """Facts about one thing. `str` gives them as plain text, rich prints them in colour, `to_json` gives them as JSON."""

    kind: ClassVar[str]
    """What was inspected: backbone, bank, solution, subspace."""

    @abc.abstractmethod
    def lines(self) -> list[Text]:
        """The facts as lines of text with their colours."""

    def __str__(self) -> str:
        return "\n".join(line.plain.rstrip() for line in self.lines())

    def __rich__(self) -> Text:
        return Text("\n").join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """Every fact by name, under `kind` what it is about."""
        return {"kind": self.kind, **_plain(self)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


# ------------------------------------------------------------ numbers
def count(n: int) -> str:
    """1,234,567."""
    return f"{n:,}"


def size(n: int) -> str:
    """Bytes in decimal units: 1.2 MB."""
    value = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def by_dtype(sizes: Mapping[str, int]) -> str:
    """1.2 MB (float32), 3.0 kB (bfloat16)."""
    return ", ".join(f"{size(n)} ({dtype})" for dtype, n in sizes.items()) or "0 B"


def percent(part: float) -> str:
    """A share with three digits: 0.0712%, 12.3%."""
    return f"{100 * part:.3g}%"


def shape(sides: Iterable[int]) -> str:
    """96×8; a number alone is of no shape."""
    return "×".join(map(str, sides)) or "1"


def several(names: Iterable[Any], most: int = 12) -> str:
    """The first names, and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def settings(config: DeltaType) -> str:
    """A type with those of its settings that are not empty: lora rank=8 alpha=16.0 sites=q,v."""
    names = [f.name for f in dataclasses.fields(config) if f.name not in ("label", "sites", "exclude")]
    fields = {name: getattr(config, name) for name in (*names, "sites", "exclude")}
    return " ".join((config.name, *(f"{name}={_setting(value)}" for name, value in fields.items() if value not in (None, False, "", ()))))


def _setting(value: Any) -> str:
    if isinstance(value, DeltaType):
        return f"({settings(value)})"
    return ",".join(map(_setting, value)) if isinstance(value, tuple) else str(value)


# ------------------------------------------------------------ drawing
def bar(share: float, width: int = 24) -> str:
    """A bar for a share from 0 to 1, exact to an eighth of a character."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0)) if np.isfinite(share) else 0
    return EIGHTHS[-1] * (eighths // 8) + (EIGHTHS[eighths % 8 - 1] if eighths % 8 else "")


def heights(values: Sequence[float]) -> str:
    """One small column a value, the tallest for the largest."""
    top = max(values, default=0.0)
    return "".join(LEVELS[min(int(8 * value / top), 7) if top > 0 and np.isfinite(value) else 0] for value in values)


Cell = str | Text


def columns(rows: Sequence[Sequence[Cell]], right: Sequence[int] = ()) -> list[Text]:
    """Lines of cells in columns as wide as their widest; those numbered in `right` end together."""
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    widths = [max(row[i].cell_len for row in cells) for i in range(len(cells[0]))] if cells else []
    lines = []
    for row in cells:
        line = Text()
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell.cell_len)
            line.append_text(Text.assemble(space, cell) if i in right else Text.assemble(cell, space)).append("  ")
        line.rstrip()
        lines.append(line)
    return lines


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], right: Sequence[int] = ()) -> list[Text]:
    """`columns` under a head."""
    return columns([[Text(name, "bold") for name in head], *rows], right)
