"""`deltaspace landscape`: a plane of z with every delta type's loss and score."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .options import OnTasks


@dataclass(frozen=True, kw_only=True)
class Landscape(OnTasks):
    """Draw a plane of the subspace for each task: loss and score of every type, and the region where all stay near their best."""

    space: Annotated[Path, tyro.conf.Positional]
    """A subspace's folder."""
    out: Path
    """Where arrays, figures and `summary.json` are written."""
    directions: tuple[int, int] = (0, 1)
    """Two directions of z through the origin."""
    solutions: tuple[str, ...] = ()
    """Instead: three sources as task or task.seed, whose affine plane is drawn."""
    resolution: int = 21
    """Points an axis."""
    rows: int | None = 64
    """Test rows a point."""
    tolerance: float = 0.1
    """How far below its best a type may stay inside the region, as a part of it."""

    def run(self) -> None:
        """Survey, draw, summarise."""
        backbone, tasks, reading = self.load()
        import landscape
        from deltas.bank import versions
        from deltas.files import write_json
        from subspace import Subspace

        from .progress import Bars

        space, bars, regions = Subspace.load(self.space), Bars(), {}
        spanned = [split_pair(text) for text in self.solutions] or list(self.directions)
        with bars.stage("landscape", self.resolution**2 * len(space.labels) * len(tasks)) as bar:
            for task in tasks:
                seen = dict.fromkeys(space.labels, 0)

                def tell(label: str, done: int, total: int, seen: dict[str, int] = seen) -> None:
                    bar(done - seen[label], label)
                    seen[label] = done

                surface = landscape.plane(space, backbone, task, spanned_by=spanned, resolution=self.resolution, rows=self.rows,
                                          reading=reading, cache=self.out / "points", on_progress=tell)
                surface.save(self.out / f"{task.name}.safetensors")
                landscape.plot(surface, self.out / f"{task.name}.png", tolerance=self.tolerance)
                found = landscape.region(surface, tolerance=self.tolerance)
                regions[task.name] = {"area": found.area, "fraction": found.fraction, "holes": surface.holes}
                print(f"{task.name}: all types within {self.tolerance:.0%} of their best on {found.fraction:.1%} of the plane")
        write_json(self.out / "summary.json", {"regions": regions, "seconds": bars.seconds, "versions": versions()})


def split_pair(text: str) -> tuple[str, int]:
    """(task, seed) from `task` or `task.seed`; a name may itself hold dots."""
    name, dot, seed = text.rpartition(".")
    return (name, int(seed)) if dot and seed.isdigit() else (text, 0)
