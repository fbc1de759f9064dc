"""Lines by type are the means of the rows that they are about."""

import csv

import numpy as np
from deltaspace.report_curves import PANELS, by_type, draw_by_type
from deltaspace.report_data import read_study
from synthetic_study import write_study


def test_lines_are_means_of_their_rows(tmp_path):
    folder = write_study(tmp_path / "study", planes=False)
    study = read_study(folder)
    found = by_type(study)
    assert set(found) == set(PANELS)
    for panel, (stage, end) in PANELS.items():
        assert set(found[panel]) == set(study.types)
        for label, line in found[panel].items():
            for k, estimate in line.items():
                rows = [r for r in study.rows if (r.stage, r.k, r.control, r.method, getattr(r, end)) == (stage, k, "", study.method, label)]
                own = [r for r in rows if r.task in study.counted]
                full = {(r.task, r.target): r.score for r in study.rows if r.control == "full"}
                expected = np.mean([r.score - 0.18 for r in own]) / np.mean([full[r.task, r.target] - 0.18 for r in own])
                assert abs(estimate.value - expected) < 1e-9
                assert estimate.low <= estimate.value <= estimate.high


def test_a_figure_needs_two_ks(tmp_path):
    folder = write_study(tmp_path / "study", planes=False)
    study = read_study(folder)
    ks = {k for lines in by_type(study).values() for line in lines.values() for k in line}
    drawn = draw_by_type(study, tmp_path / "f.png")
    assert (drawn is not None) == (len(ks) > 1)
    lines = list(csv.reader((folder / "results.csv").open(encoding="utf-8")))
    at = lines[0].index("k")
    kept = [line for line in lines if line[at] in ("k", "", "0", str(study.k))]
    (folder / "results.csv").write_text("\n".join(",".join(line) for line in kept) + "\n", encoding="utf-8")
    assert draw_by_type(read_study(folder), tmp_path / "g.png") is None
    again = [line if line[at] == "k" or n % 2 else [*line[:at], "2" if line[at] else "", *line[at + 1 :]] for n, line in enumerate(kept)]
    (folder / "results.csv").write_text("\n".join(",".join(line) for line in again) + "\n", encoding="utf-8")
    assert draw_by_type(read_study(folder), tmp_path / "h.png").stat().st_size > 5000
