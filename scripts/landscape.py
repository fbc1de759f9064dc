"""`deltaspace landscape`: planes, paths and curvature around solutions, for every delta type side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .options import OnTasks


@dataclass(frozen=True, kw_only=True)
class Landscape(OnTasks):
    """Draw what loss and score do around solutions: planes, paths between two, curvature. The arrays are kept, and can be drawn again.

    Around what: a subspace (all its types on one z), the folder of a study (its subspace, backbone, tasks and the points it found), or a
    bank (θ of one type). Solutions are named as task, task.seed, or type:task.seed.
    """

    given: Annotated[Path | None, tyro.conf.Positional] = None
    """A subspace's folder, a study's, or a bank's."""
    out: Path
    """Where arrays, figures and `summary.json` are written."""
    redraw: bool = False
    """Draw the figures of --out again from its arrays. Nothing is evaluated; of the other options --suffix, --pages and --tolerance count."""
    draw: tuple[Literal["plane", "paths", "curvature"], ...] = ("plane",)
    """What is evaluated and drawn."""
    where: Literal["z", "theta", "weights"] | None = None
    """The space that is perturbed: z of the subspace, a type's own θ, or the backbone's weights below it. Not given: z, and θ of a bank."""
    through: str | None = None
    """The type whose θ, weights, eigenvectors or way it is; not given: the first."""
    span: Literal["found", "leading", "random", "curvature", "way"] | None = None
    """Of planes: through the points found; z's leading directions; random ones (of θ and weights with the lengths of what they move); the two
    leading eigenvectors of the Hessian; or the principal components of an optimizer's way, which is tuned for it. Not given: found where
    there are two points, else leading, in z; random elsewhere."""
    directions: tuple[int, int] = (0, 1)
    """leading: two directions of z."""
    solutions: tuple[str, ...] = ()
    """Three for a plane through them, instead of --span; two for a path; one for a plane or curvature around it. Not given: the points found."""
    bank: Path | None = None
    """Where solutions of a subspace are read from; a study has its own."""
    found: Path | None = None
    """`found.json` of `optimize`: points of z to mark, to look around and to join."""
    normalise: Literal["none", "layer", "filter"] = "filter"
    """random: what of θ or weights the directions have the lengths of."""
    extent: float | None = None
    """Half the side of a plane; not given: what is marked and a margin."""
    resolution: int = 21
    """Points an axis, and of a path."""
    adaptive: float | None = None
    """Evaluate only as many points as keep filled-in losses within this share of their range, as measured (0.02 is usual)."""
    split: Literal["train", "dev", "test"] = "test"
    """Rows of planes and paths. Curves, curvature, eigenvectors and ways are of training rows."""
    rows: int | None = 64
    """Rows a point."""
    metric: str | None = None
    """Of the scores, for tasks that have it; not given: each task's own."""
    tolerance: float = 0.1
    """How far below its best a type may stay inside the region, as a part of it."""
    curves: tuple[Literal["bezier", "polygonal"], ...] = ("bezier",)
    """paths: curves that are trained to low loss, beside the straight line."""
    bends: int = 1
    """paths: knots of a curve between its ends."""
    align: Literal["none", "procrustes"] = "none"
    """paths in θ: turn the second solution towards the first along what its function does not depend on."""
    parts: int = 4
    """paths: parts of the rows that intervals are over."""
    steps: int = 100
    """way, curves: steps of training."""
    top: int = 5
    """curvature: leading eigenvalues, where there are too many numbers for the whole matrix."""
    probes: int = 16
    """curvature: random vectors of the trace."""
    radius: float = 0.05
    """curvature: of the ball of the sharpness; in θ and weights a share of their length. 0 leaves it out."""
    seed: int = 0
    """Of random directions, vectors and trainings."""
    suffix: Literal["png", "svg", "pdf"] = "png"
    """Of the figures."""
    pages: bool = False
    """Write an interactive page of every plane too (needs plotly: pip install 'deltaspace[interactive]')."""

    def run(self) -> None:
        """Evaluate what is not there yet, draw, summarise."""
        from deltas.errors import InputError

        if self.pages:
            from landscape.interactive import available

            available()
        if self.redraw:
            self._figures()
            return
        if self.given is None:
            raise InputError("expected the folder of a subspace, a study or a bank, got none; name it, or draw an --out again with --redraw")
        from deltas.bank import versions
        from deltas.files import write_json

        from .landscape_given import given_of
        from .landscape_stages import bends, check, paths, planes
        from .progress import Bars

        given, bars, summary = given_of(self), Bars(), {}
        check(given, self)
        for what in dict.fromkeys(self.draw):
            summary |= {"plane": planes, "paths": paths, "curvature": bends}[what](given, self, bars)
        self._figures()
        write_json(self.out / "summary.json", {"space": given.where, **summary, "seconds": bars.seconds, "versions": versions()})

    def _figures(self) -> None:
        from landscape import redraw

        for path in redraw(self.out, suffix=self.suffix, tolerance=self.tolerance, pages=self.pages):
            print(path)
