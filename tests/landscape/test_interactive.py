"""The page of a plane is one file that asks no network for anything, holds the numbers, and is refused in a sentence without plotly."""

import importlib.util
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from pictured import surface

from landscape import interactive
from landscape.redrawing import redraw


class Page(HTMLParser):
    """What a page would fetch, its controls, and its data."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.controls, self.facts, self.words, self.inside = [], [], "", "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.fetched += [found[name] for name in ("src", "href", "srcset", "data", "action", "poster") if found.get(name)]
        if tag == "input":
            self.controls.append(found)
        self.inside = found.get("id") or tag

    def handle_data(self, data):
        if self.inside == "facts":
            self.facts += data
        elif self.inside in ("p", "h1"):
            self.words += data

    def handle_endtag(self, tag):
        self.inside = ""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("plotly")
    odd = surface(("a", "c<i>"), task="</script>one")
    text = interactive.draw_page(odd, tmp_path_factory.mktemp("page") / "p.html").read_text()
    start = text.index("Plotly.newPlot(")
    return odd, text, text[start : text.index("</script>", start)]


def traces(call):
    """The traces of the call that draws."""
    return json.JSONDecoder().raw_decode(call[call.index("[{") :])[0]


def test_nothing_is_fetched(written):
    _, text, _ = written
    page = Page(text)
    assert page.fetched == ["data:,"]  # the icon, so that none is asked for
    assert "url(" not in text[: text.index("<main>")]
    assert "@import" not in text[: text.index("<main>")]
    assert len(text) > 1_000_000  # the library is inside


def test_the_page_holds_the_numbers(written):
    one, text, call = written
    facts, found = json.loads(Page(text).facts), traces(call)
    assert facts["types"] == list(one.labels)
    assert [trace["type"] for trace in found] == [*["surface", *["scatter3d"] * 3] * 2]  # two ways and the marks
    grounds = [n for n, trace in enumerate(found) if trace["type"] == "surface"]
    assert [found[n]["meta"] for n in grounds] == list(one.labels)
    for t, n in enumerate(grounds):
        for name, values in (("loss", one.loss[t]), ("score", one.score[t])):
            np.testing.assert_allclose(np.array(facts["heights"][name][n], float), values, rtol=1e-5, equal_nan=True)
        assert found[n]["z"] == facts["heights"]["loss"][n]
        assert found[n]["connectgaps"] is False
    assert facts["heights"]["loss"][grounds[1]][0][0] is None  # the hole
    hover = found[grounds[0]]["hovertext"][4][5]
    for words in ("<b>a</b>", "z0 0.5, z1 0", "z = (0.5, 0, 0, 0)", f"loss {one.loss[0, 4, 5]:.4g}", f"accuracy {one.score[0, 4, 5]:.4g}"):
        assert words in hover
    assert "c&lt;i&gt;" in found[grounds[1]]["hovertext"][0][0]


def test_marks_and_ways_lie_on_their_type(written):
    one, text, call = written
    heights, found = json.loads(Page(text).facts)["heights"], traces(call)
    ways = [(trace["meta"], trace["name"], n) for n, trace in enumerate(found) if trace.get("mode") == "lines+markers"]
    assert [(label, name) for label, name, _ in ways] == [("a", "tuned"), ("a", "b"), ("c<i>", "tuned"), ("c<i>", "b")]
    n = ways[0][2]
    assert found[n]["x"] == [-1.5, 0.0, 0.5]
    assert heights["score"][n] == pytest.approx([one.score[0, 6, 1], one.score[0, 5, 4], one.score[0, 4, 5]], rel=1e-5)
    marks = next(trace for trace in found if trace.get("mode") == "markers+text")
    assert marks["text"] == ["found", "corner", "origin", "centre"]
    assert "the plane holds 83% of its motion" in Page(text).words
    assert "1 hole of 81 points" in Page(text).words


def test_types_and_heights_can_be_chosen(written):
    one, text, call = written
    page = Page(text)
    kinds = [(c["type"], c["name"], c.get("value")) for c in page.controls]
    assert kinds == [("checkbox", "type", "0"), ("checkbox", "type", "1"), ("radio", "by", "loss"), ("radio", "by", "score"),
                     ("checkbox", "logarithmic", None)]  # fmt: skip
    assert ["checked" in c for c in page.controls] == [True, True, True, False, False]
    assert {trace["meta"] for trace in traces(call)} == set(one.labels)  # by which the boxes find what is theirs


def test_without_plotly_there_is_a_sentence_before_any_work(tmp_path, monkeypatch, refused):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "plotly" else real(name, *rest))
    surface().save(tmp_path / "one.safetensors")
    with refused("pip install deltaspace[interactive]"):
        interactive.draw_page(surface(), tmp_path / "p.html")
    with refused("pip install deltaspace[interactive]"):
        redraw(tmp_path, pages=True)
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def test_refusals(tmp_path, refused):
    pytest.importorskip("plotly")
    with refused(".html", "p.png"):
        interactive.draw_page(surface(), tmp_path / "p.png")
    with refused("'loss' or 'score'"):
        interactive.draw_page(surface(), tmp_path / "p.html", by="height")
