"""The picture of shared basins shows the numbers of every pair, and which of them chance would give too; the words of figures have room."""

import dataclasses

import numpy as np
import pytest
from bent import crowded, seen
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from pictured import panel_titles, words

from landscape import overlap_maps
from landscape.basins import EVERYONE, Overlap
from landscape.lettering import inches, ink_on, widest, wrapped
from landscape.overlap_maps import DIAGONAL, HATCH, NOTHING, draw_overlaps

LABELS = ("lora", "adapter", EVERYONE)


def overlap(a, b, label="lora", share=0.4, chance=0.01, areas=(1.0, 2.0), **others):
    settings = {"by": "score", "tolerance": 0.1, **others}
    return Overlap(tasks=(a, b), label=label, areas=areas, intersection=share, union=1.0, jaccard=share, smaller=share + 0.2, expected=0.1,
                   chance=chance, connected=True, pieces=1, largest=1.0, **settings)  # fmt: skip


def pairs(count, labels=LABELS):
    """Every pair of some tasks: the share says which one it is, and every third is chance."""
    names = [f"task_{n}" for n in range(count)]
    return [overlap(names[i], names[j], label, share=(i + 0.1 * j + 0.05 * t) / count, chance=0.3 if (i + j + t) % 3 == 0 else 0.05)
            for i in range(count) for j in range(i + 1, count) for t, label in enumerate(labels)]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure that would be written."""
    kept = {}
    monkeypatch.setattr(overlap_maps, "write", lambda figure, path: kept.update(figure=figure) or path)

    def draw(found, **options):
        draw_overlaps(found, tmp_path / "f.png", **options)
        return kept["figure"]

    return draw


def layer(ax, **look):
    """The cells (row, column) of a layer, known by its colour or its hatch."""
    layers = [c for c in ax.collections if isinstance(c, PatchCollection)]
    if "hatch" in look:
        (found,) = (c for c in layers if c.get_hatch() == look["hatch"])
    else:
        (found,) = (c for c in layers if len(c.get_facecolor()) and not c.get_hatch() and to_rgb(c.get_facecolor()[0]) == to_rgb(look["colour"]))
    corners = (path.get_extents().min for path in found.get_paths())
    return {(round(y + 0.5), round(x + 0.5)) for x, y in corners}


# ------------------------------------------------------------ what is drawn
def test_every_pair_has_its_number_on_both_sides(drawn):
    found = pairs(4)
    figure = drawn(found)
    assert panel_titles(figure) == list(LABELS)
    assert {"shared basins", "regions within 10% of a type's best score on a task", "area in both / area in either"} <= set(words(figure))
    for label, ax in zip(LABELS, figure.axes, strict=False):
        shown = np.ma.filled(ax.images[0].get_array(), np.nan)
        np.testing.assert_array_equal(shown, shown.T)
        written = {tuple(round(at) for at in t.get_position()[::-1]): t for t in ax.texts if "0." in t.get_text()}
        for one in (one for one in found if one.label == label):
            i, j = (int(task[-1]) for task in one.tasks)
            assert shown[i, j] == one.jaccard
            for place in ((i, j), (j, i)):
                assert written[place].get_text() == f"{one.jaccard:.2f}"
                assert (place in layer(ax, hatch=HATCH)) == (written[place].get_fontweight() != "bold") == (one.chance > 0.05)
        assert len(written) == 12
        assert layer(ax, colour=DIAGONAL) == {(n, n) for n in range(4)}
        assert [tick.get_text() for tick in ax.get_xticklabels()] == [f"task_{n}" for n in range(4)]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [f"task_{n}" for n in range(4)]
    assert len({(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in figure.axes[:3]} | {(0, 1)}) == 1


def test_the_share_of_the_smaller_region(drawn):
    found = pairs(2)
    figure = drawn(found, shown="smaller", title="mine")
    assert figure.axes[0].images[0].get_array()[0, 1] == found[0].smaller
    assert {"mine", "area in both / smaller area"} <= set(words(figure))


def test_how_many_pairs_are_beyond_chance(drawn):
    found = [overlap("a", "b"), overlap("a", "c", chance=0.06), overlap("b", "c", share=0.0, chance=0.0, areas=(0.0, 1.0))]
    assert "1 of 3 pairs beyond chance" in words(drawn(found))
    assert "0 of 1 pair beyond chance" in words(drawn(found[1:2]))


def test_one_type_alone_is_all_types(drawn):
    assert panel_titles(drawn(pairs(3, ("lora", EVERYONE)))) == ["lora"]
    assert panel_titles(drawn(pairs(3, (EVERYONE,)))) == [EVERYONE]


def test_no_region_and_no_pair_are_no_zero(drawn):
    empty = overlap("a", "c", share=0.0, chance=1.0, areas=(1.0, 0.0))
    figure = drawn([overlap("a", "b", share=0.0, chance=1.0), empty])  # b and c were not compared
    ax = figure.axes[0]
    np.testing.assert_array_equal(np.ma.filled(ax.images[0].get_array(), np.nan), [[np.nan, 0, np.nan], [0, np.nan, np.nan], [np.nan] * 3])
    assert layer(ax, colour=NOTHING) == {(0, 2), (2, 0)}
    assert layer(ax, hatch=HATCH) == {(0, 1), (1, 0)}
    assert words(figure).count("0.00") == 2
    assert "a task without a region" in words(figure)
    assert "a task without a region" not in words(drawn(pairs(3)))


# ------------------------------------------------------------ room
@pytest.mark.parametrize("count", [2, 12, 16])
def test_words_have_room_and_can_be_read(drawn, count):
    long = {"task_1": "copy_the_second_word_of_the_line", "task_0": "sst2"}
    found = [dataclasses.replace(one, tasks=tuple(long.get(task, task) for task in one.tasks)) for one in pairs(count)]
    figure = drawn(found)
    assert crowded(figure) == []
    assert min(text.get_fontsize() for text, _ in seen(figure)) >= 6
    assert figure.get_size_inches()[0] < 11
    numbers = [word for word in words(figure.axes[0]) if word.startswith("0.")]
    assert len(numbers) == (count * (count - 1) if count <= 12 else 0)


def test_names_too_small_to_read_are_left_out(drawn):
    figure = drawn([one for one in pairs(160, ("lora",)) if "task_0" in one.tasks])
    assert not any(word.startswith("task_") for word in words(figure))
    assert figure.get_size_inches().max() < 9


def test_many_types_are_drawn_in_full_rows(drawn):
    figure = drawn(pairs(3, [f"type {n}" for n in range(6)]))
    places = [ax.get_position() for ax in figure.axes[:6]]
    assert len({round(place.x0, 4) for place in places}) == 3
    assert len({round(place.y0, 4) for place in places}) == 2
    assert len({(round(place.width, 6), round(place.height, 6)) for place in places}) == 1


# ------------------------------------------------------------ words
def test_words_are_as_wide_as_they_are_drawn(drawn):
    figure = drawn(pairs(3))
    for text, box in seen(figure):
        if not text.get_rotation():
            wide = inches(text.get_text(), text.get_fontsize(), bold=text.get_fontweight() == "bold")
            assert wide * figure.dpi == pytest.approx(box.width, rel=0.1, abs=3)
    assert inches("a longer\nb", 8) == inches("a longer", 8) > inches("a", 8)
    assert (inches("", 8), inches(" \n", 8), widest([], 8)) == (0, 0, 0)
    assert widest(["a", "bbb"], 8) == inches("bbb", 8)


def test_names_break_where_they_are_joined():
    assert wrapped("copy_the_second_word-of it", 11) == "copy_the_\nsecond_\nword-of it"
    assert wrapped("onelongwordofmanyletters a", 11) == "onelongwordofmanyletters\na"
    assert wrapped("short", 11) == "short"
    assert wrapped("", 11) == ""


def test_words_on_a_ground_can_be_read():
    assert (ink_on("white"), ink_on("#8fc3e3"), ink_on("#0072B2")) == ("#1a1a1a", "#1a1a1a", "white")


def test_refusals(tmp_path, refused):
    to = tmp_path / "f.png"
    with refused("one pair of tasks", "got none"):
        draw_overlaps([], to)
    with refused("'jaccard' or 'smaller'", "'chance'"):
        draw_overlaps(pairs(2), to, shown="chance")
    with refused("one tolerance", "0.1 of the score, 0.2 of the score, 0.1 of the loss"):
        draw_overlaps([overlap("a", "b"), overlap("a", "c", tolerance=0.2), overlap("b", "c", by="loss")], to)
    with refused("once a type", "a and b 2 times for lora"):
        draw_overlaps([overlap("a", "b"), overlap("b", "a")], to)
    assert not to.exists()


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_files_can_be_edited(tmp_path, kind):
    written = draw_overlaps(pairs(2, ("lora",)), tmp_path / f"f.{kind}").read_bytes()
    assert b"beyond chance" in written if kind == "svg" else b"/Type3" not in written
