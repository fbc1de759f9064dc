"""`python -m deltaspace.readme`: the README's tables and picture, made from the results that are kept in the checkout.

    python -m deltaspace.readme keep FOLDER NAME          keep a study's results (and its picture), or a benchmark's, as results/NAME.json
    python -m deltaspace.readme                           write the tables between the README's marks
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from deltas.errors import InputError
from deltas.files import read_json, write_json, write_text

HERE = Path(__file__).parent
START, END = "<!-- results: made by `python -m deltaspace.readme` from scripts/results/*.json -->", "<!-- end of results -->"
KEPT = ("optimization", "transfer", "controls", "controls_by_k", "curve", "methods", "groups", "apart", "by_group", "regions", "sources",
        "source_tasks", "versions", "study", "failed", "gram_correlation", "headline")

SCALES, STAGES = ("normalised", "relative"), ("optimization", "transfer")


def keep(folder: Path, name: str) -> None:
    """Copy what a study's or a benchmark's summary says, and the figure of a study's last plane, into the checkout."""
    summary = read_json(folder / "summary.json")
    kept = summary if summary.keys() & {"bench", "delta_types", "kind"} else {key: summary[key] for key in KEPT if key in summary}
    write_json(HERE / "results" / f"{name}.json", kept)
    for figure in sorted((folder / "figures").glob("plane-*.png"))[-1:]:
        (HERE / "results" / "figures").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(figure, HERE / "results" / "figures" / f"{name}-plane.png")


