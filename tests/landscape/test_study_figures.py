"""Pictures of the studies of budgets, scale and cost: written whole, nothing to draw is refused."""

import math

import pytest

from landscape.budget_curves import BudgetPanel, draw_budgets
from landscape.cost_curves import draw_costs
from landscape.scale_figure import draw_scale
from landscape.style import Estimate


def panel(mark):
    return BudgetPanel(title="one", structures=[[(10, 0.4), (100, 0.8)], [(9, 0.5), (90, 0.7)]],
                       mean={10: Estimate(0.45, 0.4, 0.5), 100: Estimate(0.75)}, chance=0.4, zero_shot=0.42, full=Estimate(0.8, 0.7, 0.9),
                       marks={"P_low": mark, "P_high": None})


def test_budgets(tmp_path, refused):
    one = draw_budgets([panel(10)], tmp_path / "one.svg").read_text()
    assert "P_low" in one
    assert one.count("P_high") == 1  # not reached: in the legend alone
    assert len(draw_budgets([panel(10), panel(None)], tmp_path / "two.svg").read_text()) > len(one)
    with refused("at least one backbone"):
        draw_budgets([], tmp_path / "no.png")


def test_scale(tmp_path, refused):
    series = {("lora", "usual sites"): {1000: (Estimate(0.5, 0.4, 0.6), Estimate(20, 10, 30)), 2000: (Estimate(0.7), Estimate(math.nan))},
              ("lora", "random sites"): {1000: (Estimate(0.4, 0.3, 0.5), Estimate(20, 10, 30))}}
    text = draw_scale(series, tmp_path / "scale.svg", names={1000: "small", 2000: "large"}, part=0.9).read_text()
    assert all(word in text for word in ("lora, usual sites", "lora, random sites", "small", "steps to 90%"))
    with refused("at least one method"):
        draw_scale({}, tmp_path / "no.png", names={}, part=0.9)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_costs(tmp_path, refused, kind):
    series = {"lora": {1: (10.0, Estimate(1.0, 0.9, 1.2)), 8: (20.0, Estimate(2.0, 1.9, 2.2))}, "full": {1: (100.0, Estimate(3.0, 2.9, 3.2))}}
    path = draw_costs(series, tmp_path / f"costs.{kind}")
    assert path.read_bytes().startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    with refused("at least one delta type"):
        draw_costs({}, tmp_path / "no.png")
