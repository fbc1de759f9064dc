"""Landscapes of the shared space: what loss and score do around solutions, for every delta type on the same points.

    plane     z(x, y) = o + x u + y v and every type's loss and score there        landscape/plane.py
    Surface   the plane's arrays and marks, one file                               landscape/surface.py
    directions random ones by filter or layer; the plane of an optimizer's way      landscape/directions.py
    paths     lines and trained curves between solutions, their barriers           landscape/paths.py
    curvature eigenvalues, trace and density of Hessian and Gauss-Newton           landscape/curvature.py
    adaptive  a map of few evaluations, refined where it bends                     landscape/sampling.py
    region    where all types stay within a tolerance of their best, and its area  landscape/region.py
    plot      the figure of a plane                                                landscape/plotting.py
    charts    curve, matrix, bars, spectrum, seen_codes                            landscape/charts.py
    trust     spectra, reconstruction, angles, agreement, score_curves             landscape/trust.py
    heatmaps  similarities: task against task within each type                     landscape/heatmaps.py
    taskmap   draw_map: the sources as points of a plane, with their names         landscape/taskmap.py

All but those from `plot` on are arrays in, arrays out, and do not know matplotlib. The space that is perturbed is z, and
`Surface.space` says so.
"""

from typing import TYPE_CHECKING, Any

from landscape.curvature import Density, Eigen, Traced, eigenvalues, gauss_newton, hessian, matrix_of, spectral_density, trace
from landscape.directions import Trajectory, of_trajectory, random_directions
from landscape.paths import Path, Profile, connected, profile, straight
from landscape.plane import plane, survey
from landscape.region import Region, region
from landscape.sampling import Sampled, adaptive
from landscape.surface import Mark, Surface

if TYPE_CHECKING:
    from landscape.charts import bars, curve, matrix, seen_codes, spectrum
    from landscape.heatmaps import similarities
    from landscape.plotting import plot
    from landscape.style import Estimate
    from landscape.taskmap import draw_map
    from landscape.trust import agreement, angles, reconstruction, score_curves, spectra

_FIGURES = {
    "plot": "plotting", "Estimate": "style", "similarities": "heatmaps", "draw_map": "taskmap",
    **dict.fromkeys(("bars", "curve", "matrix", "seen_codes", "spectrum"), "charts"),
    **dict.fromkeys(("adaptive", "agreement", "angles", "reconstruction", "score_curves", "spectra"), "trust"),
}  # fmt: skip

__all__ = [
    "Density", "Eigen", "Estimate", "Mark", "Path", "Profile", "Region", "Sampled", "Surface", "Traced", "Trajectory",
    "adaptive", "agreement", "angles", "bars", "connected", "curve", "draw_map", "eigenvalues", "gauss_newton", "hessian",
    "matrix", "matrix_of", "of_trajectory", "plane", "plot", "profile", "random_directions", "reconstruction", "region",
    "score_curves", "seen_codes", "similarities", "spectra", "spectral_density", "spectrum", "straight", "survey", "trace",
]


def __getattr__(name: str) -> Any:
    """The figures, on first use: matplotlib takes a second that `--help` has not."""
    if name not in _FIGURES:
        raise AttributeError(f"module 'landscape' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"landscape.{_FIGURES[name]}"), name)
