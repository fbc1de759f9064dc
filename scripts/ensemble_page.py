"""What `deltaspace ensemble` writes of its lines: table, figures, findings, page; every sentence is made of the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from subspace.scores import interval

from .ensemble_stages import Ensembling, judged
from .page import Main, Page, Section, number, plain
from .report_data import Number
from .report_findings import Finding

COLUMNS = ("target", "seed", "method", "space", "tau", "start", "start_loss", "score", "loss", "dev", "dev_loss", "step", "chance", "full")
PAPER = "Lv et al. 2023, Parameter-efficient Weight Ensembling Facilitates Task-level Knowledge Transfer (ACL, short papers)."
NAMES = {
    "random": "random init (θ0)", "uniform": "uniform mean", "category": "mean of the category", "nearest": "nearest source alone",
    "loss": "loss", "kl": "KL", "el2n": "EL2N", "cosine": "logit-label cosine", "grand": "GraNd", "weight_cosine": "cosine of weights",
    "drift": "drift", "dev_gain": "dev gain", "learned": "weights by gradient", "code": "codes z (weights of loss)",
}
TUNED = "score after few-shot training"
PAPERS = ("loss", "kl", "el2n", "cosine", "grand")
Values = dict[str, list[float]]


def write(setup: Ensembling, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures, then study.toml, results.csv, summary.json and report.html."""
    rows = [{**row, "name": name_of(row, setup.settings.space)} for row in rows]
    methods, blocks = _methods(rows), _blocks(setup)
    _draw(setup, rows, methods, blocks)
    best = max((name for name in methods if name != "random"), key=lambda name: methods[name]["dev"])
    page = _page(setup, rows, methods, blocks, best)
    summary = {"methods": methods, "best_on_dev": best, "targets": list(setup.targets), "sources": setup.names, "taus": _taus(rows),
               "blocks": blocks, "chance": _mean(_by(rows, "random", "chance")), "rows": {"shots": setup.settings.shots,
               "test": setup.settings.test_rows}}
    return setup.made.write(rows, COLUMNS, summary, page)


# ------------------------------------------------------------ numbers
def name_of(row: Mapping[str, Any], space: str) -> str:
    """A method, and its space where that is not the settings' own."""
    return row["method"] if row["space"] in ("", "code", space) else f"{row['method']}, {row['space']}"


def _by(rows: Sequence[Mapping[str, Any]], method: str, column: str) -> Values:
    """Target → one value a seed."""
    found: Values = {}
    for row in rows:
        if row["name"] == method and row[column] is not None:
            found.setdefault(row["target"], []).append(100 * row[column])
    return found


def _mean(values: Values) -> float | None:
    return float(np.mean([np.mean(v) for v in values.values()])) if values else None


def less(values: Values, others: Values) -> Values:
    """Differences target by target and seed by seed."""
    return {target: [a - b for a, b in zip(values[target], others[target], strict=True)] for target in values if target in others}


def _entry(values: Values) -> dict[str, Any]:
    return {"mean": _mean(values), "interval": interval(values)}


