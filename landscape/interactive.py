"""A plane as a page to turn and read: one file with everything in it, which opens anywhere without a network.

Every type is a surface of its own colour; boxes take types away, a choice switches between loss and score, another between the plain and the
logarithmic height. The pointer reads the point's coordinates on the plane, its code z, loss and score. Needs plotly, whose code the page holds.
"""

from __future__ import annotations

import html
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from deltas.errors import InputError
from deltas.files import write_text
from landscape import panels
from landscape.style import INK, colours
from landscape.surface import Surface

CODE = 8
"""So many coordinates of z are read out; the rest are counted."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = {"corner": "circle", "found": "diamond", "origin": "cross", "centre": "square", "source": "circle"}


def available() -> None:
    """Raise InputError where plotly is not installed: asked before any work."""
    if importlib.util.find_spec("plotly") is None:
        raise InputError("expected plotly for an interactive page, got none installed; run `pip install deltaspace[interactive]`")


def draw_page(surface: Surface, path: str | Path, *, by: panels.By = "loss", title: str | None = None) -> Path:
    """Write a plane as an HTML page of one file.

    Args:
        surface: from `plane`.
        path: file to write, of suffix .html.
        by: what the heights are at first.
        title: None is task, split and space.

    Returns:
        The path.

    Raises:
        InputError: plotly is not installed, another quantity or suffix.

    Example:
        landscape.draw_page(surface, "plane.html")
    """
    available()
    path = Path(path)
    if by not in ("score", "loss"):
        raise InputError(f"expected heights by 'loss' or 'score', got {by!r}; choose one of them")
    if path.suffix != ".html":
        raise InputError(f"expected a page's name that ends in .html, got {path.name!r}; choose another name")
    from plotly import graph_objects as go

    traces = [trace for t, label in enumerate(surface.labels) for trace in _traces(surface, t, colours(surface.labels)[label])]
    heights = {name: [trace.pop(name) for trace in traces] for name in ("loss", "score")}
    for trace, values in zip(traces, heights[by], strict=True):
        trace["z"] = values
    names = {name: panels.metric_name(surface, name) for name in ("loss", "score")}
    figure = go.Figure(data=traces, layout=_layout(surface, names[by]))
    plot = figure.to_html(full_html=False, include_plotlyjs=True, div_id="plane", config={"displaylogo": False, "responsive": True})
    words = panels.heading(surface) if title is None else title
    facts = json.dumps({"heights": heights, "names": names, "types": list(surface.labels)}, allow_nan=False).replace("<", "\\u003c")
    page = PAGE.format(title=html.escape(words), controls=_controls(surface, by, names), notes=_notes(surface), plot=plot, facts=facts)
    write_text(path, page)
    return path


def _list(values: Any) -> Any:
    """Nested lists of six digits; what is not finite, a hole, is null."""
    if np.ndim(values) > 1:
        return [_list(row) for row in values]
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in np.asarray(values, float)]


def _traces(surface: Surface, t: int, colour: str) -> list[dict[str, Any]]:
    """A type's surface, its marks and the ways over it; each with its heights by loss and by score."""
    label = surface.labels[t]
    both = {"loss": surface.loss[t], "score": surface.score[t]}
    common = {"legendgroup": label, "meta": label, "hoverinfo": "text"}
    texts = np.array(_texts(surface, t), object)  # plotly would write a row of a list of lists as one word
    found: list[dict[str, Any]] = [{
        "type": "surface", "x": _list(surface.x), "y": _list(surface.y), "hovertext": texts, "name": label, "opacity": 0.88,
        "colorscale": [[0, _tint(colour, 0.75)], [1, colour]], "showscale": False, "showlegend": False, "connectgaps": False,
        "contours": {"z": {"show": True, "color": "white", "width": 1, "usecolormap": False}}, "lighting": {"ambient": 0.65, "specular": 0.05},
        **{name: _list(values) for name, values in both.items()}, **common,
    }]  # fmt: skip
    for n, trail in panels.trails_of(surface, label):
        at = panels.way(trail)
        found.append({
            "type": "scatter3d", "mode": "lines+markers", "x": _list(at[:, 0]), "y": _list(at[:, 1]), "name": trail.name,
            "line": {"color": INK, "width": 5, "dash": DASHES[n % len(DASHES)]}, "marker": {"size": 2, "color": INK},
            "hovertext": [f"{html.escape(trail.name)}, point {i} of {len(at) - 1}<br>the plane holds {trail.share:.0%} of its motion"
                          for i in range(len(at))],
            "showlegend": False, **_heights(surface, both, at), **common,
        })  # fmt: skip
    marks = [mark for mark in surface.marks if mark.kind != "source"]
    if marks:
        at = np.array([(mark.x, mark.y) for mark in marks])
        found.append({
            "type": "scatter3d", "mode": "markers+text", "x": _list(at[:, 0]), "y": _list(at[:, 1]), "text": [mark.name for mark in marks],
            "textposition": "top center", "marker": {"size": 5, "color": "white", "line": {"color": INK, "width": 2},
                                                     "symbol": [SYMBOLS.get(mark.kind, "circle") for mark in marks]},
            "hovertext": [f"{html.escape(mark.name)}<br>{mark.away:.3g} away from the plane" for mark in marks], "name": "marks",
            "showlegend": False, **_heights(surface, both, at), **common,
        })  # fmt: skip
    return found


