"""The pieces of HTML that the report is put together from: numbers, tables, small drawings, embedded figures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .report_data import Number

CAPTIONS = {
    "curve": "Score against k, the dimension of the shared space; bands are 95% intervals, dashed lines controls at the k of the "
    "tables. 0 is chance, 1 the full delta trained alone.",
    "curve-by-type": "The same for each type: through the type itself (optimization), and decoded as it (transfer from the others).",
    "sources": "Score against the number of source tasks that were decomposed, nested and drawn in one random order; bands are 95% intervals.",
    "controls": "The method beside its controls. The shaded band is the method's own interval; tasks differ more than methods, so "
    "whether they can be told apart is asked task by task, under what was found.",
    "matrix": "Row: the type z was tuned through; column: the type that runs it. The diagonal is optimization (no transfer). Normalised: "
    "0, white, is chance.",
    "spectrum": "Singular values of all types' solutions side by side against Gaussian blocks of the same size, and the energy they hold.",
    "codes": "Source tasks in the first two coordinates of z, coloured by category; seeds of one task are joined.",
}


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def value_of(n: Number) -> str:
    """The value alone."""
    return str(Number(n.value))


def interval_of(n: Number) -> str:
    """The interval in brackets, or nothing."""
    return str(n).split(" ", 1)[1] if n.known and n.interval else ""


def mean_of(numbers: Iterable[Number]) -> Number:
    """Plain mean of the known ones, without an interval."""
    known = [n.value for n in numbers if n.known]
    return Number(sum(known) / len(known)) if known else Number()


def clock(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{int(minutes)} min {int(seconds % 60)} s" if minutes < 60 else f"{int(minutes // 60)} h {int(minutes % 60)} min"


def td(content: object, *, words: bool = False, lines: bool = False) -> str:
    """A cell: of a number, of words, or of so many words that they are broken into lines."""
    kind = " class='words lines'" if lines else " class=words" if words else ""
    return f"<td{kind}>{escape(str(content))}</td>"


def num(n: Number, bold: bool = False) -> str:
    """A cell of a number with its interval, sorted by its full precision."""
    if not n.known:
        return "<td data-v=''>–</td>"
    value = f"<b>{value_of(n)}</b>" if bold else value_of(n)
    return f"<td data-v='{n.value:.6f}'>{value}{f' <small>{interval_of(n)}</small>' if n.interval else ''}</td>"


def table_of(heads: Sequence[str], rows: Sequence[str], caption: str = "", words: int = 1) -> str:
    """A sortable table; heads are ready HTML, the caption is text, the first `words` columns hold words."""
    top = f"<caption>{escape(caption)}</caption>" if caption else ""
    head = "".join(f"<th scope='col'{' class=words' if n < words else ''}>{h}</th>" for n, h in enumerate(heads))
    kind = "sortable narrow" if len(heads) < 6 else "sortable"
    inside = f"{top}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="{kind}">{inside}</table></div>'


def drawing(n: Number, controls: Sequence[Number], low: float, high: float, moved: bool) -> str:
    """A number on its scale as a drawing: rules at 0 and 1, ticks for the controls, a line and a dot for the number."""
    at = lambda v: 4 + 102 * (v - low) / (high - low)  # noqa: E731
    rules = "".join(f"<line class='axis' x1='{at(v):.1f}' x2='{at(v):.1f}' y1='1' y2='19'/>" for v in (0.0, 1.0))
    ticks = "".join(f"<line class='ctl' x1='{at(c.value):.1f}' x2='{at(c.value):.1f}' y1='6' y2='14'/>" for c in controls if c.known)
    kind = "t" if moved else "main"
    bar = f"<line class='{kind}' stroke-width='2.5' x1='{at(n.low):.1f}' x2='{at(n.high):.1f}' y1='10' y2='10'/>" if n.interval else ""
    dot = f"<circle class='{kind}' cx='{at(n.value):.1f}' cy='10' r='3.5'/>"
    return f"<svg class='range' width='110' height='20' role='img' aria-label='{n}'>{rules}{ticks}{bar}{dot}</svg>"


def figure_of(figures: dict[str, Path], name: str, caption: str | None = None) -> str:
    """The figure of that name as a data URI with its caption, or nothing where there is none."""
    if name not in figures:
        return ""
    words = escape(caption or CAPTIONS.get(name) or name.replace("_", " ").replace("-", " "))
    raw = figures[name].read_bytes()
    width = round(0.58 * int.from_bytes(raw[16:20], "big"))  # of the PNG's header: text in all figures gets one size
    data = base64.b64encode(raw).decode()
    return f'<figure><img width="{width}" alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def settings_of(text: str, summary: Mapping[str, Any]) -> str:
    """A section with the study file, the seconds of each stage and the versions, as far as they are known."""
    seconds = {k: float(v) for k, v in (summary.get("seconds") or {}).items() if isinstance(v, (int, float))}
    versions = summary.get("versions") or {}
    parts = []
    if seconds:
        total, most = sum(seconds.values()), max(*seconds.values(), 1e-9)
        rows = []
        for stage, s in seconds.items():
            part = f"<rect width='{max(1.0, 160 * s / most):.0f}' height='10' rx='2' fill='var(--soft)'/>"
            drawn = f"<td class='words'><svg width='160' height='10' aria-hidden='true'>{part}</svg></td>"
            rows.append(f"<tr>{td(stage, words=True)}<td data-v='{s:.3f}'>{clock(s)}</td>{drawn}</tr>")
        parts.append(f"<div><h3>Time: {clock(total)}</h3>{table_of(['stage', 'time', ''], rows)}</div>")
    if versions:
        pairs = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in versions.items())
        parts.append(f"<div><h3>Versions</h3><dl>{pairs}</dl></div>")
    body = f'<div class="pair">{"".join(parts)}</div>' if parts else ""
    file = (
        f"<details{' open' if text.count(chr(10)) < 40 else ''}><summary>study.toml</summary><pre>{escape(text)}</pre></details>"
        if text.strip("{}\n ")
        else ""
    )
    return f"<section><h2>Settings</h2>{file}{body}</section>" if file or body else ""
