"""`deltaspace optimize`: tune z alone for tasks inside a subspace."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .options import OnTasks


@dataclass(frozen=True, kw_only=True)
class Optimize(OnTasks):
    """Tune a point of the subspace for every task, through every delta type and seed."""

    space: Annotated[Path, tyro.conf.Positional]
    """A subspace's folder, from `decompose` or a study."""
    out: Path
    """Where the points are written (`found.json`)."""
    through: tuple[str, ...] = ()
    """Delta types to tune through; all where none is named."""
    seeds: int = 1
    """Starts and data orders a task and type."""
    steps: int = 100
    """Updates of each z."""
    batch_size: int = 16
    """Rows an update."""
    learning_rate: float = 0.1
    """For whitened z."""
    test_rows: int | None = None
    """Test rows scored at the end; all where not given."""
    in_flight: int | None = None
    """Points tuned at once."""

    def run(self) -> None:
        """Tune, and write every point with its scores."""
        backbone, tasks, reading = self.load()
        import dataclasses

        from deltas.bank import versions
        from deltas.files import write_json
        from deltas.tuning import Job
        from subspace import Subspace
        from subspace.optimize import IN_SUBSPACE, attach_to, optimize_many

        from .progress import Bars

        space, bars, found = Subspace.load(self.space), Bars(), []
        training = dataclasses.replace(IN_SUBSPACE, steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate,
                                       evaluate_every=max(self.steps // 5, 1))
        attached = [attach_to(space, backbone, label) for label in self.through or space.labels]
        jobs = [Job(task, seed) for task in tasks for seed in range(self.seeds)]
        with bars.stage("optimize", self.steps * len(jobs) * len(attached)) as bar:
            for one in attached:
                found += optimize_many(space, one, jobs, training=training, reading=reading, in_flight=self.in_flight,
                                       test_rows=self.test_rows, on_progress=bar)
        points = [{**dataclasses.asdict(f), "z": f.z.tolist()} for f in found]
        write_json(self.out / "found.json", points)
        write_json(self.out / "summary.json", {
            "points": [{k: p[k] for k in ("task", "through", "seed", "dev", "score", "loss", "failed")} for p in points],
            "seconds": bars.seconds, "versions": versions()})
        for f in found:
            print(f"{f.task} through {f.through}, seed {f.seed}: {f.score:.3f} (dev {f.dev:.3f})")
