"""One self-contained page about a finished study: what was asked, what was found in words, every number beside its controls."""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path
from string import Template

from deltas.files import write_text
from landscape.region import Region, region

from .report_data import CONTROLS, STAGES, Number, Study, read_study
from .report_figures import surfaces
from .report_findings import GROUP_NAMES, VERDICTS, findings, headline
from .report_html import CAPTIONS, drawing, figure_of, interval_of, listed, mean_of, num, settings_of, table_of, td, value_of

CONTROL_NAMES = {
    "shuffled": "shuffled pairing", "random_basis": "random basis", "fastfood": "Fastfood", "best_source": "best source",
    "mean_only": "mean only", "zero_shot": "zero-shot",
}  # fmt: skip
PAPER = """@inproceedings{yi2022different,
  title     = {Different Tunes Played with Equal Skill: Exploring a Unified Optimization Subspace for Parameter-Efficient Tuning},
  author    = {Yi, Jing and Chen, Weize and Qin, Yujia and Lin, Yankai and Ding, Ning and Han, Xu and Liu, Zhiyuan and Sun, Maosong
               and Zhou, Jie},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2022},
  year      = {2022},
  pages     = {3348--3366},
  note      = {arXiv:2210.13311}
}"""


def write_report(folder: str | Path) -> Path:
    """Write DIR/report.html from DIR/results.csv, summary.json, study.toml, landscape/*.safetensors and figures/*.png.

    Args:
        folder: a finished study's folder; only results.csv and summary.json must be there, a missing part leaves its section out.
    Returns: the page's path.
    Raises: InputError where results.csv or summary.json is missing or broken.
    """
    study = read_study(folder)
    figures = {path.stem: path for path in sorted((study.folder / "figures").glob("*.png"))}
    areas = {name: region(surface, tolerance=study.tolerance) for name, surface in surfaces(study).items()}
    sections = [
        _opening(study), _findings(study, areas), _main_table(study, figures), _transfer(study, figures), _over_k(study, figures),
        _methods(study), _over_sources(study, figures),
        _landscape(figures, areas), _space(figures), _apart(study), _tasks(study),
        settings_of(_text(study), study.summary), _caveats(study), _cite(study),
    ]  # fmt: skip
    page = Template(Path(__file__).with_name("report_page.html").read_text(encoding="utf-8"))
    path = study.folder / "report.html"
    write_text(path, page.safe_substitute(title=escape(study.title), body="\n".join(filter(None, sections))))
    return path


def _opening(study: Study) -> str:
    names = listed(study.types)
    asked = (
        f"Do {names}, trained apart, live in one small space?"
        if len(study.types) > 1
        else f"Can {names or 'a delta'} be tuned in a small space?"
    )
    unseen = [t for group, tasks in study.groups.items() if group not in ("source", "dev") for t in tasks]
    full = {r.task for r in study.rows if r.stage == "full"}
    sources = study.setting("sources", "source_tasks") or [t for t in full if t not in unseen]
    count = f"{len(sources)} source tasks" if isinstance(sources, list) and sources else "the source tasks"
    backbone = study.setting("backbone") or ""
    backbone = backbone if isinstance(backbone, str) else str(backbone.get("source", ""))
    how = f"Solutions of {count} span a space of {study.k or '?'} dimensions{study.each} ({escape(study.method)})"
    how += f" on the frozen backbone {escape(Path(backbone).name)}" if backbone else ""
    seeds = len({r.seed for r in study.rows if r.stage == "optimization" and not r.control})
    how += f"; in it, only z is tuned on {len(study.counted)} unseen tasks" if unseen else "; in it, only z is tuned on unseen tasks"
    how += f", with {seeds} seeds" if seeds > 1 else ""
    how += ", and each solution is run, untrained, as every other type." if len(study.types) > 1 else "."
    first = headline(study)
    tiles = [
        ("optimization", study.overall("optimization"), "z tuned through one type"),
        ("transfer", study.overall("transfer"), "run as another type"),
        ("transfer, shuffled", study.overall("transfer", "shuffled"), "types paired wrongly"),
        ("random basis", study.overall("optimization", "random_basis"), "optimization in a random space"),
    ]  # fmt: skip
    boxes = "".join(
        f'<div class="tile"><span>{name}</span><b>{value_of(n)}</b><span>{interval_of(n)}</span><span>{what}</span></div>'
        for name, n, what in tiles if n.known
    )  # fmt: skip
    return f"""<header><h1>{escape(study.title)}</h1>
<p class="asked">{escape(asked)} {how}</p>
<p class="headline {first.verdict}">{escape(first.text)}</p>
<div class="tiles">{boxes}</div>
<p class="asked">Scores are normalised: 0 is the majority answer (chance), 1 the full delta of the same type trained alone on the task;
of several tasks, the sum of what is gained over the sum of what there is to gain. Brackets are 95% bootstrap intervals over tasks and
seeds.</p></header>"""


