"""The page of a decomposition: what the solutions share in words, every number beside its control, and the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from deltas.files import write_text

from .report_data import Number
from .report_findings import VERDICTS, Finding
from .report_html import figure_of, listed, num, table_of, td, value_of

if TYPE_CHECKING:
    from subspace import Subspace

MEASURES = {"gram": "Gram matrices", "cosines": "cosines", "cka": "CKA, debiased", "plain_cka": "CKA, plain",
            "overlap": "principal angles, mean cos²"}
CAPTIONS = {
    "spectra": "Left: singular values of all types' solutions side by side; the bands are 95 % of what noise, or the types with their tasks "
    "permuted against each other, would still give when the directions before are taken out. Right: the energy they hold.",
    "reconstruction": "Tasks that the fit has not seen, encoded through one type and decoded as another: the share of their variance about the "
    "mean solution that comes back. 0 is the mean alone; bands are 95 % intervals over tasks.",
    "scores": "The same tasks scored by the backbone on dev rows: 0 is chance, 1 the task's own solution of the type that is decoded; k = 0 is "
    "the mean of the other tasks. Dashed: types paired wrongly.",
    "angles": "Principal angles between the same fit to two parts of the sources, mean over parts; 0° is the same direction. Dashed: as many "
    "random directions among the same solutions, which shows how alike the solutions are and not what the fit found.",
    "agreement": "How alike two types see the tasks. Bars: 95 % of what the same tasks give in permuted order.",
    "tasks": "Cosines between tasks within each type, all in the order in which the types' mean similarity clusters them.",
    "map-pca": "The sources in z, in a scale in which distances are those of the decoded solutions: principal components.",
    "map-tsne": "The same by t-SNE: neighbours stay neighbours, distances between groups mean nothing.",
    "map-umap": "The same by UMAP: neighbours stay neighbours, distances between groups mean nothing.",
}


def write_page(folder: Path, space: Subspace, found: Mapping[str, Any], manifest: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write folder/report.html, with the figures of folder/figures inside.

    Args:
        found: `decompose_report.sections`.
        manifest: what was looked at, of the sources.
    """
    figures = {path.stem: path for path in sorted((folder / "figures").glob("*.png"))}
    body = [_opening(space, found), _findings(space, found), _directions(found, figures), _held_out(space, found, figures),
            _scores(space, found, figures), _stability(found, figures), _alike(found, figures), _map(found, figures),
            _sources(found, manifest), _reading(space, found)]
    page = Template(Path(__file__).with_name("report_page.html").read_text(encoding="utf-8"))
    path = folder / "report.html"
    write_text(path, page.safe_substitute(title="A decomposition", body="\n".join(filter(None, body))))
    return path


def _number(row: Mapping[str, Any], name: str) -> Number:
    low, high = row.get(f"{name}_interval") or (math.nan, math.nan)
    value = row.get(name)
    return Number(math.nan if value is None else value, math.nan if low is None else low, math.nan if high is None else high)


def _at(found: Mapping[str, Any], k: int) -> Mapping[str, Any] | None:
    """The held-out reconstruction at k, or at the recommended k where that was not tried."""
    rows = {row["k"]: row for row in found["held_out"].get("means", [])}
    return rows.get(k) or rows.get(found["held_out"].get("recommended", {}).get("k"))


def headline(space: Subspace, found: Mapping[str, Any]) -> Finding:
    """What the held-out tasks say about sharing, in one sentence."""
    row = _at(found, space.k)
    if row is None:
        return Finding("open", f"Whether this space holds for other tasks was not tested: {found['held_out'].get('skipped', 'no k was tried')}.")
    within = Number(row["within"], *row["within_interval"])
    if "across" not in row:
        return Finding("note", f"With k = {row['k']}, {within} of the variance of a task that was held out lies in the space of the others; "
                               "with one delta type, whether types share a space was not asked.")
    across = Number(row["across"], *row["across_interval"])
    words = f"With k = {row['k']}, a held-out task's solution of one type rebuilds {across} of the variance of its solution of another type"
    if "shuffled" not in row:
        return Finding("open", f"{words} ({within} within a type); no control with wrongly paired types was possible.")
    words += f", against {value_of(Number(row['shuffled']))} where types are paired wrongly"
    low, high = row["difference_interval"]
    if across.low > 0 and low > 0:
        return Finding("for", f"{words}: the types share a space.")
    if high < 0 or across.high < 0:
        return Finding("against", f"{words}: no sign of a shared space.")
    return Finding("open", f"{words}: that does not tell the two apart.")


