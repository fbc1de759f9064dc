"""Progress bars with the time left; lines instead where the output is no terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bars:
    """A bar for each stage; remembers how long each took."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator["Bar"]:
        """Show a bar for `total` steps of the stage `name`; the seconds of equal names add up."""
        start = time.perf_counter()
        columns = (TextColumn("{task.description:<34}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"),
                   TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            yield Bar(progress, name, total)
        taken = time.perf_counter() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 2)
        self.console.print(f"{name}: {taken:.1f} s", highlight=False)


class Bar:
    """One stage's bar."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self._progress, self._name, self._task = progress, name, progress.add_task(name, total=max(total, 1))

    def to(self, step: int, what: str = "") -> None:
        """Advance to `step`."""
        self._progress.update(self._task, completed=step, description=f"{self._name} {what}".strip())

    def __call__(self, steps: int = 1, what: str = "") -> None:
        """Advance by `steps`, and say what is being done."""
        self._progress.update(self._task, advance=steps, description=f"{self._name} {what}".strip())

    def listener(self, what: str = "", worth: int | None = None) -> "Callable[[str, int, int], None]":
        """Told (label, done, total) again and again, it advances by what is new of each label, of which all is `worth` steps of the bar."""
        seen: dict[str, int] = {}

        def tell(label: str, done: int, total: int) -> None:
            now = done if worth is None else round(worth * done / max(total, 1))
            self(now - seen.get(label, 0), f"{what} {label}".strip())
            seen[label] = now

        return tell
