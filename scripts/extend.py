"""`deltaspace extend`: newcomers into a fitted subspace."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Extend:
    """Add solutions to a fitted subspace without fitting it anew: the result is the same, and says how much of each newcomer was missed."""

    space: Annotated[Path, tyro.conf.Positional]
    """A subspace's folder."""
    bank: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The bank with the old solutions and the new ones; or folders of adapters, as patterns too, of the old ones and the new."""
    out: Path
    """Where the grown subspace is written."""
    names: tuple[str, ...] = ()
    """Tasks of the newcomers; all that are not yet sources where none is named."""
    missing: bool = False
    """Take newcomers too for which only some of the types have a solution."""
    task_of: str | None = None
    """adapters: as `decompose` was given it."""

    def run(self) -> None:
        """Extend, save, print a line a newcomer."""
        import subspace
        from deltas.bank import versions
        from deltas.errors import InputError
        from deltas.files import write_json

        from .gathering import sources_of
        from .progress import Bars

        space, bars, pairs = subspace.Subspace.load(self.space), Bars(), None
        some = self.missing or space.settings.get("missing") is not None
        with bars.stage("gather", 1) as bar:
            sources = sources_of(self.bank, labels=space.labels, missing=some, task_of=self.task_of, space=space.space)
            bar()
        if self.names:
            pairs = [pair for pair in sources.pairs if pair[0] in self.names]
            if absent := set(self.names) - {task for task, _ in pairs}:
                raise InputError(f"expected solutions of {sorted(absent)[0]} for {', '.join(space.labels)} in {sources.name}, got none; train "
                                 "them")
        with bars.stage("extend", 1) as bar:
            grown = subspace.extend(space, sources, pairs=pairs, missing=self.missing)
            grown.save(self.out)
            bar()
        write_json(self.out / "summary.json", {**grown.describe(), "seconds": bars.seconds, "versions": versions()})
        for one in grown.settings["grown"][len(space.settings.get("grown", ())) :]:
            missed = ", ".join(f"{label} {share:.0%}" for label, share in one["missed"].items())
            print(f"{one['task']}, seed {one['seed']}: the space missed {missed} of what is not the mean")
        print(f"{len(grown.pairs)} sources, k = {grown.k}, in {self.out}")
