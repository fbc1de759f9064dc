import numpy as np
import pytest

from subspace.scores import apart, difference, entry, interval, normalised, relative, scaled, summarise


def line(stage, task, score, *, source="", target="", method="", k="", seed="", control=""):
    return {"stage": stage, "method": method, "k": k, "source": source, "target": target, "task": task, "seed": seed, "control": control,
            "metric": "exact_match", "score": score}


def study():
    """Two types, three tasks of which one is hopeless and one is for dev, two seeds, two k."""
    rows = []
    for task, chance in (("a", 0.2), ("b", 0.0), ("hopeless", 0.5), ("for_dev", 0.1)):
        full = {"lora": chance + 0.8 * (task != "hopeless"), "adapter": chance + 0.4}
        rows += [line("full", task, full[t] + e, source=t, target=t, seed=s, control="full")
                 for t in full for s, e in ((0, 0.1), (1, -0.1))]
        rows += [line("control", task, chance, control="chance"), line("control", task, 0.0, control="zero_shot")]
        for k, share in ((2, 0.25), (4, 0.5)):
            for source in full:
                for target in full:
                    for seed, e in ((0, 0.02), (1, -0.02)):
                        what = {"source": source, "target": target, "method": "joint_svd", "k": k, "seed": seed}
                        stage = "optimization" if source == target else "transfer"
                        got = share if source == target else share / 2
                        rows.append(line(stage, task, chance + got * (full[target] - chance) + e, **what))
                        if k == 4:
                            rows.append(line(stage, task, chance + (0.4 if source == target else -0.1) * (full[target] - chance),
                                             **what, control="shuffled"))
        rows += [line("optimization", task, chance - 0.04, source=t, target=t, method="joint_svd", k=4, seed=0, control="mean_only")
                 for t in full]
        rows += [line("control", task, chance + 0.04, source=t, target=t, control="best_source") for t in full]
    dev = {t: {"chance": 0.2, "lora": 0.2 if t == "hopeless" else 0.9, "adapter": 0.5} for t in ("a", "b", "hopeless", "for_dev")}
    groups = {"a": "unseen_met", "b": "unseen_new", "hopeless": "unseen_new", "for_dev": "dev"}
    return rows, dev, groups


def test_definitions():
    assert relative(0.4, 0.8) == 0.5
    assert relative(0.4, 0.0) is None
    assert normalised(0.4, 0.8, 0.2) == pytest.approx(1 / 3)
    assert normalised(0.1, 0.8, 0.2) < 0
    assert normalised(0.4, 0.2, 0.2) is None
    assert apart({"a": {"chance": 0.2, "x": 0.31, "y": 0.9}, "b": {"chance": 0.2, "x": 0.29, "y": 0.9},
                  "c": {"chance": 0.2, "x": float("nan")}}) == ["b", "c"]


def test_the_denominator_is_the_target_alone():
    rows, _, _ = study()
    for row in scaled(rows):
        if row["stage"] == "transfer" and row["k"] == 4 and row["task"] == "a" and row["target"] == "adapter" and not row["control"]:
            assert row["relative"] == pytest.approx(row["score"] / 0.6)
            assert row["normalised"] == pytest.approx((row["score"] - 0.2) / 0.4)
        if row["control"] == "full":
            assert row["relative"] == pytest.approx(1, abs=0.3)


def test_summary():
    rows, dev, groups = study()
    lines, summary = summarise(rows, dev=dev, k=4, method="joint_svd", groups=groups)
    assert len(lines) == len(rows)
    assert summary["apart"] == ["hopeless"]
    assert all(row["normalised"] is None for row in lines if row["task"] == "hopeless")
    assert set(summary["optimization"]) == {"lora", "adapter"}
    assert set(summary["transfer"]) == {"lora->adapter", "adapter->lora"}
    for cell in summary["optimization"].values():
        assert cell["normalised"] == pytest.approx(0.5)
        assert cell["normalised_interval"][0] <= 0.5 <= cell["normalised_interval"][1]
    for cell in summary["transfer"].values():
        assert cell["normalised"] == pytest.approx(0.25)
    controls = summary["controls"]
    assert controls["shuffled"]["optimization"]["normalised"] == pytest.approx(0.4)
    assert controls["shuffled"]["transfer"]["normalised"] == pytest.approx(-0.1)
    assert controls["mean_only"]["optimization"] == controls["mean_only"]["transfer"]
    assert controls["mean_only"]["transfer"]["normalised"] == pytest.approx(-0.04 / 0.6)  # the types' mean over their mean room
    assert controls["chance"]["transfer"]["normalised"] == pytest.approx(0)
    assert controls["full"]["optimization"]["normalised"] == pytest.approx(1)
    assert controls["zero_shot"]["optimization"]["relative"] == 0
    assert "transfer" not in controls["best_source"]
    assert [point["k"] for point in summary["curve"]] == [2, 4]
    assert summary["curve"][0]["optimization"]["normalised"] == pytest.approx(0.25)
    assert summary["curve"][1]["transfer"]["normalised"] == pytest.approx(0.25)
    assert set(summary["by_group"]) == {"unseen_met", "unseen_new", "dev"}
    for by_stage in summary["by_group"].values():  # of the tables' k, without controls and without the tasks apart
        assert (by_stage["optimization"]["normalised"], by_stage["transfer"]["normalised"]) == pytest.approx((0.5, 0.25))