def _findings(study: Study, areas: dict[str, Region]) -> str:
    found = findings(study, {name: area.fraction for name, area in areas.items() if len(area.labels) > 1 and not area.flat})
    items = "".join(f'<li class="{f.verdict}"><i>{VERDICTS[f.verdict]}</i><span>{escape(f.text)}</span></li>' for f in found)
    return f'<section><h2>What was found</h2><ul class="findings">{items}</ul></section>' if items else ""


def _main_table(study: Study, figures: dict[str, Path]) -> str:
    cells = [(t, t) for t in study.types] + [(s, t) for s in study.types for t in study.types if s != t]
    cells = [pair for pair in cells if study.cell(*pair).known]
    if not cells:
        return ""
    measured = {(pair, c): _control(study, pair, c) for pair in cells for c in CONTROLS}
    shown = [c for c in CONTROLS if any(measured[pair, c].known for pair in cells)]
    everything = [study.cell(*pair) for pair in cells] + [n for n in measured.values() if n.known]
    low = min([0.0, *(min(n.value, n.low) if n.interval else n.value for n in everything)])
    high = max([1.0, *(max(n.value, n.high) if n.interval else n.value for n in everything)])
    rows = []
    for place, pair in enumerate(cells):
        n, relative = study.cell(*pair), study.cell(*pair, "relative")
        controls = [measured[pair, c] for c in shown]
        moved = pair[0] != pair[1]
        first = ' class="rule"' if place and moved and cells[place - 1][0] == cells[place - 1][1] else ""
        line = [td("transfer" if moved else "optimization", words=True), td(pair[0], words=True), td(pair[1], words=True)]
        line += [num(n, bold=True), f"<td>{drawing(n, controls, low, high, moved)}</td>", num(relative), *map(num, controls)]
        rows.append(f"<tr{first}>{''.join(line)}</tr>")
    scale = "<span title='dot and line: value and interval; ticks: controls; rules: chance and full'>0 … 1</span>"
    heads = ["stage", "tuned through", "run as", "normalised", scale, "relative", *(CONTROL_NAMES[c] for c in shown)]
    caption = (
        "Every number with its controls, normalised, at the same k; in the drawings, ticks are the controls and rules chance and full. "
        "Chance is 0 and the full delta 1 by definition; relative = score / full score."
    )
    table = table_of(heads, rows, caption, words=3)
    return f"<section><h2>Optimization and transfer</h2>{table}{figure_of(figures, 'controls')}</section>"


def _control(study: Study, pair: tuple[str, str], control: str) -> Number:
    """A control measured for this very cell; a zero-shot score has neither source nor stage, and a best source is chosen for its own type."""
    source, target = pair
    stage = "optimization" if source == target else "transfer"
    own = study.mean(study.select(stage, control, where=lambda r: r.target == target and r.source in (source, "")))
    untuned = ("zero_shot", "mean_only", "best_source") if stage == "optimization" else ("zero_shot", "mean_only")
    if not own.known and control in untuned:
        own = study.mean(study.select(None, control, where=lambda r: r.target in (target, "")))
    return own


def _transfer(study: Study, figures: dict[str, Path]) -> str:
    if len(study.types) < 2 or not any(study.cell(s, t).known for s in study.types for t in study.types if s != t):
        return ""
    head = "".join(f"<th>{escape(t)}</th>" for t in study.types)
    rows = []
    for source in study.types:
        line = [f"<td class='words'><b>{escape(source)}</b></td>"]
        for target in study.types:
            n = study.cell(source, target)
            tone = "--tone:var(--red)" if n.known and n.value < 0 else "--tone:var(--blue)"
            part = round(55 * min(1.0, abs(n.value))) if n.known else 0
            under = "tuned" if source == target else interval_of(n)
            line.append(f'<td class="cell" style="{tone};--part:{part}"><b>{value_of(n)}</b><small>{under}</small></td>')
        rows.append(f"<tr>{''.join(line)}</tr>")
    top = f"<caption>{CAPTIONS['matrix']}</caption><thead><tr><th></th>{head}</tr></thead>"
    table = f'<div class="scroll"><table class="heat">{top}<tbody>{"".join(rows)}</tbody></table></div>'
    out = {s: mean_of([study.cell(s, t) for t in study.types if t != s]) for s in study.types}
    into = {t: mean_of([study.cell(s, t) for s in study.types if s != t]) for t in study.types}
    words = "Mean out of a type: " + ", ".join(f"{t} {value_of(n)}" for t, n in out.items())
    words += "; into a type: " + ", ".join(f"{t} {value_of(n)}" for t, n in into.items()) + "."
    return f"<section><h2>From type to type</h2>{figure_of(figures, 'matrix') or table}<p>{escape(words)}</p></section>"