def number(entry: dict[str, Any] | None, scale: str = "normalised") -> str:
    """`0.84 [0.80, 0.87]`, or a dash."""
    if not entry or entry.get(scale) is None:
        return "–"
    interval = entry.get(f"{scale}_interval")
    return f"{entry[scale]:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def table(summary: dict[str, Any]) -> str:
    """One study's table: method and controls, optimization and transfer, normalised and relative."""
    study, main = summary["study"], summary["curve"]
    ours = next(point for point in main if point["k"] == study["k"])
    rows = [(f"**{study['method']}**", ours)] + [(name, entry) for name, entry in summary["controls"].items() if name not in ("chance", "full")]
    lines = [f"**{study['name']}** ({summary['sources']} source solutions a type, k = {study['k']}). {summary.get('headline', '')}".strip(), "",
             "| | optimization | transfer | optimization, relative | transfer, relative |", "|---|---|---|---|---|"]
    for name, entry in rows:
        cells = [number(entry.get(stage), scale) for scale in SCALES for stage in STAGES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    pairs = ", ".join(f"{pair.replace('->', ' → ')} {number(entry)}" for pair, entry in summary["transfer"].items())
    curve = ", ".join(f"{p['k']}: {number(p.get('optimization'))} / {number(p.get('transfer'))}" for p in main)
    lines += ["", f"By pair (normalised): {pairs}.", "", f"By k, optimization / transfer: {curve}."]
    groups = {name: entry for name, entry in summary.get("by_group", {}).items() if "optimization" in entry}
    if len(groups) > 1:
        told = ", ".join(f"{name} {number(e['optimization'])} / {number(e.get('transfer'))}" for name, e in groups.items())
        lines += ["", f"By group of unseen tasks, optimization / transfer: {told}."]
    every = {name: points for name, points in summary.get("methods", {}).items() if "/" not in name}
    others = {name: {k: e for k, e in points.items() if k != str(study["k"])} for name, points in summary.get("controls_by_k", {}).items()}
    if len(every) > 1:
        lines += ["", "Every method:", "", "| | k | optimization | transfer | optimization, relative | transfer, relative |", "|---" * 6 + "|"]
        lines += [f"| {name} | {k} | {' | '.join(number(e.get(stage), scale) for scale in SCALES for stage in STAGES)} |"
                  for name, points in (*every.items(), *others.items()) for k, e in points.items()]
    counts = {int(name.partition("/")[2]): next(iter(points.values())) for name, points in summary.get("methods", {}).items() if "/" in name}
    if counts:
        counts[summary["source_tasks"]] = ours
        told = ", ".join(f"{n}: {number(e.get('optimization'), 'relative')} / {number(e.get('transfer'), 'relative')}"
                         for n, e in sorted(counts.items()))
        lines += ["", f"By number of source tasks, optimization / transfer, relative: {told}."]
    if summary.get("gram_correlation"):
        likeness = ", ".join(f"{pair.replace('|', ' and ')} {v['correlation']:.2f} (permuted tasks: {v['null_interval'][0]:.2f} to "
                             f"{v['null_interval'][1]:.2f})" for pair, v in summary["gram_correlation"].items())
        lines += ["", f"Correlation of the types' similarities between tasks, off the diagonal: {likeness}."]
    if summary["apart"]:
        lines += ["", f"Not in the means, since a full delta is less than 0.1 above chance on dev: {', '.join(summary['apart'])}."]
    return "\n".join(lines)


def experiments(studies: list[dict[str, Any]]) -> str:
    """What the experiments of the other systems found, a line each, and what is claimed beside it."""
    found = [kept for kept in studies if "kind" in kept]
    if not found:
        return ""
    lines = ["**The neighbouring systems** (every table: [EXPERIMENTS.md](scripts/results/EXPERIMENTS.md))", ""]
    lines += [f"- *{kept['title']}*: {kept['headline']}" for kept in found]
    for kept in studies:
        if "cost" in kept:
            cost, of = kept["cost"], kept["settings"]
            low, high = cost["range"]
            lines.append(f"- Judging {of['sources']} sources on one target costs {cost['median']:.2f} [{low:.2f}, {high:.2f}] of their "
                         f"forward passes alone (wanted: at most {kept['target']:g}), at memory that does not grow with their number.")
    lines += ["", "| | claimed | found here | why |", "|---|---|---|---|"]
    lines += [row(kept["kind"], *claim) for kept in found for claim in kept["claims"]]
    return "\n".join(lines)


def row(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def experiments_page(studies: dict[str, dict[str, Any]]) -> str:
    """The experiments' tables and figures, a page of its own, of the results by name."""
    parts = ["# Experiments of the neighbouring systems", "Made by `python -m deltaspace.readme` from the results beside this page."]
    for name, kept in studies.items():
        if "kind" in kept:
            parts += [f"## {kept['title']}", kept["headline"]]
            if of := kept.get("table"):
                parts += ["\n".join([row(*of["heads"]), "|---" * len(of["heads"]) + "|", *(row(*cells) for cells in of["rows"])]), of["caption"]]
            parts += [f"![{kept['title']}](figures/{path.name})" for path in sorted((HERE / "results" / "figures").glob(f"{name}-*.png"))]
    return "\n\n".join(filter(None, parts)) + "\n"


def speed(summary: dict[str, Any]) -> str:
    """A benchmark's table: the ratio theirs / ours of every comparison, and its target."""
    machine, settings = summary["machine"], summary["settings"]
    lines = [f"Speed, theirs / ours (above 1 deltaspace is faster): {settings['backbone']}, {settings['threads']} threads of "
             f"{machine['processor'] or machine['device']}, median and range of {settings['rounds']} rounds in turn", "",
             "| | ours | theirs | ratio | target |", "|---|---|---|---|---|"]
    for name, one in summary["bench"].items():
        if "ratio" not in one:
            continue
        ours, theirs = (f"{one[side]} {one['seconds'][one[side]]:.3g} s" for side in ("ours", "theirs"))
        title = f"{TITLES[name.split()[0]]} {name.partition(' ')[2]}".strip()
        lines.append(f"| {title} | {ours} | {theirs} | {one['ratio']:.2f} [{one['ratio_range'][0]:.2f}, {one['ratio_range'][1]:.2f}] | "
                     f"≥ {one['target']:g}{'' if one['met'] else ', missed'} |")
    for one in summary["bench"].values():
        if "error" in one:
            lines += ["", f"The top 50 singular values are within {one['error']:.0e} (relative) of a dense float64 SVD; "
                      f"randomized_svd's within {one['randomized_error']:.0e}."]
        if "curve" in one:
            curve = ", ".join(f"{p['in_flight']}: {p['against_first']:.2f}" for p in one["curve"])
            lines += ["", f"Throughput by solutions in flight, against the first ({one['device']}): {curve}."]
    return "\n".join(lines)


TITLES = {"steps": "a LoRA step, 8 × 64 tokens", "padding": "a LoRA step on the tasks' rows", "svd": "SVD of 180 × 1M",
          "autoencoder": "a multi-task autoencoder step"}


def types_table(summary: dict[str, Any]) -> str:
    """Delta types trained on one real backbone: scores beside zero-shot, and what they cost."""
    rows, settings, memory = summary["delta_types"], summary["settings"], summary["memory"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    bare = ", ".join(f"{task} {next(r['zero_shot'] for r in rows if r['task'] == task):.2f} (most common label "
                     f"{next(r['most_common_label'] for r in rows if r['task'] == task):.2f})" for task in tasks)
    lines = [f"**{settings['backbone']}** ({settings['kind']}; answers: {settings['verbalizer']}; {settings['trained']} is trained), "
             f"steps of {settings['batch_size']} rows, {summary['machine']['processor'] or summary['machine']['device']}. "
             f"Accuracy on {max(row['test_rows'] for row in rows)} test rows; zero-shot: {bare}.", "",
             f"| | parameters | steps | {' | '.join(tasks)} | seconds a task, beside other work | memory of a step | of 8 in flight |",
             "|---" * (6 + len(tasks)) + "|"]
    for kind in dict.fromkeys(row["type"] for row in rows):
        own = {row["task"]: row for row in rows if row["type"] == kind}
        scores = [f"{own[t]['score']:.2f} [{own[t]['interval'][0]:.2f}, {own[t]['interval'][1]:.2f}]" for t in tasks]
        sizes = [f"{(memory[kind][n]['arguments'] + memory[kind][n]['temporaries']) / 1e6:,.0f} MB" for n in ("in_flight_1", "in_flight_8")]
        seconds = "–".join(f"{s:.0f}" for s in sorted({round(own[t]["seconds"]) for t in tasks}))
        first = own[tasks[0]]
        lines.append(f"| {kind} | {first['parameters']:,} | {first['steps']} | {' | '.join([*scores, seconds, *sizes])} |")
    shared = next(iter(memory.values()))["backbone"] / 1e6
    lines += ["", f"The backbone's {shared:,.0f} MB are there once, however many are in flight; activations and deltas are there for each."]
    return "\n".join(lines)


def jobs(kept: list[dict[str, Any]]) -> str:
    """What decomposition jobs were measured to do, a line each."""
    lines = ["**Decomposition jobs**", ""]
    for one in kept:
        if "made_difference" in one:
            ranks = sorted({adapter["rank"] for adapter in one["adapters"]})
            lines.append(f"- {len(one['adapters'])} LoRA adapters made by PEFT on {one['model']} (ranks {ranks[0]} to {ranks[-1]}, other target "
                         f"modules and a random gauge each), k = {one['k']}: {len(one['differences'])} points exported and loaded by PEFT "
                         f"give what our decoding gives, to {one['difference']:.0e}; the same adapters in other gauges give the same space, to "
                         f"{one['gauge_angle']:.0e} rad.")
        if "energy_planted" in one:
            lines.append(f"- Full fine-tuning as a type: {one['solutions']} (synthetic) solutions of {one['size'] / 1e6:.1f}M numbers on "
                         f"{one['backbone']}, decomposed, saved, loaded and run within {one['peak_gb']:.1f} GB.")
        if "found_rank" in str(one.get("sizes")):
            told = ", ".join(f"{n} solutions {size['seconds']['ours']:.0f} s (reading {size['seconds']['reading']:.0f} s, float64 product alone "
                             f"{size['seconds']['product']:.0f} s: ratio {size['ratio']:.2f})" for n, size in one["sizes"].items())
            most, angle = max(s["bytes"] for s in one["sizes"].values()), max(s["angle"] for s in one["sizes"].values())
            lines.append(f"- Size, {one['size'] / 1e6:g}M float32 each on the disk, {one['threads']} thread: {told}; at most "
                         f"{most / 1e9:.2f} GB resident; the planted rank {one['rank']} found, to {angle:.0e} rad.")
    return "\n".join(lines)


def landscapes(kept: dict[str, Any]) -> str:
    """What planes cost against a plain PyTorch loop, what an adaptive map needs, and how foreign planes compare."""
    settings, maps, foreign = kept["settings"], kept["map"], kept["foreign"]
    lines = [f"**Landscapes** ({settings['backbone']}, {settings['rows']} rows a point, {settings['threads']} thread of "
             f"{kept['machine']['processor'] or kept['machine']['device']}, median and range of {settings['rounds']} rounds in turn)", "",
             "| a point of a plane where … moves | deltaspace | PyTorch loop | ratio | target |", "|---|---|---|---|---|"]
    for one in kept["points"].values():
        lines.append(f"| {one['moving']}; {ANSWERS[one['decode']]} | {one['seconds']['deltaspace']:.3g} s | {one['seconds']['PyTorch']:.3g} s | "
                     f"{one['ratio']:.2f} [{one['ratio_range'][0]:.2f}, {one['ratio_range'][1]:.2f}] | ≥ {one['target']:g}"
                     f"{'' if one['met'] else ', missed'} |")
    each = "; ".join(f"{name} {one['share']:.0%}, off by {one['error']:.1%} at most and {one['error_mean']:.2%} on average"
                     for name, one in maps["each"].items())
    lines += ["", f"Evaluated for a map of {maps['side']} × {maps['side']} at 2% of the range, against the dense one: {each} (wanted: at most "
              f"{maps['target']:.0%}).", "",
              f"The same points as the package loss-landscapes {foreign['version']} draws have the same losses, to {foreign['difference']:.0e}."]
    return "\n".join(lines)


ANSWERS = {"generate": "loss and generated answers", "rank": "loss and ranked labels"}


def results() -> dict[str, dict[str, Any]]:
    """What is kept, by file name without its suffix."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((HERE / "results").glob("*.json"))}


def write(readme: Path) -> None:
    """Put every kept study's table, and the benchmark's, between the marks."""
    text, studies = readme.read_text(encoding="utf-8"), list(results().values())
    if START not in text or END not in text:
        raise InputError(f"expected the marks of the results in {readme}, got a file without; restore them")
    tables = [table(kept) for kept in studies if "optimization" in kept] + [speed(kept) for kept in studies if "bench" in kept]
    tables += [types_table(kept) for kept in studies if "delta_types" in kept]
    tables += [jobs(studies), *(landscapes(kept) for kept in studies if "foreign" in kept), experiments(studies)]
    body = "\n\n".join(filter(None, tables))
    before, after = text.split(START)[0], text.split(END)[1]
    write_text(readme, f"{before}{START}\n\n{body}\n\n{END}{after}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["keep"]:
        keep(Path(sys.argv[2]), sys.argv[3])
    write(HERE.parent / "README.md")
    write_text(HERE / "results" / "EXPERIMENTS.md", experiments_page(results()))