def test_groups_that_are_all_something_else():
    rows, dev, groups = study()
    _, summary = summarise(rows, dev=dev, k=4, method="joint_svd", groups=dict.fromkeys(groups, "far"))
    assert summary["optimization"]["lora"]["normalised"] == pytest.approx(0.5)


def test_one_type_has_no_transfer():
    rows, dev, groups = study()
    alone = [row for row in rows if row["target"] in ("", "lora") and row["source"] in ("", "lora")]
    _, summary = summarise(alone, dev=dev, k=4, method="joint_svd", groups=groups)
    assert summary["transfer"] == {}
    assert "transfer" not in summary["curve"][0]


def test_interval_covers_and_is_clustered():
    """About 95 of 100 intervals hold the true mean; seeds of one task are no substitute for tasks."""
    rng, held = np.random.default_rng(0), 0
    for n in range(200):
        values = {str(t): mean + 0.1 * rng.standard_normal(3) for t, mean in enumerate(rng.standard_normal(25))}
        low, high = interval(values, seed=n, draws=500)
        held += low <= 0 <= high
    assert 175 <= held <= 199
    means = rng.standard_normal(6)
    few = interval({str(t): mean + 0.01 * rng.standard_normal(3) for t, mean in enumerate(means)})
    many = interval({str(t): mean + 0.01 * rng.standard_normal(300) for t, mean in enumerate(means)})
    assert many[1] - many[0] == pytest.approx(few[1] - few[0], rel=0.15)


def test_interval_of_uneven_and_small_samples():
    assert interval({}) is None
    assert interval({"a": [0.5]}) is None
    low, high = interval({"a": [0.0, 1.0], "b": [0.5]})
    assert 0 <= low < 0.5 < high <= 1
    assert interval({"a": [0.3, 0.3], "b": [0.3]}) == pytest.approx([0.3, 0.3])
    assert interval({"a": [0, 1], "b": [1, 3]}, seed=4) == interval({"b": [1, 3], "a": [0, 1]}, seed=4)


def test_a_task_of_hardly_any_room_is_not_all_of_the_mean():
    """Its own quotient is −49; of the sums it is one task of four."""
    rows = [{"task": t, "seed": 0, "relative": None, "gain": 0.3, "room": 0.5} for t in "abc"]
    rows.append({"task": "d", "seed": 0, "relative": None, "gain": -0.49, "room": 0.01})
    found = entry(rows)
    assert found["normalised"] == pytest.approx((3 * 0.3 - 0.49) / (3 * 0.5 + 0.01))
    low, high = found["normalised_interval"]
    assert low < found["normalised"] < high == pytest.approx(0.6)
    assert entry([{"task": "a", "seed": 0, "relative": None, "gain": 0.1, "room": -0.1}])["normalised"] is None


def test_a_difference_is_seen_task_by_task():
    """Means that are hard to tell apart, since tasks differ; each task says the same of the two."""
    rng = np.random.default_rng(0)
    level = rng.uniform(-1, 1, 8)
    ours, theirs = ([{"task": str(t), "seed": 0, "relative": None, "gain": g + shift + 0.01 * rng.standard_normal(), "room": 0.5}
                     for t, g in enumerate(level)] for shift in (0.1, 0.0))
    value, (low, high) = difference(ours, theirs)
    assert entry(ours)["normalised_interval"][0] < entry(theirs)["normalised"]
    assert 0.15 < low < value < high < 0.25
    assert difference(ours[:4], theirs[4:]) == (None, None)


def test_the_interval_of_a_quotient_covers():
    rng, held = np.random.default_rng(1), 0
    for n in range(200):
        room = {str(t): [r] for t, r in enumerate(rng.uniform(0.1, 0.6, 25))}
        gain = {t: [0.7 * r[0] + 0.1 * rng.standard_normal()] for t, r in room.items()}
        low, high = interval(gain, over=room, seed=n, draws=500)
        held += low <= 0.7 <= high
    assert 170 <= held <= 199


def test_types_are_averaged_before_tasks():
    rows = [{"task": "a", "seed": 0, "relative": v, "normalised": None} for v in (0.0, 1.0)]
    rows += [{"task": "b", "seed": 0, "relative": 1.0, "normalised": None}]
    found = entry(rows)
    assert found["relative"] == 0.75
    assert found["normalised"] is None
    assert found["normalised_interval"] is None
