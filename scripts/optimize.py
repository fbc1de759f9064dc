"""`deltaspace optimize`: tune z alone for tasks inside a subspace."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

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
    """Delta types to tune through, one after the other; all where none is named. lora+adapter tunes one z through both at once."""
    by: Literal["gradient", "search"] = "gradient"
    """Tune z by the gradient of the task's loss, or search for it with forward passes alone (CMA-ES)."""
    evaluations: int = 300
    """search: candidates in all."""
    search_rows: int = 32
    """search: training rows that every candidate is run over."""
    shots: int | None = None
    """Training and dev rows kept of every task; all where not given."""
    warm_start: int = 0
    """Steps for which the full delta is trained from each point that was found, and from its own start, to see what the point saves."""
    warm_start_rate: float = 3e-3
    """Peak learning rate of these trainings."""
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

        import deltas
        import subspace
        from deltas.bank import versions
        from deltas.files import write_json
        from deltas.tuning import Job
        from subspace.optimize import IN_SUBSPACE, attach_all, optimize_many

        from .progress import Bars

        space, bars, found = subspace.placed(subspace.Subspace.load(self.space), backbone), Bars(), []
        if self.shots is not None:
            tasks = [subspace.few_shot(task, self.shots, dev=True) for task in tasks]
        training = dataclasses.replace(IN_SUBSPACE, steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate,
                                       evaluate_every=max(self.steps // 5, 1))
        through = [one.split("+") for one in self.through or space.labels]
        attached = [attach_all(space, backbone, labels) for labels in through]  # refuses what is not there, before any work
        jobs = [Job(task, seed) for task in tasks for seed in range(self.seeds)]
        steps = self.steps if self.by == "gradient" else self.evaluations
        with bars.stage("optimize", steps * len(jobs) * len(attached)) as bar:
            for labels, one in zip(through, attached, strict=True):
                if self.by == "gradient":
                    found += optimize_many(space, one, jobs, training=training, reading=reading, in_flight=self.in_flight,
                                           test_rows=self.test_rows, on_progress=bar)
                else:
                    found += [subspace.search(space, backbone, job.task, labels, evaluations=self.evaluations, rows=self.search_rows,
                                              seed=job.seed, test_rows=self.test_rows, reading=reading, in_flight=self.in_flight,
                                              on_progress=bar) for job in jobs]
        points = [{**{name: value for name, value in dataclasses.asdict(f).items() if name != "way"}, "z": f.z.tolist()} for f in found]
        write_json(self.out / "found.json", points)
        summary = {"points": [{k: p[k] for k in ("task", "through", "seed", "dev", "score", "loss", "failed", "forward")} for p in points]}
        for f in found:
            print(f"{f.task} through {f.through}, seed {f.seed}: {f.score:.3f} (dev {f.dev:.3f})")
        if self.warm_start:
            full = deltas.Training(steps=self.warm_start, batch_size=self.batch_size, learning_rate=self.warm_start_rate,
                                   evaluate_every=max(self.warm_start // 10, 1))
            by_name, started = {task.name: task for task in tasks}, []
            with bars.stage("warm start", sum(len(f.through.split("+")) for f in found)) as bar:
                for f in found:
                    for label in f.through.split("+"):
                        one = subspace.warm_start(space, backbone, by_name[f.task], f.z, label, full, seed=f.seed, reading=reading,
                                                  test_rows=self.test_rows)
                        started.append({"task": f.task, "type": label, "seed": f.seed, "target": one.target, "steps_cold": one.steps_cold,
                                        "steps_warm": one.steps_warm, "gain": one.gain, "cold": one.cold.score, "warm": one.warm.score,
                                        "history_cold": list(one.cold.history), "history_warm": list(one.warm.history)})
                        print(one)
                        bar()
            summary["warm_start"] = started
        write_json(self.out / "summary.json", {**summary, "seconds": bars.seconds, "versions": versions()})
