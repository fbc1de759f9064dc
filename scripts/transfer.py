"""`deltaspace transfer`: points of a subspace decoded by every delta type."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .options import OnTasks


@dataclass(frozen=True, kw_only=True)
class Transfer(OnTasks):
    """Score points found by `optimize` through every delta type, beside mean_only, zero_shot and chance. Nothing is trained."""

    space: Annotated[Path, tyro.conf.Positional]
    """A subspace's folder."""
    found: Annotated[Path, tyro.conf.Positional]
    """`found.json` of `optimize`."""
    out: Path
    """Where `summary.json` is written."""
    test_rows: int | None = None
    """Test rows scored; all where not given."""

    def run(self) -> None:
        """Transfer, print one table a point, write all."""
        from deltas.errors import InputError
        from deltas.files import read_json

        points = read_json(self.found)
        backbone, tasks, reading = self.load()
        import numpy as np

        import subspace
        from deltas.bank import versions
        from deltas.files import write_json

        from .progress import Bars

        space, bars, tables = subspace.placed(subspace.Subspace.load(self.space), backbone), Bars(), []
        by_name = {task.name: task for task in tasks}
        for point in points:
            if point["task"] not in by_name:
                raise InputError(f"expected the task {point['task']} of {self.found} among the tasks, got {', '.join(by_name)}; name it")
            if len(point["z"]) != space.k:
                raise InputError(f"expected points of {space.k} numbers, got {len(point['z'])} in {self.found}; "
                                 "use the subspace they were found in")
        with bars.stage("transfer", len(points)) as bar:
            for point in points:
                table = subspace.transfer(space, backbone, by_name[point["task"]], np.asarray(point["z"], np.float32), reading=reading,
                                          rows=self.test_rows)
                tables.append({"source": point["through"], "seed": point["seed"], "task": table.task, "metric": table.metric,
                               "scores": dict(table.scores), "controls": dict(table.controls)})
                print(f"from {point['through']}, seed {point['seed']}: {table}")
                bar()
        write_json(self.out / "summary.json", {"tables": tables, "seconds": bars.seconds, "versions": versions()})
