"""Which surfaces show one plane, so that their points can be compared.

A plane of z is known by its origin and directions. Those of a plane of θ or of the weights are coordinates around a point that is not kept
(`Around`), and are the same around every other: what is marked on it, such as the solutions that it goes through, has to say which one it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from deltas.errors import InputError
from landscape.basins import _same_plane
from landscape.surface import Surface

OWN = ("found", "centre")
"""Kinds of marks that do not tell planes apart: what was found for a task is its own, and the centre is the coordinates' 0."""


def by_plane(surfaces: Mapping[str, Surface]) -> list[dict[str, Surface]]:
    """Surfaces in groups of one plane, one split and the same types, in their order; one that surely belongs to no other is alone."""
    planes: list[dict[str, Surface]] = []
    for name, surface in surfaces.items():
        home = next((plane for plane in planes if together(next(iter(plane.values())), surface)), None)
        if home is None:
            planes.append(home := {})
        home[name] = surface
    return planes


def together(a: Surface, b: Surface) -> bool:
    """Whether two surfaces surely show the same points, of the same types and split."""
    marked, others = ([(mark.name, round(mark.x, 6), round(mark.y, 6)) for mark in one.marks if mark.kind not in OWN] for one in (a, b))
    if a.split != b.split or marked != others or (a.space != "z" and not marked):
        return False
    try:
        _same_plane(a, b, "one", "the other")
    except InputError:
        return False
    return True
