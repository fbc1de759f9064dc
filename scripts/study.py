"""`deltaspace study`: everything from solutions to a report, from one file."""

import difflib
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from .study_file import Study

COLUMNS = ("stage", "method", "k", "source", "target", "task", "seed", "control", "metric", "score", "relative", "normalised")


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Run the study in a TOML file: train, decompose, optimize, transfer, landscapes, report. Run again, it goes on where it stopped."""

    file: Annotated[Path, tyro.conf.Positional]
    """The study file, or the name of one that comes with the package, such as combinability"""
    out: Path
    """The study's folder: study.toml, bank/, subspace/, results.csv, summary.json, report.html, figures/."""
    cpu_devices: int | None = None
    """Split the processor into this many devices, to run as many solutions side by side."""

    def run(self) -> None:
        """Read the file, run the study, print where the report is."""
        from .kinds import experiment_of
        from .settings import parse_toml

        text = self.text()
        if "kind" in (table := parse_toml(text, "the study file")):
            experiment_of(table, self.out, self.cpu_devices).run()
        else:
            run_study(text, self.out, self.cpu_devices)

    def text(self) -> str:
        """What the study file says."""
        from deltas.errors import InputError

        from .kinds import packaged

        named = packaged()
        if not self.file.is_file() and str(self.file) not in named:
            near = difflib.get_close_matches(str(self.file), named, n=3)
            raise InputError(f"expected a study file at {self.file}, got nothing there; check the path"
                             + (f", or name one that comes with the package: {', '.join(near)}" if near else ""))
        return (self.file if self.file.is_file() else named[str(self.file)]).read_text(encoding="utf-8")


def run_study(text: str, out: Path, cpu_devices: int | None = None) -> dict[str, Any]:
    """Run the study that the TOML `text` describes in the folder `out`; returns what `summary.json` says."""
    from .options import use_devices

    use_devices(cpu_devices)
    from deltas.bank import versions
    from deltas.files import write_json, write_text
    from subspace import scores

    from . import stages
    from .experiment import table
    from .progress import Bars
    from .report import write_report
    from .report_data import read_study
    from .report_figures import draw_figures
    from .report_findings import headline
    from .run import Run
    from .study_file import parse_study

    study = parse_study(text)
    _same_solutions(study, out)
    run = Run(study, out, Bars())
    run.check()  # every refusal comes before any work
    write_text(out / "study.toml", text)
    stages.train(run)
    spaces = stages.decompose(run)
    stages.tune_and_transfer(run, spaces)
    stages.controls(run)
    method, k = study.decomposition.methods[0], study.decomposition.tables
    regions = stages.planes(run, spaces[method, k])
    with run.bars.stage("report", 1):
        rows, summary = scores.summarise(run.rows, dev=stages.full_dev(run), k=k, method=method, groups=_groups(run), seed=study.seed)
        write_text(out / "results.csv", table(rows, COLUMNS))
        summary |= {"study": {"name": study.name, "k": k, "method": method}, "seconds": run.bars.seconds, "versions": versions(),
                    "regions": regions, "failed": run.bank.failed(), "spaces": {f"{m}-k{n}": s.describe() for (m, n), s in spaces.items()},
                    "sources": len(run.pairs()), "source_tasks": len({task for task, _ in run.pairs()}),
                    "gram_correlation": stages.likeness(run)}
        write_json(out / "summary.json", summary)
        draw_figures(out, space=spaces[method, k], categories={t.name: t.category for t in run.tasks.values() if t.category})
        page = write_report(out)
    summary |= {"seconds": run.bars.seconds, "headline": headline(read_study(out)).text}
    write_json(out / "summary.json", summary)
    print(_closing(summary, page))
    return summary


def _groups(run: Any) -> dict[str, str]:
    return {name: group for group, names in run.groups.items() if group != "source" for name in names}


def _same_solutions(study: "Study", out: Path) -> None:
    """Refuse a folder whose solutions were made with other settings: they would be mixed without a word."""
    from deltas.errors import InputError

    from .study_file import read_study

    if not (out / "study.toml").is_file() or not (out / "bank").is_dir():
        return
    before = read_study(out / "study.toml")
    for name in ("backbone", "training", "reading", "seed", "tasks.folder", "tasks.shots", "tasks.train_rows", "tasks.test_rows",
                 "tasks.metrics"):
        if attrgetter(name)(before) != attrgetter(name)(study):
            raise InputError(f"expected the [{name}] settings that {out} was begun with, got others; give the study a new --out, or "
                             "delete that folder")


def _closing(summary: dict[str, Any], page: Path) -> str:
    """The result in a few lines for the terminal."""
    lines = []
    for stage in ("optimization", "transfer"):
        for what, entry in summary[stage].items():
            value, interval = entry.get("normalised"), entry.get("normalised_interval")
            if value is not None and interval:
                lines.append(f"  {stage:<13} {what:<18} {value:6.2f}  [{interval[0]:.2f}, {interval[1]:.2f}]")
    title = "normalised scores on unseen tasks (0 chance, 1 the full delta), with 95% intervals:"
    return "\n".join([title, *lines, summary["headline"], f"report: {page}"])
