"""Figures of trust, heat maps and maps: files of the right kind, the same for the same numbers; names that do not cover each other."""

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.figure import Figure

import landscape
from landscape import Estimate, heatmaps, taskmap, trust
from landscape.taskmap import SYMBOLS, looks, places

BAND = {"mean": [0.5, 0.4], "low": [0.4, 0.3], "high": [0.6, 0.5]}
NULLS = {name: {"name": name, "above": n, "spectrum": BAND, "steps": BAND} for n, name in enumerate(("Gaussian", "permutation"))}
ENTRY = {"value": 0.9, "null_mean": 0.0, "null_interval": [-0.1, 0.1], "p": 0.01}


def tasks(n):
    return [f"task_number_{i}" for i in range(n)]


def similarity(n, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def rows(labels=("lora", "adapter"), ks=(1, 4), share=0.4):
    numbers = {"share": share, "low": share - 0.1, "high": share + 0.1}
    return [{"source": s, "target": t, "k": k, **numbers} for s in labels for t in labels for k in ks]


def angle(k=3, mixed=True):
    found = {"found": np.linspace(0.1, 1.2, k).tolist(), "random": [1.5] * k}
    return {"angles": found | ({"mixed": [1.0] * k} if mixed else {})}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure that a function writes, kept."""
    kept = {}
    for module in (trust, heatmaps, taskmap):
        monkeypatch.setattr(module, "write", lambda figure, path: kept.update(figure=figure) or path)

    def draw(function, *given, **options) -> Figure:
        function(*given, tmp_path / "f.png", **options)
        return kept["figure"]

    return draw


EVERY = {
    "spectra": ([1.0, 0.5, 0.2], NULLS), "reconstruction": (rows(),), "angles": ({"halves": {"lora": angle()}},),
    "agreement": ({"adapter|lora": {"gram": ENTRY}},), "score_curves": ({"transfer": {"lora": {2: Estimate(0.5), 9: Estimate(0.6)}}},),
    "similarities": ({"lora": similarity(5)}, tasks(5)), "draw_map": (np.eye(4)[:, :2], [(t, 0) for t in tasks(4)]),
}  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_the_same_numbers_give_the_same_file(tmp_path, name):
    paths = [getattr(landscape, name)(*EVERY[name], tmp_path / f"{n}.svg") for n in (1, 2)]
    assert paths[0].read_bytes().startswith(b"<?xml")
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_formats_follow_the_suffix(tmp_path, kind, start):
    assert landscape.draw_map(*EVERY["draw_map"], tmp_path / f"m.{kind}").read_bytes().startswith(start)


# ------------------------------------------------------------ heat maps
def images(figure):
    return [ax.images[0] for ax in figure.axes if ax.images and ax.get_label() != "<colorbar>" and len(ax.get_title("left"))]


def test_heat_maps_are_in_one_order_and_on_one_scale(drawn):
    both = {"lora": similarity(6), "adapter": 0.2 * similarity(6, 1)}
    order = [3, 1, 0, 5, 4, 2]
    found = images(drawn(landscape.similarities, both, tasks(6), order=order))
    assert len(found) == 2
    for image, matrix in zip(found, both.values(), strict=True):
        data = np.ma.filled(image.get_array(), np.nan)
        assert np.isnan(np.diagonal(data)).all()
        off = ~np.eye(6, dtype=bool)
        np.testing.assert_allclose(data[off], matrix[order][:, order][off])
    assert found[0].norm.vmax == found[1].norm.vmax == -found[0].norm.vmin  # white is 0


def test_heat_maps_without_an_order_are_grouped(drawn):
    kinds = {"task_number_0": "b", "task_number_1": "a", "task_number_2": "b", "task_number_3": "a"}
    figure = drawn(landscape.similarities, {"lora": similarity(4)}, tasks(4), categories=kinds)
    names = [text.get_text() for text in figure.axes[0].texts]
    assert names == ["task_number_1", "task_number_3", "task_number_0", "task_number_2"]
    lines = [line for line in figure.axes[0].lines if len(set(line.get_ydata())) == 1 and len(line.get_ydata()) == 2]
    assert {line.get_ydata()[0] for line in lines} == {1.5}  # one line between two groups


def test_many_tasks_stay_on_a_page(drawn):
    """The names go before the figure grows beyond sight."""
    sizes = {}
    for n in (20, 80, 400):
        figure = drawn(landscape.similarities, {"lora": similarity(n), "adapter": similarity(n)}, tasks(n), order=range(n))
        sizes[n] = figure.get_size_inches()[0], len(figure.axes[0].texts)
    assert sizes[20][1] == 20
    assert sizes[80][1] == 80
    assert sizes[400][1] == 0
    assert sizes[400][0] < 16


def test_a_tree_stands_at_the_rows(drawn):
    from subspace.similarity import clustered

    matrix = similarity(7)
    found = clustered(matrix)
    figure = drawn(landscape.similarities, {"lora": matrix}, tasks(7), order=found.order, linkage=found.linkage)
    tree = next(ax for ax in figure.axes if ax.collections and not ax.images and ax.get_label() != "<colorbar>")
    ends = np.concatenate([path.vertices for path in tree.collections[0].get_paths()])
    leaves = ends[ends[:, 0] == 0]
    np.testing.assert_allclose(sorted(leaves[:, 1]), range(7))
    assert tree.get_ylim() == (6.5, -0.5)


# ------------------------------------------------------------ maps
def test_categories_differ_in_shape_and_colour():
    kinds = {f"t{n}": f"kind {n:02}" for n in range(24)}
    found = looks(kinds, list(kinds))
    assert len(set(found.values())) == 24
    assert len({marker for _, marker in list(found.values())[:12]}) == 12 == len(SYMBOLS)
    assert looks(None, ["a", "b"]) == looks({"a": ""}, ["a"]) == {"other": found["kind 00"]}


@pytest.mark.parametrize("n", [12, 64])
def test_names_do_not_cover_each_other(drawn, n):
    rng = np.random.default_rng(n)
    points = rng.standard_normal((n, 2))
    points[: n // 3] *= 0.3  # a crowd in the middle
    figure = drawn(landscape.draw_map, points, [(t, 0) for t in tasks(n)])
    ax, renderer = figure.axes[0], figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in ax.texts]
    assert len(boxes) == n
    covered = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.shrunk(0.98, 0.9).overlaps(b.shrunk(0.98, 0.9))]
    assert not covered
    frame = ax.get_window_extent(renderer)
    assert all(frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1 for box in boxes)


def test_of_many_tasks_the_outermost_are_named(drawn, monkeypatch):
    monkeypatch.setattr(taskmap, "NAMED", 2)
    figure = drawn(landscape.draw_map, np.array([[0.0, 0], [5, 0], [0.1, 0.1], [-4, 0]]), [(t, 0) for t in "abcd"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["b", "d"]


def test_boxes_lie_beside_their_points():
    at = np.array([[50.0, 50.0], [52.0, 50.0], [300.0, 50.0]])
    found = places(at, np.full((3, 2), [30.0, 8.0]), at, (0, 0, 400, 100))
    assert (np.linalg.norm(found - at, axis=1) < 60).all()
    assert (np.abs(found[0] - found[1]) >= [30, 8]).any()
    corner = places(np.array([[1.0, 1.0]]), np.array([[30.0, 8.0]]), np.array([[1.0, 1.0]]), (0, 0, 400, 100))
    assert (corner[0] >= [15, 4]).all()


def test_seeds_of_a_task_have_one_name(drawn):
    pairs = [("a", 0), ("a", 1), ("b", 0), ("c", 0)]
    figure = drawn(landscape.draw_map, np.array([[0, 0], [1, 0], [4, 4], [0, 5]]), pairs, categories={"a": "x", "b": "y"}, axes=("one", "two"))
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts] == ["a", "b", "c"]
    assert ax.get_xlabel() == "one"
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["other", "x", "y"]
    assert len({colors.to_hex(c.get_facecolor()[0]) for c in ax.collections}) == 3


# ------------------------------------------------------------ curves
def test_every_pair_of_types_has_its_line(drawn):
    control = rows(share=-0.2)
    figure = drawn(landscape.reconstruction, rows(), control=control, k=4)
    assert [ax.get_title("left") for ax in figure.axes] == ["decoded as lora", "decoded as adapter"]
    for ax in figure.axes:
        heights = [line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 2 and list(line.get_xdata()) == [1, 4]]
        assert sorted(heights) == [-0.2, 0.4, 0.4]  # two sources, and the control of the other type alone


def test_spectra_show_what_is_above(drawn):
    figure = drawn(landscape.spectra, [1.0, 0.5, 0.2], NULLS, energy={"lora": [0.5, 0.8, 1.0]}, k=2)
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert words[1:] == ["Gaussian null of what is left: 0 above", "permutation null of what is left: 1 above"]
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), [0.5, 0.8, 1.0])


def test_missing_numbers_are_drawn(drawn):
    nothing = {"value": None, "null_mean": None, "null_interval": [None, None], "p": None}
    pairs = {f"{n}|lora": {"gram": ENTRY, "cka": nothing} for n in range(10)}
    figure = drawn(landscape.agreement, pairs)
    assert sum(text.get_text() == "not defined" for text in figure.axes[0].texts) == 10
    drawn(landscape.angles, {"halves": {"lora": angle(1), "prefix": angle(3)}, "two fits": {"lora": angle(2, mixed=False)}})
    drawn(landscape.spectra, [1.0], {})
    drawn(landscape.similarities, {"lora": np.ones((1, 1))}, ["only"])
    drawn(landscape.score_curves, {"optimization": {"lora": {4: Estimate(0.5)}, "adapter": {}}, "transfer": {}})


def test_refusals(tmp_path, refused):
    to = tmp_path / "f.png"
    with refused("[3, 3]", "(4, 4)"):
        landscape.similarities({"lora": np.eye(4)}, tasks(3), to)
    with refused("order of the 3 tasks"):
        landscape.similarities({"lora": np.eye(3)}, tasks(3), to, order=[0, 1, 1])
    with refused("[2, 2]", "(3, 2)"):
        landscape.draw_map(np.ones((3, 2)), [("a", 0), ("b", 0)], to)
    with refused("at least one k"):
        landscape.reconstruction([], to)
    with refused("at least one delta type"):
        landscape.angles({}, to)
    with refused("two delta types"):
        landscape.agreement({}, to)
    with refused("one k at least"):
        landscape.score_curves({"transfer": {"lora": {}}}, to)
    assert not to.exists()
