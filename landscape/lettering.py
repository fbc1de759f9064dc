"""Words in figures whose axes are placed by hand: how wide they are, where they break, and what they are readable in on a coloured ground."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from landscape.style import INK

DARK = 0.5
"""Grounds of less luminance than this want white words."""


def inches(words: str, size: float, *, bold: bool = False) -> float:
    """Width of the longest line at that size in points, in the font of all figures."""
    font = FontProperties(family="sans-serif", weight="bold" if bold else "normal")
    lines = [line for line in words.split("\n") if line.strip()]
    return max((float(TextPath((0, 0), line, size=size, prop=font).get_extents().width) for line in lines), default=0.0) / 72


def widest(names: Iterable[str], size: float, *, bold: bool = False) -> float:
    """Inches of the widest of several names; 0 of none."""
    return max((inches(name, size, bold=bold) for name in names), default=0.0)


def wrapped(name: str, most: int) -> str:
    """A name in lines of at most that many letters, broken after "_", "-", "/" and at spaces; a longer piece keeps its line."""
    lines = [""]
    for mark in "_-/":
        name = name.replace(mark, f"{mark}\0")
    for piece in name.replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > most:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def ink_on(ground: Any) -> str:
    """Black or white, whichever is readable on a colour."""
    red, green, blue = to_rgb(ground)
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < DARK else INK