def _over_k(study: Study, figures: dict[str, Path]) -> str:
    lines = {stage: study.curve(stage) for stage in ("optimization", "transfer")}
    lines = {stage: line for stage, line in lines.items() if line}
    ks = sorted({k for line in lines.values() for k in line})
    if len(ks) < 2 and "curve" not in figures:
        return ""
    rows = [f"<tr>{td(k)}{''.join(num(line.get(k, Number())) for line in lines.values())}</tr>" for k in ks]
    table = table_of(["k", *lines], rows, "Mean over types and unseen tasks, normalised.") if rows else ""
    return f"<section><h2>How many dimensions</h2>{figure_of(figures, 'curve')}{figure_of(figures, 'curve-by-type')}{table}</section>"


def _methods(study: Study) -> str:
    every = study.methods()
    if len([name for name in study.summary.get("methods") or {} if "/" not in name]) < 2:
        return ""
    rows = [f"<tr>{td(name, words=True)}{td(k)}{''.join(num(scores.get(stage, Number())) for stage in STAGES)}</tr>"
            for name, k, scores in every]
    caption = ("Every decomposition at every k, then the controls; normalised, mean over types and unseen tasks. With @layer or @module every "
               "layer or module has k numbers of its own.")
    return f"<section><h2>Every method</h2>{table_of(['method', 'k', *STAGES], rows, caption, 1)}</section>"


def _over_sources(study: Study, figures: dict[str, Path]) -> str:
    lines = {stage: study.by_sources(stage) for stage in STAGES}
    counts = sorted({n for line in lines.values() for n in line})
    if len(counts) < 2:
        return ""
    rows = [f"<tr>{td(n)}{''.join(num(line.get(n, Number())) for line in lines.values())}</tr>" for n in counts]
    table = table_of(["source tasks", *lines], rows, f"{study.method}, mean over types and unseen tasks, normalised.")
    return f"<section><h2>How many source tasks</h2>{figure_of(figures, 'sources')}{table}</section>"


def _landscape(figures: dict[str, Path], areas: dict[str, Region]) -> str:
    tolerance = next((area.tolerance for area in areas.values()), 0.1)
    planes = {name.removeprefix("plane-"): name for name in figures if name.startswith("plane")}
    if not planes:
        return ""
    body = [figure_of(figures, figure, _area(areas.get(name))) for name, figure in planes.items()]
    return f"""<section><h2>Landscape</h2><p>Planes of z; every type is run at the same points, and a type's point is the z
that was found by tuning through it. Bold lines: where a type stays within
{tolerance:.0%} of its best score on the plane; the last panel shows where all do.</p>{"".join(body)}</section>"""


def _area(area: Region | None) -> str:
    if area is None:
        return "A plane of z."
    if not area.area:
        words = f"Nowhere on this plane are all {len(area.labels)} types within {area.tolerance:.0%} of their best at once."
    else:
        pieces = "one piece" if area.components == 1 else f"{area.components} pieces"
        words = f"All types stay within {area.tolerance:.0%} of their best on {area.fraction:.1%} of the plane: "
        words += f"area {area.area:.3g} in units of z², {pieces}."
        alone = ", ".join(f"{label} {a:.3g}" for label, a in zip(area.labels, area.areas, strict=True))
        words += f" Each type alone: {alone}."
    words += f" Best on this plane: {', '.join(f'{label} {b:.2f}' for label, b in zip(area.labels, area.best, strict=True))}."
    if area.marks:
        words += f" Marked points inside it: {', '.join(area.marks)}."
    if area.flat:
        words += f" The score of {listed(area.flat)} does not vary on this plane, so its region says nothing."
    if area.holes:
        words += f" {area.holes} points gave no finite loss or score; they count as outside."
    return words


def _space(figures: dict[str, Path]) -> str:
    known = {"curve", "curve-by-type", "controls", "matrix", "sources"}
    others = [name for name in figures if name not in known and not name.startswith("plane")]
    if not others:
        return ""
    return f'<section><h2>The space itself</h2><div class="pair">{"".join(figure_of(figures, name) for name in others)}</div></section>'


