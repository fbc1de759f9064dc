"""`deltaspace bench`: our speed against what else one would use, measured in one run."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .options import load_tasks, use_devices

if TYPE_CHECKING:
    from rich.table import Table

    from deltas import Backbone, Task

Part = Literal["steps", "padding", "svd", "autoencoder", "flight"]
PARTS: tuple[Part, ...] = ("steps", "padding", "svd", "autoencoder", "flight")
TARGETS = {"steps": 0.9, "padding": 5.0, "svd": 5.0, "autoencoder": 2.0}
"""The least ratio theirs / ours that the package sets itself."""
ERROR = 1e-4
"""The largest relative error of joint_svd's singular values that it allows itself."""
NEEDED = {"steps": ("torch", "peft"), "autoencoder": ("torch",)}
FEWEST = 5


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time a LoRA step, padding, joint_svd, an autoencoder step and many solutions in flight, each against the usual way.

    Both ways run in turn on the same threads; the table shows medians, the ratio theirs / ours with its range, and the target. A part
    that lacks a package is left out with the reason, or refused before any work where `--only` asks for it.
    """

    out: Path
    """Where summary.json goes; joint_svd's rows (720 MB) lie there while it runs."""
    backbone: str = "tiny"
    """A Hugging Face folder, a hub id, or "tiny"; the targets are meant for a real T5, a small one will do."""
    tasks: str = "gym"
    """A folder with one folder a task, or "gym": the rows that padding is measured on."""
    only: tuple[Part, ...] = ()
    """Which parts; none named: all that can run."""
    rounds: int = 5
    """Timed rounds of each part, at least 5."""
    threads: int = 2
    """Processors and threads that both ways get."""
    seed: int = 0
    """Of tokens, rows and initial values."""

    def run(self) -> None:
        """Measure, print the table, write `summary.json`."""
        from deltas.errors import InputError

        if self.rounds < FEWEST:
            raise InputError(f"expected at least {FEWEST} rounds, got {self.rounds}; a median of fewer says little")
        from .bench.timing import pin_threads

        pin_threads(self.threads)
        use_devices(None)
        parts, skipped = chosen(self.only)
        import deltas
        from deltas.files import write_json

        tasks = load_tasks(self.tasks) if "padding" in parts else []
        backbone = deltas.load_backbone(self.backbone)
        self.out.mkdir(parents=True, exist_ok=True)
        results, seconds, load = self._measured(parts, backbone, tasks)
        summary = {"bench": results, "skipped": skipped, **self._about(backbone), "load": load, "seconds": seconds}
        write_json(self.out / "summary.json", summary)
        from rich.console import Console

        Console(width=None if os.isatty(1) else 150).print(table(results, skipped))

    def _measured(
        self, parts: "tuple[Part, ...]", backbone: "Backbone", tasks: "list[Task]"
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
        """The parts' results, the seconds each took, and how many processes wanted to run as each ended."""
        import deltas

        from .bench import autoencoder, decomposition, flight, steps
        from .progress import Bars

        tiny = backbone if self.backbone == "tiny" else deltas.load_backbone("tiny")
        on_cpu = flight.sizes()[-1] < 64
        both = {b.name: b for b in (tiny, backbone)}
        ways: dict[str, Callable[[], dict[str, Any]]] = {
            "steps": lambda: steps.step_against_peft(backbone, self.rounds, self.threads, self.seed),
            "padding": lambda: steps.padding_against_buckets(backbone, tasks, self.rounds, self.seed),
            "svd": lambda: decomposition.svd_against_randomized(self.out, self.rounds, self.seed),
            "autoencoder": lambda: {f"on {Path(name).name}": autoencoder.step_against_pytorch(b, self.rounds, self.threads, self.seed)
                                    for name, b in both.items()},
            "flight": lambda: flight.throughput(tiny if on_cpu else backbone, self.rounds, self.seed),
        }
        bars, results, load = Bars(), {}, {}
        for part in parts:
            with bars.stage(part, 1):
                found = ways[part]()
            results |= {f"{part} {on}": one for on, one in found.items()} if part == "autoencoder" else {part: found}
            load[part] = round(os.getloadavg()[0], 1)
        for name, one in results.items():
            if (target := TARGETS.get(name.split()[0])) is not None:
                one |= {"target": target, "met": one["ratio"] >= target and one.get("error", 0.0) <= ERROR}
        return results, bars.seconds, load

    def _about(self, backbone: "Backbone") -> dict[str, Any]:
        from importlib import metadata

        from deltas.bank import versions

        from .bench.timing import machine

        others = {name: metadata.version(name) for name in ("torch", "peft", "scikit-learn", "scipy") if _installed(name)}
        return {"machine": machine(), "versions": {**versions(), **others}, "settings": {
            "backbone": Path(self.backbone).name, "fingerprint": backbone.fingerprint, "tasks": Path(self.tasks).name,
            "rounds": self.rounds, "threads": self.threads, "seed": self.seed}}


def chosen(only: tuple[Part, ...]) -> tuple[tuple[Part, ...], dict[str, str]]:
    """The parts to run, in their order, and why others are not.

    Raises:
        InputError: a part that was asked for and cannot run here.
    """
    from deltas.errors import InputError

    skipped = {}
    for part in only or PARTS:
        if reason := _lacking(part):
            if only:
                raise InputError(f"expected {' and '.join(NEEDED[part])} for the part {part}, got {reason}; "
                                 "pip install 'deltaspace[parity]', or leave the part out")
            skipped[part] = reason
    return tuple(part for part in PARTS if part in (only or PARTS) and part not in skipped), skipped


def _lacking(part: str) -> str:
    """Why a part cannot run here, or nothing."""
    for name in NEEDED.get(part, ()):
        if not _installed(name):
            return f"no {name}"
    if "torch" in NEEDED.get(part, ()):
        import jax

        if jax.default_backend() != "cpu":
            from .bench.originals import device

            if device() == "cpu":
                return "a torch that does not see JAX's accelerator"
    return ""


def _installed(name: str) -> bool:
    return importlib.util.find_spec({"scikit-learn": "sklearn"}.get(name, name)) is not None


TITLES = {"steps": "a  LoRA step", "padding": "b  step on the tasks' rows", "svd": "c  SVD of 180 × 1M, top 50",
          "autoencoder": "d  autoencoder step", "flight": "e  in flight"}


def table(results: Mapping[str, Mapping[str, Any]], skipped: Mapping[str, str]) -> "Table":
    """One line a comparison, one a number in flight, one a part that was left out."""
    from rich.table import Table

    shown = Table(title="theirs / ours: above 1 deltaspace is faster")
    for heading in ("part", "ours", "theirs", "ratio", "range", "target"):
        shown.add_column(heading, justify="left" if heading == "part" else "right")
    for name, one in results.items():
        part, _, on = name.partition(" ")
        if part == "flight":
            for point in one["curve"]:
                shown.add_row(f"{TITLES[part]}: {point['in_flight']} ({one['device']})", f"{point['steps_per_second']:.1f} steps/s", "",
                              f"{point['against_first']:.2f} of the first", "", "")
            continue
        ours, theirs = (f"{one[side]} {one['seconds'][one[side]]:.4g} s" for side in ("ours", "theirs"))
        low, high = one["ratio_range"]
        shown.add_row(f"{TITLES[part]} {on}".strip(), ours, theirs, f"{one['ratio']:.2f}", f"{low:.2f}–{high:.2f}",
                      f"≥ {one['target']:g} {'met' if one['ratio'] >= one['target'] else 'missed'}")
        if "error" in one:
            shown.add_row("   largest error of a value", f"{one['error']:.1e}", f"{one['randomized_error']:.1e}", "", "",
                          f"≤ {ERROR:g} {'met' if one['error'] <= ERROR else 'missed'}")
    for part, reason in skipped.items():
        shown.add_row(TITLES[part], f"left out: {reason}", "", "", "", "")
    return shown
