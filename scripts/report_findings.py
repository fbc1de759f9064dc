"""What a study found, in words computed from its numbers, negative findings as plainly as positive ones.

A stage differs from its control when the interval of their difference, task by task, leaves out 0, and two other numbers when their
intervals are apart; otherwise they "cannot be told apart", whatever their means say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from .report_data import Number, Study

Verdict = Literal["for", "against", "open", "note"]
VERDICTS: dict[Verdict, str] = {"for": "supports", "against": "against", "open": "open", "note": "fact"}
"""In a word, on the page."""


class Finding(NamedTuple):
    """A sentence or two; whether it speaks for or against one shared space, leaves it open, or is a plain fact."""

    verdict: Verdict
    text: str


def headline(study: Study) -> Finding:
    """The one sentence the page opens with: transfer against wrongly paired types, task by task."""
    transfer, shuffled = study.overall("transfer"), study.overall("transfer", "shuffled")
    ahead = study.difference("transfer", "shuffled")
    if not transfer.known:
        tuned = study.overall("optimization")
        if len(study.types) == 1 and tuned.known:
            return Finding("open", f"Optimization in the subspace reaches {tuned} of the full delta on unseen tasks; with one delta type, "
                           "whether types share a space was not asked.")  # fmt: skip
        return Finding("open", "No transfer between types was measured, so whether they share a space stays open.")
    start = f"Transfer reaches {transfer} of the full delta on unseen tasks"
    match ahead.against(Number(0.0, 0.0, 0.0)) if transfer.known and shuffled.known else "unknown":
        case "above" if transfer.low > 0:
            moves = "falls to" if shuffled.value < 0.5 * transfer.value else "stays below it, at"
            return Finding("for", f"{start}, while shuffled pairing {moves} {shuffled}: the types share the space.")
        case "above":
            return Finding("open", f"{start}, above shuffled pairing ({shuffled}) but not clearly above chance: pairing the types "
                           "matters, yet what transfers is of little use.")  # fmt: skip
        case "same":
            return Finding("against", f"{start}, which cannot be told apart from shuffled pairing ({shuffled}): no evidence that the types "
                           "share the space.")  # fmt: skip
        case "below":
            return Finding("against", f"{start}, below shuffled pairing ({shuffled}): this speaks against a shared space.")
    missing = (
        f"; the shuffled control is {shuffled}, without intervals to compare" if shuffled.known else "; shuffled pairing was not measured"
    )
    return Finding("open", f"{start}{missing}, so whether types share the space stays open.")


def findings(study: Study, shared: Mapping[str, float] | None = None) -> list[Finding]:
    """All findings in reading order, each left out where its numbers are missing.

    Args:
        shared: {plane: fraction of it where all types are near their best}.
    """
    parts = (_optimization, _sharing, _likeness, _pairs, _curve, _groups, _methods)
    return [f for part in parts for f in part(study)] + _planes(shared or {}) + _apart(study)


def _planes(shared: Mapping[str, float]) -> list[Finding]:
    if not shared:
        return []
    held = {name: part for name, part in shared.items() if part > 0}
    if not held:
        where = "the plane drawn there is no" if len(shared) == 1 else f"none of the {len(shared)} planes drawn is there a"
        return [Finding("against", f"On {where} point where all types are near their best.")]
    least, most = min(held.values()), max(held.values())
    size = f"{most:.1%}" if f"{least:.1%}" == f"{most:.1%}" else f"{least:.1%} to {most:.1%}"
    rest = "" if len(held) == len(shared) else f", on the other {len(shared) - len(held)} there is none"
    where = "the plane" if len(shared) == 1 else f"{len(held)} of {len(shared)} planes"
    if least > 0.95:
        return [Finding("note", f"On {where} drawn all types are near their best nearly everywhere ({size} of the plane){rest}: the scores "
                        "hardly vary there, which says nothing of a shared region.")]
    verdict: Verdict = "for" if most >= 0.05 and not rest else "note"
    return [Finding(verdict, f"On {where} drawn there is a region where all types are near their best ({size} of the plane){rest}.")]


def _optimization(study: Study) -> list[Finding]:
    tuned = study.overall("optimization")
    if not tuned.known:
        return []
    amount = "most of" if tuned.value >= 0.75 else "part of" if tuned.value >= 0.35 else "little of" if tuned.value > 0 else "nothing of"
    dimensions = f"{study.k} numbers{study.each}" if study.k else "z"
    good: Verdict = "for" if tuned.value >= 0.75 else "open" if tuned.value >= 0.35 else "against"
    found = [Finding(good, f"Tuning {dimensions} reaches {amount} what a full delta gains on unseen tasks: {tuned}.")]
    for control, what in (
        ("random_basis", "a random basis of the same scale"),
        ("best_source", "the best single source solution, untuned"),
        ("mean_only", "the mean of the source solutions, untuned"),
    ):
        other = study.overall("optimization", control)
        if other.known:
            found.append(Finding(*_compare("Optimization", tuned, what, other, study.difference("optimization", control))))
    return found


def _compare(what: str, ours: Number, control: str, other: Number, ahead: Number) -> tuple[Verdict, str]:
    """In words, by how far it is ahead of its control task by task."""
    match ahead.against(Number(0.0, 0.0, 0.0)):
        case "above":
            return "for", f"{what} is above {control} ({other}): task by task by {ahead}."
        case "below":
            return "against", f"{what} is BELOW {control} ({other}): task by task by {ahead}."
        case "same":
            return "against", f"{what} ({ours}) cannot be told apart from {control} ({other}): task by task it is ahead by {ahead}."
    return "open", f"{what} is {ours}, {control} {other}; there are too few tasks to compare them, so nothing is concluded."


def _sharing(study: Study) -> list[Finding]:
    tuned, shuffled = study.overall("optimization"), study.overall("optimization", "shuffled")
    found = []
    if tuned.known and shuffled.known and len(study.types) > 1:
        share = shuffled.value / tuned.value if tuned.value > 0 else 0.0
        if share > 0.6:
            found.append(Finding("note", f"With types paired wrongly, optimization still reaches {shuffled}: it needs a spanning basis "
                                 "of one type, not a shared one. Transfer is the test of sharing."))  # fmt: skip
        else:
            found.append(Finding("note", f"With types paired wrongly, optimization itself falls to {shuffled} (from {tuned})."))
    transfer = study.overall("transfer")
    if tuned.known and transfer.known and tuned.against(transfer) == "above":
        found.append(Finding("note", f"Moving a solution to another type, without training, costs {tuned.value - transfer.value:.2f} "
                             f"of the full delta's gain ({tuned} → {transfer})."))  # fmt: skip
    elif tuned.against(transfer) == "same":
        cost = "moving a solution costs nothing visible" if transfer.low > 0 else "neither is clearly above chance"
        found.append(Finding("for" if transfer.low > 0 else "note",
                             f"Transfer ({transfer}) cannot be told apart from optimization ({tuned}): {cost}."))
    return found


def _likeness(study: Study) -> list[Finding]:
    """Whether the types agree on which tasks are alike, before any subspace is chosen."""
    found = dict(study.summary.get("gram_correlation") or {})
    if not found:
        return []
    told = ", ".join(f"{' and '.join(pair.split('|'))} {v['correlation']:.2f} (permuted tasks: {v['null_interval'][0]:.2f} to "
                     f"{v['null_interval'][1]:.2f})" for pair, v in found.items()).replace("-", "−")
    above = [pair for pair, v in found.items() if v["correlation"] > v["null_interval"][1]]
    verdict: Verdict = "for" if len(above) == len(found) else "open" if above else "against"
    return [Finding(verdict, f"Before any subspace: how alike the types find the same two source tasks, as a correlation of their "
                    f"similarities off the diagonal: {told}.")]


def _pairs(study: Study) -> list[Finding]:
    pairs = {(s, t): study.cell(s, t) for s in study.types for t in study.types if s != t}
    pairs = {pair: n for pair, n in pairs.items() if n.known}
    if len(pairs) < 2:
        return []
    best, worst = (f(pairs, key=lambda p: pairs[p].value) for f in (max, min))
    text = f"Best is {best[0]} → {best[1]}, {pairs[best]}; worst {worst[0]} → {worst[1]}, {pairs[worst]}"
    told = {"above": ".", "same": "; their intervals overlap.", "unknown": "."}[pairs[best].against(pairs[worst])]
    failing = [f"{s} → {t}" for (s, t), n in pairs.items() if n.interval and n.low <= 0]
    found = [Finding("note", text + told)]
    if failing:
        found.append(Finding("against", f"Not above chance: {', '.join(failing)}."))
    return found


def _curve(study: Study) -> list[Finding]:
    found = []
    for stage in ("optimization", "transfer"):
        line = study.curve(stage)
        if len(line) < 3:
            continue
        top = max(line, key=lambda k: line[k].value)
        enough = next((k for k in line if line[k].against(line[top]) == "same"), top)
        first, last = next(iter(line)), list(line)[-1]
        rest = f"; at k = {first} it is {line[first]}" if enough != first else ""
        if enough == first:
            text = f"{stage.capitalize()} does not depend visibly on k between {first} and {last} ({line[top]} at its best, k = {top})"
        elif enough == last:
            text = f"{stage.capitalize()} still rises at the largest k, {last}, where it is {line[last]}"
        else:
            text = f"{stage.capitalize()} needs k = {enough} ({line[enough]}); larger k, up to {last}, cannot be told apart from it"
        found.append(Finding("note", text + rest + "."))
    return found


GROUP_NAMES = {
    "unseen": "unseen tasks",
    "unseen_met": "unseen compositions that the backbone met, with their instruction, in its own training",
    "unseen_new": "unseen compositions that it never met",
    "dev": "dev tasks, on which choices were made",
    "far": "far tasks, whose operation no source has",
}


def _groups(study: Study) -> list[Finding]:
    found = []
    for group, tasks in study.groups.items():
        if len(study.groups) < 2 or group == "source":
            continue
        members = set(tasks) - set(study.apart)
        numbers = [study.mean(study.select(stage, tasks=members)) for stage in ("optimization", "transfer")]
        if numbers[0].known:
            moved = f", transfer {numbers[1]}" if numbers[1].known else ""
            found.append(
                Finding("note", f"{GROUP_NAMES.get(group, group).capitalize()} ({len(members)}): optimization {numbers[0]}{moved}.")
            )
    return found


def _methods(study: Study) -> list[Finding]:
    found = []
    others = dict.fromkeys(r.method for r in study.rows if r.stage == "transfer" and not r.control and r.method != study.method
                            and "/" not in r.method)  # of fewer source tasks
    ours = study.overall("transfer")
    for other in others:
        theirs = study.mean([r for r in study.rows if r.stage == "transfer" and not r.control and r.method == other and r.k == study.k
                             and r.task in study.counted])  # fmt: skip
        if theirs.known:
            words = {"above": f"falls behind {study.method}", "below": f"is ahead of {study.method}"}
            told = words.get(ours.against(theirs), f"cannot be told apart from {study.method}")
            found.append(Finding("note", f"{other} reaches {theirs} in transfer: it {told} ({ours})."))
    return found


def _apart(study: Study) -> list[Finding]:
    if not study.apart:
        return []
    tasks = "1 task is" if len(study.apart) == 1 else f"{len(study.apart)} tasks are"
    return [Finding("note", f"{tasks} not counted: there the full delta is less than 0.1 above chance on dev, and a normalised score "
                    f"has no meaning ({', '.join(study.apart[:6])}{' …' if len(study.apart) > 6 else ''}).")]  # fmt: skip