def _apart(study: Study) -> str:
    if not study.apart:
        return ""
    rows = []
    for task in study.apart:
        here = [r for r in study.rows if r.task == task]
        full = [r.score for r in here if (r.stage == "full" or r.control == "full") and math.isfinite(r.score)]
        others = [[r.score for r in here if r.control == c and math.isfinite(r.score)] for c in ("chance", "zero_shot")]
        metric = next((r.metric for r in here if r.metric), "")
        numbers = "".join(num(Number(sum(v) / len(v)) if v else Number()) for v in (full, *others))
        rows.append(f"<tr>{td(task, words=True)}{td(metric, words=True)}{numbers}</tr>")
    table = table_of(["task", "metric", "full delta", "chance", "zero-shot"], rows, "Raw test scores, mean over types and seeds.", 2)
    return f"""<section><h2>Tasks listed apart</h2><p>On the dev split the full delta is less than 0.1 above chance for some type, so a
normalised score would divide by about nothing. These tasks are in no mean above.</p>{table}</section>"""


def _tasks(study: Study) -> str:
    group_of = {task: group for group, tasks in study.groups.items() for task in tasks}
    tuned = {r.task for r in study.rows if r.stage in ("optimization", "transfer")}
    tasks = sorted(tuned - set(study.apart), key=lambda t: (group_of.get(t, ""), t))
    lines: list[tuple[str, list[Number]]] = []
    for task in tasks:
        here = {task}
        full = [r for r in study.rows if r.task == task and (r.stage == "full" or r.control == "full")]
        cells = [study.mean(full, "score"), *(study.mean(study.select(None, c, tasks=here), "score") for c in ("chance", "zero_shot"))]
        tune, move = study.select("optimization", tasks=here), study.select("transfer", tasks=here)
        wrong = study.select("transfer", "shuffled", tasks=here)
        cells += [study.mean(tune, "score"), study.mean(tune), study.mean(move, "score"), study.mean(move), study.mean(wrong)]
        metric = next((r.metric for r in (*tune, *full) if r.metric), "")
        names = td(task, words=True) + td(group_of.get(task, ""), words=True) + td(metric, words=True)
        lines.append((names, cells))
    if not lines:
        return ""
    heads = ["task", "group", "metric", "full", "chance", "zero-shot", "optimization", "normalised", "transfer", "normalised"]
    heads.append("shuffled transfer, normalised")
    shown = [n for n in range(len(heads) - 3) if any(cells[n].known for _, cells in lines)]
    heads = heads[:3] + [heads[3 + n] for n in shown]
    rows = [f"<tr>{names}{''.join(num(cells[n]) for n in shown)}</tr>" for names, cells in lines]
    groups = "; ".join(f"{g} = {GROUP_NAMES[g]}" for g in study.groups if g in GROUP_NAMES)
    table = table_of(heads, rows, f"Means over types, seeds and pairs of types. {f'Groups: {groups}.' if groups else ''}", 3)
    return f"<section><h2>Task by task</h2>{table}</section>"


def _text(study: Study) -> str:
    """The study file, or what the summary says of the study where there is none."""
    return study.settings or json.dumps(study.summary.get("study") or {}, indent=1, ensure_ascii=False, default=str)


def _caveats(study: Study) -> str:
    counted = {r.task for r in study.select("optimization")}
    seeds = {r.seed for r in study.select("optimization")}
    items = ["One backbone, one split of the tasks: the intervals cover tasks and seeds of stage 2, not other backbones, banks or splits."]
    if len(counted) and len(counted) < 10:
        items.append(f"{len(counted)} unseen tasks are few: intervals from so small a sample are themselves uncertain.")
    if len(seeds) == 1:
        items.append("One seed of stage 2: the spread between seeds is not in the intervals.")
    if not study.overall("transfer", "shuffled").known and len(study.types) > 1:
        items.append("Shuffled pairing was not measured, and it is the control that shows sharing.")
    items.append("Relative scores flatter: where chance is high, a useless delta has a large relative score. Read the normalised ones.")
    items.append(
        "Two numbers are called different when their 95% intervals do not overlap, which is stricter than a test of their difference."
    )
    if any(True for _ in (study.folder / "landscape").glob("*.safetensors")):
        items.append("A plane is two of the space's dimensions: a region that is missing on it may exist elsewhere.")
    return f"<section><h2>Caveats</h2><ul>{''.join(f'<li>{escape(i)}</li>' for i in items)}</ul></section>"


def _cite(study: Study) -> str:
    version = str((study.summary.get("versions") or {}).get("deltaspace", "")).strip()
    own = f"deltaspace{' ' + version if version else ''}, with the settings above (study.toml) and results.csv beside this page."
    return f"<section><h2>How to cite</h2><p>{escape(own)} The method is that of:</p><pre>{escape(PAPER)}</pre></section>"
