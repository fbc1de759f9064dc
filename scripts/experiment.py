"""An experiment under way in its folder: results that are kept from run to run, its table, its summary and its page.

Beside the study of the subspace there are others, of the systems that this package descends from. Each is a dataclass of settings with a
method `run`, and writes what every study writes:

    DIR/study.toml  results.csv  summary.json  report.html  figures/*.png        and stages/*.json, by which a killed run goes on
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltas.files import read_json, sha256, write_json, write_text

if TYPE_CHECKING:
    from .page import Page
    from .progress import Bars


def kept(folder: Path, name: str, key: Any, make: Callable[[], Any]) -> Any:
    """The JSON value of a stage from its file below folder/stages, where that was made from the same `key`; otherwise made now and stored."""
    path, mark = folder / "stages" / f"{name}.json", sha256(json.dumps(key, default=str, sort_keys=True))
    if path.is_file() and (stored := read_json(path)).get("key") == mark:
        return stored["value"]
    value = make()
    write_json(path, {"key": mark, "value": value})
    return value


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The rows as comma-separated text; what a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if line.get(name) is None else line[name] for name in columns} for line in rows)
    return text.getvalue()


class Experiment:
    """The folder of one experiment.

    settings: the dataclass that describes it, written as study.toml; kind: its name in `kinds.KINDS`.
    """

    def __init__(self, out: Path, kind: str, settings: Any) -> None:
        self.out, self.kind, self.settings = out, kind, settings

    @cached_property
    def bars(self) -> Bars:
        """The progress of its stages, and the seconds they took."""
        from .progress import Bars

        return Bars()

    def kept(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """As `kept`, in this folder: the key holds all that the value depends on, task and backbone fingerprints among it."""
        return kept(self.out, name, key, make)

    def text(self) -> str:
        """The settings as a study file, which `deltaspace study` runs again."""
        lines = [f"kind = {json.dumps(self.kind)}"]
        for field in dataclasses.fields(self.settings):
            value = getattr(self.settings, field.name)
            if field.name not in ("out", "cpu_devices") and value is not None:
                lines.append(f"{field.name} = {_toml(value)}")
        return "\n".join(lines) + "\n"

    def write(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], summary: Mapping[str, Any], page: Page) -> dict[str, Any]:
        """Write study.toml, results.csv, summary.json and report.html.

        The summary gets what the page tells, seconds and versions beside what is given. Figures are those of folder/figures, drawn before.
        """
        from deltas.bank import versions

        told = {"title": page.title, "headline": page.headline.text, "claims": [list(claim) for claim in page.claims]}
        if page.main is not None:
            told["table"] = page.main.json()
        whole = {"kind": self.kind, **told, **summary, "seconds": self.bars.seconds, "versions": versions()}
        write_text(self.out / "study.toml", self.text())
        write_text(self.out / "results.csv", table(rows, columns))
        write_json(self.out / "summary.json", whole)
        path = page.write(self.out, self.text(), whole)
        print(f"{page.headline.text}\nreport: {path}")
        return whole


def _toml(value: Any) -> str:
    """A setting as TOML: numbers, words, lists and tables of these."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value) if isinstance(value, int | float) else json.dumps(str(value), ensure_ascii=False)