def _methods(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By method, in points of the tasks' metrics (0 to 100): start, score, both less the baselines'."""
    found = {}
    for name in dict.fromkeys(row["name"] for row in rows):
        start, score = _by(rows, name, "start"), _by(rows, name, "score")
        entry: dict[str, Any] = {"start": _entry(start), "score": _entry(score), "dev": _mean(_by(rows, name, "dev"))}
        for base in ("random", "uniform"):
            if base != name and (other := _by(rows, base, "score")):
                entry[f"over_{base}"] = _entry(less(score, other)) | _relative(score, other)
                entry[f"start_over_{base}"] = _entry(less(start, _by(rows, base, "start")))
        found[name] = entry
    return found


def _relative(values: Values, others: Values) -> dict[str, Any]:
    """The gain in per cent of the other mean, and its interval."""
    gain, below = less(values, others), {target: others[target] for target in values if target in others}
    if not (mean := _mean(below)):
        return {"relative": None, "relative_interval": None}
    bounds = interval(gain, over=below)
    return {"relative": 100 * (_mean(gain) or 0.0) / mean, "relative_interval": bounds and [100 * bound for bound in bounds]}


def _taus(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each τ was chosen, by method."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["tau"] is not None:
            counts = found.setdefault(row["name"], {})
            counts[str(row["tau"])] = counts.get(str(row["tau"]), 0) + 1
    return found


def _blocks(setup: Ensembling) -> dict[str, dict[str, Any]]:
    """By block, how the sources' order by the block alone agrees with that by the dev loss: Spearman's ρ over sources, mean over targets.

    Signed so that 1 is full agreement: of the block's GraNd with the loss, and of the cosine of hidden states with its negative.
    """
    from scipy.stats import rankdata

    if not set(PAPERS) & set(setup.settings.methods):
        return {}
    found: dict[str, dict[str, Values]] = {}
    for seed in range(setup.settings.seeds):
        for target in setup.targets:
            scores = judged(setup, target, seed)
            names = list(scores["loss"])
            loss = [scores["loss"][name] for name in names]
            for what, sign in (("block", 1), ("hidden", -1)):
                for column in (c for c in scores if c.startswith(f"{what} ")):
                    values = [scores[column][name] for name in names]
                    if len(names) > 2 and np.ptp(values) > 0 and np.ptp(loss) > 0:
                        rho = sign * float(np.corrcoef(rankdata(values), rankdata(loss))[0, 1])
                        found.setdefault(column.split(" ", 1)[1], {}).setdefault(what, {}).setdefault(target, []).append(rho)
    return {block: {what: _entry(values) for what, values in kinds.items()} for block, kinds in found.items()}


# ------------------------------------------------------------ figures
def matrices(setup: Ensembling, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """By method that weighs by scores or by gradient the weights [targets, sources], mean over seeds; NaN where the source is the target."""
    found = {}
    for name in dict.fromkeys(row["method"] for row in rows if row["weights"] and row["method"] not in ("uniform", "category", "code")):
        sums = np.full((len(setup.targets), len(setup.names)), np.nan)
        for i, target in enumerate(setup.targets):
            given = [row["weights"] for row in rows if row["method"] == name and row["target"] == target]
            for j, source in enumerate(setup.names):
                if source != target:
                    sums[i, j] = np.mean([weights[source] for weights in given])
        found[name] = sums
    return found


def _draw(setup: Ensembling, rows: Sequence[Mapping[str, Any]], methods: Mapping[str, Any], blocks: Mapping[str, Any]) -> None:
    from landscape import Estimate, draw_blocks, draw_gains, draw_weights

    def estimate(entry: Mapping[str, Any] | None) -> Any:
        if entry is None or entry["mean"] is None:
            return None
        return Estimate(entry["mean"], *(entry["interval"] or (float("nan"), float("nan"))))

    folder = setup.settings.out / "figures"
    if weights := {label_of(name): matrix for name, matrix in matrices(setup, rows).items()}:
        order = sorted(range(len(setup.names)), key=lambda i: (setup.categories.get(setup.names[i], "~"), setup.names[i]))
        lines = sorted(range(len(setup.targets)), key=lambda i: (setup.categories.get(setup.targets[i], "~"), setup.targets[i]))
        draw_weights({name: matrix[np.ix_(lines, order)] for name, matrix in weights.items()}, [setup.targets[i] for i in lines],
                     [setup.names[i] for i in order], folder / "weights.png")
    columns = {"untuned": "start_over_random", "after few-shot training": "over_random"}
    gains = {label_of(name): {what: estimate(entry.get(column)) for what, column in columns.items()}
             for name, entry in methods.items() if name != "random"}
    draw_gains(gains, folder / "gains.png", xlabel="gain over random init, points of the tasks' metrics")
    if blocks:
        draw_blocks({label: {block: estimate(kinds.get(what)) for block, kinds in blocks.items()}
                     for what, label in (("block", "GraNd of the block alone"), ("hidden", "cosine of hidden states"))}, folder / "blocks.png")


def label_of(name: str) -> str:
    """A method in words."""
    first, *rest = name.split(", ")
    return " ".join([NAMES.get(first, first), *(f"({word} space)" for word in rest)])


# ------------------------------------------------------------ words
def _cell(entry: Mapping[str, Any] | None) -> Number:
    return number(None) if entry is None else number(entry["mean"], entry["interval"])


def _percent(entry: Mapping[str, Any] | None) -> Number:
    return number(None) if entry is None else number(entry["relative"], entry["relative_interval"])


def _verdict(entry: Mapping[str, Any] | None) -> str:
    """above, below or same as 0, by the interval; unknown without one."""
    if not entry or not entry["interval"]:
        return "unknown"
    low, high = entry["interval"]
    return "above" if low > 0 else "below" if high < 0 else "same"


def _told(entry: Mapping[str, Any] | None) -> str:
    if not entry or entry["mean"] is None:
        return "not measured"
    share = "" if entry.get("relative") is None else f", {number(entry['relative'], entry['relative_interval'])} % of its mean"
    return f"{_cell(entry)} points{share}"


def _page(setup: Ensembling, rows: Sequence[Mapping[str, Any]], methods: Mapping[str, Any], blocks: Mapping[str, Any], best: str) -> Page:
    settings, chosen = setup.settings, methods[best]
    heads = ["method", "start, untuned", "after few-shot training", "gain over random init", "gain over uniform mean", "over random init, %"]
    lines = [[label_of(name), *(_cell(entry.get(column)) for column in ("start", "score", "over_random", "over_uniform")),
              _percent(entry.get("over_random"))] for name, entry in methods.items()]
    full, chance = _by(rows, "random", "full"), _by(rows, "random", "chance")
    none = number(None)
    lines += [["trained on all rows (not a start)", none, number(_mean(full), interval(full)), none, none, none],
              ["chance", number(_mean(chance)), none, none, none, none]]
    caption = (f"Points (0 to 100) of the tasks' metrics on test rows; {len(setup.targets)} targets, {settings.seeds} draw(s) of "
               f"{settings.shots} training and {settings.dev_rows or settings.shots} dev rows, 95% intervals over targets and draws; gains are "
               "of tuned scores, % of the mean of random init.")
    headline = _headline(chosen, best)
    return Page(
        title="Weight ensembling", headline=headline, main=Main(heads=heads, rows=lines, caption=caption), source=PAPER,
        asked="A new task with few rows, and many source solutions of one delta type: does training from a weighted mean of them beat training "
        "from a random start, and do weights by nearness beat equal ones?",
        findings=_findings(methods, blocks), claims=_claims(chosen, best, settings),
        sections=_sections(setup, rows), caveats=_caveats(setup))


def _headline(chosen: Mapping[str, Any], best: str) -> Finding:
    """How the start that is best on dev rows compares with the two baselines."""
    against = [(base, chosen[f"over_{base}"]) for base in ("random", "uniform") if f"over_{base}" in chosen]
    said = {"above": "it beats {}: {}", "below": "it is below {}: {}", "same": "it cannot be told apart from {}: {}",
            "unknown": "against {}, without an interval: {}"}
    told = "; ".join(said[_verdict(entry)].format(NAMES[base], _told(entry)) for base, entry in against)
    verdicts = {_verdict(entry) for _, entry in against}
    return Finding("for" if verdicts == {"above"} else "against" if "below" in verdicts else "open",
                   f"After few-shot training the start that is best on dev rows is by {label_of(best)}; {told}.")


def _findings(methods: Mapping[str, Any], blocks: Mapping[str, Any]) -> list[Finding]:
    found = []
    for column, base, what in (("start_over_random", "random init", "untuned start"), ("over_random", "random init", TUNED),
                               ("over_uniform", "the uniform mean", TUNED)):
        groups = _grouped(methods, column)
        if any(groups.values()):
            found.append(Finding("for" if set(groups["above"]) & set(PAPERS) else "open", f"Against {base}, the {what} is clearly higher for "
                                 f"{_list(groups['above'])}; clearly lower for {_list(groups['below'])}; not to be told apart for "
                                 f"{_list(groups['same'])}."))
    tuned = [name for name in methods if name != "random"]
    if len(tuned) > 1:
        top = max(tuned, key=lambda name: methods[name]["score"]["mean"])
        found.append(Finding("note", f"With hindsight, by test scores, the highest of {len(tuned)} methods is {label_of(top)}: over random init "
                             f"{_told(methods[top].get('over_random'))}; the highest of many is flattered."))
    for what, label in (("block", "GraNd of one block alone"), ("hidden", "The cosine of one block's hidden states")):
        values = {block: kinds[what] for block, kinds in blocks.items() if what in kinds}
        if len(values) > 1:
            top = max(values, key=lambda block: values[block]["mean"])
            low = min(values, key=lambda block: values[block]["mean"])
            found.append(Finding("note", f"{label} orders the sources most as the dev loss does in {top} (Spearman's ρ {_cell(values[top])}), "
                                 f"least in {low} ({_cell(values[low])})."))
    return found


def _grouped(methods: Mapping[str, Any], column: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {"above": [], "below": [], "same": []}
    for name, entry in methods.items():
        if (verdict := _verdict(entry.get(column))) in groups:
            groups[verdict].append(name)
    return groups


def _list(names: Sequence[str]) -> str:
    return ", ".join(label_of(name) for name in names) if names else "none"


def _claims(chosen: Mapping[str, Any], best: str, settings: Any) -> list[tuple[str, str, str]]:
    before, after = (chosen.get(column, {}).get("mean") for column in ("start_over_random", "over_random"))
    closed = ""
    if before is not None and after is not None and before > after:
        closed = (f"Untuned, the start is {number(before)} points above random init, after few-shot training {number(after)}: training from "
                  "random init finds much of the rest itself. ")
    why = (f"{closed}Other backbone, tasks and sizes: {settings.shots} training rows, {settings.steps} updates and few targets here, 32 "
           "question answering tasks and T5-base in the paper.")
    return [("+5% to +8% over the baselines after few-shot training", f"over random init {_told(chosen.get('over_random'))}; over the uniform "
             f"mean {_told(chosen.get('over_uniform'))}; by {label_of(best)}, chosen on dev rows", why)]


def _sections(setup: Ensembling, rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    taus = _taus(rows)
    counts = sorted({tau for one in taus.values() for tau in one}, key=float)
    chosen = plain(["method", *(f"τ = {tau}" for tau in counts)], [[label_of(name), *(one.get(tau, 0) for tau in counts)]
                                                                  for name, one in taus.items()],
                   "How often each temperature was chosen, over targets and draws.") if taus else ""
    names = list(dict.fromkeys(row["name"] for row in rows))
    by_target = []
    for target in setup.targets:
        cells = [_mean({target: _by(rows, name, "score").get(target, [])}) if _by(rows, name, "score").get(target) else None for name in names]
        by_target.append([target, setup.categories.get(target, "–"), number(_mean({target: _by(rows, "random", "chance")[target]})),
                          *(number(cell) for cell in cells)])
    table = plain(["target", "category", "chance", *map(label_of, names)], by_target, "Scores after few-shot training, mean over draws.", 2)
    figures = {"weights": "Weight of each source (column) for each target (row), mean over draws; grey: the target itself, which is left out."}
    return [
        Section(title="Who weighs what", words=["Targets and sources are ordered by category: a method that finds kin puts its weight "
                "near the diagonal."], figures=figures, tables=[chosen] if chosen else []),
        Section(title="Gains", figures={"gains": "Gain over random init in points, before and after few-shot training, with 95% intervals."}),
        Section(title="Block by block", words=[
            "Does one block tell as much as the whole? For each block, how the order of the sources by the block alone agrees with their order "
            "by dev loss; 1 is the same order, 0 none."], figures={"blocks": "Spearman's ρ over sources, mean over targets and draws, with 95% "
                                                                  "intervals."}),
        Section(title="Target by target", tables=[table]),
    ]


def _caveats(setup: Ensembling) -> list[str]:
    settings = setup.settings
    said = [f"drift and dev gain are read after {settings.probe_steps} updates (200 in the paper); dev gain is the fall of the dev loss."]
    said.append(f"{len(setup.targets)} targets and {settings.seeds} draw(s) of their rows; intervals are not corrected for the number of "
                "methods.")
    if settings.tau is None:
        said.append(f"τ is chosen for each target and method among {', '.join(map(str, settings.taus))} by {settings.tau_sources} sources, each "
                    "in turn taken as the target, by the untuned start's dev loss; the target and its solution take no part.")
    kinds = setup.categories
    alone = [target for target in setup.targets if target not in kinds or all(
        kinds.get(name) != kinds[target] for name in setup.names if name != target)]
    if alone and "category" in settings.methods:
        said.append(f"{', '.join(alone)}: no other source of the category, so the mean of the category is the uniform mean.")
    return said