def _heights(surface: Surface, both: dict[str, np.ndarray], at: np.ndarray) -> dict[str, Any]:
    return {name: _list(panels.height(surface, values, at)) for name, values in both.items()}


def _tint(colour: str, white: float) -> str:
    """A colour with so much white in it."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 * white + part * (1 - white)):02x}" for part in parts)


def _texts(surface: Surface, t: int) -> list[list[str]]:
    """What the pointer reads at every point."""
    names, more = [html.escape(axis) for axis in surface.axes], max(0, len(surface.origin) - CODE)
    head, metric = f"<b>{html.escape(surface.labels[t])}</b>", html.escape(panels.metric_name(surface, "score"))
    rows = []
    for i, y in enumerate(surface.y):
        row = []
        for j, x in enumerate(surface.x):
            code = surface.origin[:CODE] + x * surface.directions[0, :CODE] + y * surface.directions[1, :CODE]
            z = ", ".join(f"{value:.3g}" for value in code) + (f", … {more} more" if more else "")
            row.append(f"{head}<br>{names[0]} {x:.4g}, {names[1]} {y:.4g}<br>{html.escape(surface.space)} = ({z})"
                       f"<br>loss {surface.loss[t, i, j]:.4g}<br>{metric} {surface.score[t, i, j]:.4g}")  # fmt: skip
        rows.append(row)
    return rows


def _layout(surface: Surface, height: str) -> dict[str, Any]:
    axis = {"backgroundcolor": "white", "gridcolor": "#e4e4e4", "zerolinecolor": "#cccccc", "showbackground": True}
    return {
        "scene": {
            "xaxis": {"title": {"text": surface.axes[0]}, **axis}, "yaxis": {"title": {"text": surface.axes[1]}, **axis},
            "zaxis": {"title": {"text": height}, **axis}, "aspectratio": {"x": 1.5, "y": 1.5, "z": 0.95},
            "camera": {"eye": {"x": 1.1, "y": -1.6, "z": 1.0}, "projection": {"type": "orthographic"}},
        },
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0}, "hoverlabel": {"align": "left"}, "uirevision": "kept", "showlegend": False,
    }  # fmt: skip


def _controls(surface: Surface, by: str, names: dict[str, str]) -> str:
    boxes = [f'<label style="color:{colour}"><input type="checkbox" name="type" value="{n}" checked> {html.escape(label)}</label>'
             for n, (label, colour) in enumerate(colours(surface.labels).items())]  # fmt: skip
    choices = [f'<label><input type="radio" name="by" value="{name}"{" checked" if name == by else ""}> {html.escape(names[name])}</label>'
               for name in ("loss", "score")]  # fmt: skip
    log = '<label><input type="checkbox" name="logarithmic"> logarithmic height</label>'
    return f'<fieldset><legend>types</legend>{"".join(boxes)}</fieldset><fieldset><legend>height</legend>{"".join(choices)}{log}</fieldset>'


def _notes(surface: Surface) -> str:
    """Holes, points that were filled in, and what the plane holds of optimizers' ways, in sentences."""
    notes = [f"{label}: {words} of {surface.loss[t].size} points, left open." for t, label in enumerate(surface.labels)
             if (words := panels.holes_of(surface, t))]  # fmt: skip
    notes += [f"{label}: {words}." for t, label in enumerate(surface.labels) if (words := panels.evaluated_of(surface, t))]
    notes += [f"{trail.name}: the plane holds {trail.share:.0%} of its motion." for _, trail in panels.trails_of(surface)]
    return " ".join(html.escape(note) for note in notes)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body {{ margin: 0; height: 100vh; display: flex; flex-direction: column; font: 15px/1.4 system-ui, sans-serif; color: #1a1a1a; }}
header {{ padding: 0.6rem 1rem 0; }}
h1 {{ font-size: 1.15rem; margin: 0 0 0.3rem; }}
form {{ display: flex; flex-wrap: wrap; gap: 0.4rem 1.5rem; }}
fieldset {{ border: 0; padding: 0; margin: 0; display: flex; gap: 1rem; }}
legend {{ float: left; margin-right: 1rem; color: #6b6b6b; }}
p {{ margin: 0.3rem 0 0; color: #6b6b6b; font-size: 0.85rem; }}
main {{ flex: 1; min-height: 0; }}
main > div {{ height: 100%; }}
</style>
</head>
<body>
<header><h1>{title}</h1><form>{controls}</form><p>{notes}</p></header>
<main>{plot}</main>
<script type="application/json" id="facts">{facts}</script>
<script>
const facts = JSON.parse(document.getElementById("facts").textContent);
const plane = document.getElementById("plane"), form = document.querySelector("form");
const owner = plane.data.map(trace => facts.types.indexOf(trace.meta));
form.addEventListener("change", () => {{
  const shown = [...form.querySelectorAll("[name=type]")].map(box => box.checked);
  const by = form.elements.by.value;
  Plotly.update(plane, {{z: facts.heights[by], visible: owner.map(t => shown[t])}}, {{
    "scene.zaxis.title.text": facts.names[by],
    "scene.zaxis.type": form.elements.logarithmic.checked ? "log" : "linear"
  }});
}});
</script>
</body>
</html>
"""