def _opening(space: Subspace, found: Mapping[str, Any]) -> str:
    of, first, row = found["sources"], headline(space, found), _at(found, space.k)
    asked = (f"{of['solutions']} sources of {of['tasks']} tasks × {listed(space.labels)}, decomposed by {space.method} into k = {space.k} "
             f"dimensions, compared as {'products' if space.space == 'product' else 'factors'}, align {space.align}.")
    if of["used_here"] < of["solutions"]:
        asked += f" The tests below are of {of['used_here']} sources of {of['tasks_here']} tasks that all types have."
    tiles: list[tuple[str, Number | str, str]] = []
    if row is not None:
        tiles += [("within a type", Number(row["within"], *row["within_interval"]), f"held-out variance rebuilt, k = {row['k']}")]
        if "across" in row:
            tiles += [("from type to type", Number(row["across"], *row["across_interval"]), f"held-out variance rebuilt, k = {row['k']}")]
        if "shuffled" in row:
            tiles += [("types paired wrongly", Number(row["shuffled"]), "the same, from type to type")]
    for name, what in (("permutation", "directions that types share"), ("held_out", "k by held-out tasks")):
        if name in found["suggested"]:
            tiles += [(what, str(found["suggested"][name]), "above permuted tasks" if name == "permutation" else "one-standard-error rule")]
    boxes = "".join(f'<div class="tile"><span>{name}</span><b>{n if isinstance(n, str) else value_of(n)}</b>'
                    f"<span>{'' if isinstance(n, str) or not n.interval else str(n).split(' ', 1)[1]}</span><span>{what}</span></div>"
                    for name, n, what in tiles)
    return f"""<header><h1>What {len(space.labels)} delta type{'s' if len(space.labels) > 1 else ''} of {of['tasks']} tasks share</h1>
<p class="asked">{escape(asked)}</p><p class="headline {first.verdict}">{escape(first.text)}</p><div class="tiles">{boxes}</div>
<p class="asked">Brackets are 95 % intervals over tasks.</p></header>"""


def _findings(space: Subspace, found: Mapping[str, Any]) -> str:
    items: list[Finding] = []
    held = found["held_out"].get("recommended")
    if held:
        items.append(Finding("note", f"Suggested k = {held['k']}: {held['reason']}."))
    if "scores" in found.get("suggested", {}):
        k = found["suggested"]["scores"]
        items.append(Finding("note", "By scores of held-out tasks, "
                             + (f"k = {k} is the smallest that cannot be told from the best." if k else
                                "no k can be told from 0, the mean of the other tasks.")))
    nulls = found["spectrum"].get("nulls", {})
    if "permutation" in nulls:
        above = nulls["permutation"]["above"]
        items.append(Finding("for" if above else "against", f"{above} directions of the joint spectrum lie above that of types whose tasks are "
                                                            f"permuted, {nulls['Gaussian']['above']} above noise."))
    pairs = found["types"].get("pairs", {})
    for pair, measures in pairs.items():
        gram, cka, both = measures["gram"], measures["cka"], pair.replace("|", " and ")
        if gram["value"] is None:
            continue
        own, chance = Number(gram["value"]), Number(gram["null_mean"], *gram["null_interval"])
        text = f"off-diagonal Gram correlation {own}, in permuted order {chance}, p = {gram['p']:.3f}"
        text += f"; debiased CKA of their codes {Number(cka['value'])}" if cka["value"] is not None else ""
        alike = gram["p"] <= 0.05
        items.append(Finding("for" if alike else "against", f"{both} {'see' if alike else 'do not see'} the tasks alike: {text}."))
    halves = found["stability"]["halves"]
    if "types" in halves:
        overlaps = {label: entry["overlap"] for label, entry in halves["types"].items()}
        words = ", ".join(f"{label} {o['found']:.2f} (random directions {o['mixed']:.2f})" for label, o in overlaps.items())
        items.append(Finding("note", f"Fitted to one half of the tasks and to the other, {halves['k']} directions overlap by mean cos²: {words}"
                                     "."))
    if found["gauge"]["applies"]:
        items.append(Finding("note", found["gauge"]["sentence"] + "".join(_products(found))))
    rows = "".join(f'<li class="{f.verdict}"><i>{VERDICTS[f.verdict]}</i><span>{escape(f.text)}</span></li>' for f in items)
    return f'<section><h2>What was found</h2><ul class="findings">{rows}</ul></section>' if items else ""


