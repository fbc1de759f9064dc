"""The page of an experiment: what was asked and found in words, numbers beside what is claimed, tables, figures, settings, caveats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from deltas.files import write_text

from .report_data import Number
from .report_findings import VERDICTS, Finding
from .report_html import figure_of, num, settings_of, table_of, td


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: a heading, words, tables and figures in this order."""

    title: str
    words: Sequence[str] = ()
    tables: Sequence[str] = ()
    """Ready HTML, of `plain`."""
    figures: Mapping[str, str] = field(default_factory=dict)
    """Name of a figure in figures/ (without suffix) → its caption."""


@dataclass(frozen=True, kw_only=True)
class Main:
    """The experiment's main table, which the README shows too; a cell is a `Number`, a float or a word, the first `words` columns hold words."""

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    words: int = 1

    def html(self) -> str:
        """As a section of the page."""
        return f"<section><h2>Results</h2>{plain(self.heads, self.rows, self.caption, self.words)}</section>"

    def json(self) -> dict[str, Any]:
        """With its cells as texts."""
        rows = [[str(Number(cell)) if isinstance(cell, float) else str(cell) for cell in row] for row in self.rows]
        return {"heads": list(self.heads), "rows": rows, "caption": self.caption}


@dataclass(frozen=True, kw_only=True)
class Page:
    """What is told of an experiment.

    claims: rows (what a paper claims, what was found here, why they differ as far as it was found).
    """

    title: str
    asked: str
    headline: Finding
    main: Main | None = None
    findings: Sequence[Finding] = ()
    claims: Sequence[tuple[str, str, str]] = ()
    sections: Sequence[Section] = ()
    caveats: Sequence[str] = ()
    source: str = ""
    """The paper whose system this is."""

    def write(self, folder: Path, settings: str, summary: Mapping[str, Any]) -> Path:
        """Write folder/report.html, with the figures of folder/figures inside."""
        figures = {path.stem: path for path in sorted((folder / "figures").glob("*.png"))}
        items = "".join(f'<li class="{f.verdict}"><i>{VERDICTS[f.verdict]}</i><span>{escape(f.text)}</span></li>' for f in self.findings)
        parts = [f"<header><h1>{escape(self.title)}</h1>\n<p class='asked'>{escape(self.asked)}</p>\n"
                 f'<p class="headline {self.headline.verdict}">{escape(self.headline.text)}</p></header>']
        if self.main is not None:
            parts.append(self.main.html())
        if items:
            parts.append(f'<section><h2>What was found</h2><ul class="findings">{items}</ul></section>')
        if self.claims:
            rows = [f"<tr>{''.join(td(cell, lines=True) for cell in row)}</tr>" for row in self.claims]
            parts.append(f"<section><h2>Claimed and found</h2>{table_of(['claim', 'found here', 'why'], rows, words=3)}</section>")
        parts += [_section(section, figures) for section in self.sections]
        parts.append(settings_of(settings, summary))
        if self.caveats:
            parts.append(f"<section><h2>Caveats</h2><ul>{''.join(f'<li>{escape(item)}</li>' for item in self.caveats)}</ul></section>")
        if self.source:
            parts.append(f"<section><h2>Where it comes from</h2><p>{escape(self.source)}</p></section>")
        page = Template(Path(__file__).with_name("report_page.html").read_text(encoding="utf-8"))
        path = folder / "report.html"
        write_text(path, page.safe_substitute(title=escape(self.title), body="\n".join(filter(None, parts))))
        return path


def _section(section: Section, figures: dict[str, Path]) -> str:
    words = "".join(f"<p>{escape(text)}</p>" for text in section.words)
    drawn = "".join(figure_of(figures, name, caption) for name, caption in section.figures.items())
    return f"<section><h2>{escape(section.title)}</h2>{words}{''.join(section.tables)}{drawn}</section>"


def number(value: float | None, interval: Sequence[float] | None = None) -> Number:
    """A value and its interval, either of which may be missing."""
    low, high = interval if interval else (math.nan, math.nan)
    return Number(math.nan if value is None else value, low, high)


def plain(heads: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "", words: int = 1) -> str:
    """A sortable table of plain values: `Number`s and floats as numbers, all else as text; the first `words` columns hold words."""
    lines = []
    for row in rows:
        cells = [num(cell) if isinstance(cell, Number) else num(Number(cell)) if isinstance(cell, float) else td(cell, words=i < words)
                 for i, cell in enumerate(row)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return table_of([escape(head) for head in heads], lines, caption, words)
