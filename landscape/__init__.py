"""Landscapes: what loss and score do around solutions, for every delta type on the same points.

    plane      every type's loss and score on a plane of z, θ or the weights        landscape/plane.py
    frame      where a plane lies: leading directions, three solutions, vectors     landscape/frame.py
    around     coordinates around a point of θ or of the weights                    landscape/around.py
    directions random ones by filter or layer; those of an optimizer's way          landscape/directions.py
    Surface    the plane's arrays, marks and trails, one file                       landscape/surface.py
    adaptive   a map of few evaluations, refined where it bends                     landscape/sampling.py
    steady     what all points of a plane agree on is computed once a batch         landscape/steady.py, staged.py
    region     where all types stay within a tolerance of their best                landscape/region.py
    overlaps   whether tasks share a basin, pair by pair                            landscape/basins.py
    paths      lines and trained curves, their barriers, as pure functions          landscape/paths.py
    join       such a path between real solutions, looked at by every type          landscape/joining.py, ends.py, walk.py
    curvature  eigenvalues, trace and density of Hessian and Gauss-Newton           landscape/curvature.py
    sharpness  the worst case in a ball, the average on its sphere                  landscape/sharpness.py
    bend       both of a real delta's loss, in z, θ or the weights                  landscape/bending.py, objective.py

    plot, draw_overlap, draw_combined, draw_multiples, draw_relief, draw_page       pictures of planes
    draw_overlaps                                                                   of basins, task by task
    draw_profiles, draw_densities, draw_eigenvalues, draw_sharpness                 of paths and of curvature
    redraw     all pictures that a folder's files allow                             landscape/redrawing.py
    charts, trust, heatmaps, taskmap                                                pictures of subspaces and studies
    accuracies, ensembling                                                          of continual learning, of weight ensembling
    draw_transfer, draw_dots, draw_courses                                          of tasks and methods
    budget_curves, cost_curves, scale_figure                                        of budgets, of a step's cost, of backbone sizes

All but the pictures are arrays in, arrays out, and do not know matplotlib. `Surface.space`, `Walk.where` and `Bending.where` say which space was
perturbed.
"""

from typing import TYPE_CHECKING, Any

from landscape.around import Around, change_of_weights
from landscape.basins import Overlap, by_plane, overlaps
from landscape.bending import Bending, Matrix, Measures, bend, shared_directions, side_by_side
from landscape.curvature import Density, Eigen, Traced, eigenvalues, gauss_newton, hessian, matrix_of, spectral_density, trace
from landscape.directions import Trajectory, of_trajectory, random_directions
from landscape.ends import End, Ground, code_end, theta_ends
from landscape.joining import Curve, join
from landscape.objective import Objective, Rows, in_theta, in_weights, in_z
from landscape.paths import Path, Profile, connected, profile, straight
from landscape.plane import plane, survey
from landscape.region import Region, combined, region
from landscape.sampling import Sampled, adaptive
from landscape.sections import Section
from landscape.sharpness import Average, Worst, average_case, worst_case
from landscape.surface import Mark, Surface, Trail
from landscape.walk import Walk

if TYPE_CHECKING:
    from landscape.accuracies import draw_accuracy_matrices, draw_accuracy_steps
    from landscape.charts import bars, curve, matrix, seen_codes, spectrum
    from landscape.courses import draw_courses
    from landscape.dots import draw_dots
    from landscape.ensembling import draw_blocks, draw_gains, draw_weights
    from landscape.heatmaps import similarities
    from landscape.interactive import draw_page
    from landscape.multiples import draw_multiples
    from landscape.overlap_maps import draw_overlaps
    from landscape.plotting import draw_combined, draw_overlap, plot
    from landscape.profiles import draw_profiles
    from landscape.redrawing import redraw
    from landscape.relief import draw_relief
    from landscape.sharpness_figure import draw_sharpness
    from landscape.spectral_figures import draw_densities, draw_eigenvalues
    from landscape.style import Estimate
    from landscape.taskmap import draw_map
    from landscape.transfer_map import draw_transfer
    from landscape.trust import agreement, angles, reconstruction, score_curves, spectra

_FIGURES = {
    "Estimate": "style", "draw_map": "taskmap", "draw_multiples": "multiples", "draw_overlaps": "overlap_maps", "draw_page": "interactive",
    "draw_profiles": "profiles", "draw_relief": "relief", "draw_sharpness": "sharpness_figure", "redraw": "redrawing",
    **dict.fromkeys(("draw_accuracy_matrices", "draw_accuracy_steps"), "accuracies"),
    "similarities": "heatmaps", "draw_courses": "courses", "draw_dots": "dots", "draw_transfer": "transfer_map",
    **dict.fromkeys(("plot", "draw_combined", "draw_overlap"), "plotting"),
    **dict.fromkeys(("draw_blocks", "draw_gains", "draw_weights"), "ensembling"),
    **dict.fromkeys(("draw_densities", "draw_eigenvalues"), "spectral_figures"),
    **dict.fromkeys(("bars", "curve", "matrix", "seen_codes", "spectrum"), "charts"),
    **dict.fromkeys(("agreement", "angles", "reconstruction", "score_curves", "spectra"), "trust"),
}  # fmt: skip

__all__ = [
    "Around", "Average", "Bending", "Curve", "Density", "Eigen", "End", "Estimate", "Ground", "Mark", "Matrix", "Measures", "Objective",
    "Overlap", "Path", "Profile", "Region", "Rows", "Sampled", "Section", "Surface", "Traced", "Trail", "Trajectory", "Walk", "Worst",
    "adaptive", "agreement", "angles", "average_case", "bars", "bend", "by_plane", "change_of_weights", "code_end", "combined", "connected",
    "curve", "draw_accuracy_matrices", "draw_accuracy_steps", "draw_blocks", "draw_combined", "draw_courses", "draw_densities", "draw_dots",
    "draw_eigenvalues", "draw_gains", "draw_map", "draw_multiples", "draw_overlap", "draw_overlaps", "draw_page", "draw_profiles",
    "draw_relief", "draw_sharpness", "draw_transfer", "draw_weights", "eigenvalues", "gauss_newton", "hessian", "in_theta", "in_weights",
    "in_z", "join", "matrix", "matrix_of", "of_trajectory", "overlaps", "plane", "plot", "profile", "random_directions", "reconstruction",
    "redraw", "region", "score_curves", "seen_codes", "shared_directions", "side_by_side", "similarities", "spectra", "spectral_density",
    "spectrum", "straight", "survey", "theta_ends", "trace", "worst_case",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The figures, on first use: matplotlib takes a second that `--help` has not."""
    if name not in _FIGURES:
        raise AttributeError(f"module 'landscape' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"landscape.{_FIGURES[name]}"), name)