def _products(found: Mapping[str, Any]) -> list[str]:
    words = []
    for label, product in found["gauge"]["product"].items():
        if product.get("correlation") is not None:
            words.append(f" Here the cosines between tasks of {label} in product space differ from these by {product['mean_difference']:.3f} on "
                         f"average and correlate with them at {product['correlation']:.2f}.")
    return words


def _directions(found: Mapping[str, Any], figures: dict[str, Path]) -> str:
    part = found["spectrum"]
    if "values" not in part:
        return _skipped("How many directions", part)
    rows = [f"<tr>{td(name, words=True)}{td(null['above'])}</tr>" for name, null in part["nulls"].items()]
    if "recommended" in found["held_out"]:
        rows.append(f"<tr>{td('held-out tasks', words=True)}{td(found['held_out']['recommended']['k'])}</tr>")
    caption = ("Leading directions above each null, step by step; and the smallest k within one standard error of the best reconstruction of "
               "held-out tasks.")
    table = table_of(["by", "suggested k"], rows, caption)
    return f"<section><h2>How many directions</h2>{figure_of(figures, 'spectra', CAPTIONS['spectra'])}{table}</section>"


def _held_out(space: Subspace, found: Mapping[str, Any], figures: dict[str, Path]) -> str:
    part = found["held_out"]
    if "means" not in part:
        return _skipped("Tasks that were held out", part)
    across = "across" in part["means"][0]
    shuffled = "shuffled" in part["means"][0]
    heads = ["k", *(["from type to type"] if across else []), *(["types paired wrongly", "difference"] if shuffled else []), "within a type"]
    rows = []
    for row in part["means"]:
        cells = [td(row["k"])]
        if across:
            cells.append(num(_number(row, "across"), bold=row["k"] == space.k))
        if shuffled:
            difference = Number(row["across"] - row["shuffled"], *row["difference_interval"])
            cells += [num(Number(row["shuffled"])), num(difference)]
        cells.append(num(_number(row, "within")))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    how = "one task at a time" if part["folds"] == "leave_one_task_out" else f"in {part['folds']} groups"
    caption = f"Share of the held-out variance rebuilt by {part['method']}, mean over types; {part['tasks']} tasks, held out {how}."
    shown = figure_of(figures, "reconstruction", CAPTIONS["reconstruction"])
    return f"<section><h2>Tasks that were held out</h2>{shown}{table_of(heads, rows, caption)}</section>"


def _scores(space: Subspace, found: Mapping[str, Any], figures: dict[str, Path]) -> str:
    part = found.get("scores")
    if part is None:
        return ""
    heads = {"across": "from type to type", "shuffled": "types paired wrongly", "within": "within a type"}
    shown = [name for name in heads if any(name in row for row in part["means"])]
    rows = []
    for row in part["means"]:
        cells = "".join(num(_number(row, name), bold=row["k"] == space.k and name != "shuffled") for name in shown)
        rows.append(f"<tr>{td(row['k'] or '0, the mean')}{cells}</tr>")
    caption = f"Normalised scores of {part['tasks']} held-out tasks, mean over types; without any delta {value_of(_number(part, 'zero_shot'))}."
    if part["apart"]:
        caption += f" In no mean, since their own solutions are less than 0.1 above chance: {listed(part['apart'])}."
    table = table_of(["k", *(heads[name] for name in shown)], rows, caption) if shown else f"<p class='asked'>{escape(caption)}</p>"
    return f"<section><h2>Held-out tasks, scored</h2>{figure_of(figures, 'scores', CAPTIONS['scores'])}{table}</section>"


def _stability(found: Mapping[str, Any], figures: dict[str, Path]) -> str:
    rows, why = [], []
    for name, title in (("halves", "halves of the tasks"), ("seeds", "two seeds")):
        part = found["stability"][name]
        if "skipped" in part:
            why.append(f"{title}: {part['skipped']}")
        for label, entry in part.get("types", {}).items():
            overlap = entry["overlap"]
            cells = "".join(num(Number(overlap.get(kind, math.nan))) for kind in ("found", "mixed", "random"))
            rows.append(f"<tr>{td(title, words=True)}{td(label, words=True)}{td(part['k'])}{cells}</tr>")
    if not rows:
        return _skipped("How stable", {"skipped": "; ".join(why)})
    table = table_of(["compared", "type", "k", "found", "random directions of the same solutions", "random"], rows,
                     "Overlap of two fits: mean cos² of the principal angles, 1 the same subspace.", 2)
    skipped = f"<p class='asked'>Not compared: {escape('; '.join(why))}.</p>" if why else ""
    return f"<section><h2>How stable</h2>{figure_of(figures, 'angles', CAPTIONS['angles'])}{table}{skipped}</section>"


