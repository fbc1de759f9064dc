"""What is said of a claimed order follows from the numbers."""

from deltaspace.presets.orders import judged, labels_of, sorted_by, told

import deltas
from subspace.ranking import Difference

AHEAD, BEHIND, OPEN = Difference(0.2, [0.1, 0.3], 6), Difference(-0.2, [-0.3, -0.1], 6), Difference(0.0, [-0.1, 0.1], 6)


def test_verdicts_follow_the_intervals():
    order, found = ("a", "b", "c"), ("b", "a", "c")
    both = judged(order, found, {("a", "b"): AHEAD, ("b", "c"): AHEAD})
    assert (both.verdict, "b > a > c" in both.text, "2 as claimed" in both.text) == ("for", True, True)
    mixed = judged(order, found, {("a", "b"): BEHIND, ("b", "c"): OPEN})
    assert (mixed.verdict, "1 not told apart and 1 the other way round" in mixed.text) == ("against", True)
    assert judged(order, found, {("a", "b"): AHEAD, ("b", "c"): OPEN}).verdict == "open"
    assert judged(order, found, {}).verdict == "open"
    few = judged(order, found, {("a", "b"): AHEAD._replace(tasks=3)})
    assert (few.verdict, "1 not told apart, 3 tasks being too few" in few.text) == ("open", True)


def test_methods_claimed_to_be_alike():
    pairs = {("a", "b"): OPEN, ("b", "c"): AHEAD}
    alike = judged(("a", "b", "c"), ("a", "b", "c"), pairs, [("a", "b")])
    assert (alike.verdict, "a ≈ b > c" in alike.text) == ("for", True)
    assert judged(("a", "b"), ("a", "b"), {("a", "b"): AHEAD}, [("a", "b")]).verdict == "against"
    assert told(pairs, [("a", "b")]) == "a − b 0.00 [−0.10, 0.10] (as claimed, not told apart); b − c 0.20 [0.10, 0.30] (as claimed)"
    assert told({}) == "not measured"


def test_labels_and_order():
    types = [deltas.LoRA(rank=2, label="small"), deltas.BitFit(), deltas.Adapter()]
    assert labels_of(("full", "adapter", "lora"), types) == ["adapter", "small"]
    assert sorted_by({"a": 0.1, "b": 0.3}) == ["b", "a"]