def _alike(found: Mapping[str, Any], figures: dict[str, Path]) -> str:
    part, rows = found["types"], []
    for pair, measures in part.get("pairs", {}).items():
        for name, entry in measures.items():
            null = Number(*(math.nan if v is None else v for v in (entry["null_mean"], *entry["null_interval"])))
            value = Number(math.nan if entry["value"] is None else entry["value"])
            p = "" if entry["p"] is None else f"{entry['p']:.3f}"
            rows.append(f"<tr>{td(pair.replace('|', ' and '), words=True)}{td(MEASURES[name], words=True)}{num(value, bold=True)}{num(null)}"
                        f"{td(p)}</tr>")
    table = table_of(["types", "measure", "similarity", "permuted tasks", "p"], rows, f"Codes of {part.get('k')} dimensions, each type's own; "
                     f"{part.get('permutations')} permutations of the tasks.", 2) if rows else ""
    between = figure_of(figures, "agreement", CAPTIONS["agreement"]) + table or f"<p class='asked'>{escape(part.get('skipped', ''))}</p>"
    return f"<section><h2>What is alike</h2>{between}{figure_of(figures, 'tasks', CAPTIONS['tasks'])}</section>"


def _map(found: Mapping[str, Any], figures: dict[str, Path]) -> str:
    shown = "".join(figure_of(figures, f"map-{method}", CAPTIONS[f"map-{method}"] + _share(part)) for method, part in found["maps"].items()
                    if "points" in part)
    return f"<section><h2>The tasks in z</h2>{shown}</section>" if shown else ""


def _share(part: Mapping[str, Any]) -> str:
    return f" This plane holds {part['share']:.0%} of their variance." if part["share"] is not None else ""


def _sources(found: Mapping[str, Any], manifest: Sequence[Mapping[str, Any]]) -> str:
    of = found["sources"]
    rows = [f"<tr>{td(label, words=True)}{td(entry['solutions'])}{td(format(entry['size'], ','))}</tr>" for label, entry in of["types"].items()]
    table = table_of(["type", "solutions", "numbers each"], rows)
    left = [entry for entry in manifest if entry.get("status") != "used"]
    lines = [f"<tr>{td(entry.get('path') or entry.get('task') or '', words=True)}{td(entry.get('type') or '', words=True)}"
             f"{td(entry.get('reason') or '', words=True)}</tr>" for entry in left]
    out = table_of(["left out", "type", "reason"], lines, "", 3) if lines else ""
    return f"<section><h2>What was decomposed</h2>{table}{out}</section>"


def _reading(space: Subspace, found: Mapping[str, Any]) -> str:
    items = [
        "The reconstruction of held-out tasks is about numbers of the solutions, not about their scores"
        + ("." if "scores" in found else ": with --score the backbone is run on them.")
        + " What a point of the space does for a new task, deltaspace optimize and deltaspace transfer say.",
        "Intervals are over tasks, as if these were drawn from all tasks there are; related tasks make them too narrow.",
        "The energy of the spectrum is of the solutions that were fitted, and grows with k by itself.",
    ]
    if found["held_out"].get("method", space.method) != space.method:
        items.append(f"Held-out tasks and stability are those of {found['held_out']['method']}: {space.method} was not fitted again.")
    if "groups" in space.settings:
        items.append("Held-out tasks and stability are those of one z for the whole delta, not of one for each of its parts.")
    if space.align == "procrustes":
        items.append("Solutions were aligned to a reference that all of them made, those too that are held out here: what is rebuilt of them is "
                     "a little more than of a solution that had no part in it.")
    if len(space.labels) > 1:
        items.append("Plain CKA is large on few tasks whatever they are; the debiased one and the permuted tasks beside it say what is more.")
    return f"<section><h2>How to read this</h2><ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul></section>"


def _skipped(title: str, part: Mapping[str, Any]) -> str:
    return f"<section><h2>{title}</h2><p class='asked'>{escape(part.get('skipped', ''))}</p></section>"
