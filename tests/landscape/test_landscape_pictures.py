"""Pictures of planes, paths and curvature show the numbers they were given, on one scale where they are compared, and can be drawn again."""

import dataclasses

import numpy as np
import pytest
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text
from pictured import EIGEN, TRACES, TRAILS, density, section, surface, walk, words
from scipy import stats

from deltas.errors import InputError
from landscape import multiples, panels, plotting, profiles, relief, spectral_figures
from landscape.curvature import Density, Eigen
from landscape.region import REFINE, region
from landscape.sections import Section

MODULES = (plotting, relief, multiples, profiles, spectral_figures)


@pytest.fixture(autouse=True)
def few_faces(monkeypatch):
    """Reliefs of few faces, which take less time."""
    monkeypatch.setattr(relief, "FACES", 16)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure that a function would write."""
    kept = {}
    for module in MODULES:
        monkeypatch.setattr(module, "write", lambda figure, path: kept.update(figure=figure) or path)

    def draw(function, *given, **options) -> Figure:
        function(*given, tmp_path / "f.png", **options)
        return kept["figure"]

    return draw


EVERY = {
    "plot": (plotting.plot, surface()), "overlap": (plotting.draw_overlap, surface()), "combined": (plotting.draw_combined, surface()),
    "relief": (relief.draw_relief, surface()), "multiples": (multiples.draw_multiples, [surface(), surface(task="two", metric="f1")]),
    "profiles": (profiles.draw_profiles, [section(), section("bezier")]), "densities": (spectral_figures.draw_densities, {"a": density()}),
    "eigenvalues": (lambda eigen, path: spectral_figures.draw_eigenvalues(eigen, path, traces=TRACES), EIGEN),
}  # fmt: skip


# ------------------------------------------------------------ files
@pytest.mark.parametrize("name", EVERY)
def test_text_stays_text_and_can_be_read(drawn, name):
    figure = drawn(*EVERY[name])
    width, height = figure.get_size_inches()
    assert 3 < width < 11
    assert 2 < height < 8
    figure.canvas.draw()
    seen = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert min(text.get_fontsize() for text in seen) >= 6
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert box.x0 >= 0, name
        assert box.y0 >= 0, name
        assert box.x1 <= width * figure.dpi, name


@pytest.mark.parametrize("name", ["relief", "profiles"])
def test_files_can_be_edited(tmp_path, name):
    function, given = EVERY[name]
    assert b"<text" in function(given, tmp_path / "f.svg").read_bytes()
    pdf = function(given, tmp_path / "f.pdf").read_bytes()
    assert b"/CIDFontType2" in pdf  # TrueType
    assert b"/Type3" not in pdf


# ------------------------------------------------------------ planes
def test_heights_are_read_as_they_are_drawn():
    one = surface()
    assert np.isnan(panels.height(one, one.loss[1], np.array([[-2.0, -2.0], [-1.9, -1.9], [3.0, 0.0]]))).all()  # a hole, beside it, outside
    fine = panels.refine(one.loss[0])
    axis = np.linspace(-2, 2, fine.shape[0])
    at = np.array([(axis[j], axis[i]) for i, j in ((5, 7), (96, 96), (0, 40), (33, 90))])
    np.testing.assert_allclose(panels.height(one, one.loss[0], at), [fine[5, 7], fine[96, 96], fine[0, 40], fine[33, 90]])


def test_ways_are_drawn_with_their_share(drawn):
    figure = drawn(plotting.plot, surface())
    ways = [[tuple(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 1.2] for ax in figure.axes[:3]]
    tuned, own = (tuple(trail.x) for trail in TRAILS)
    assert ways == [[tuned], [tuned, own], [tuned, own]]  # the second is named for type b
    assert "tuned: this plane holds 83% of its motion" in words(figure)
    assert "b: this plane holds 41% of its motion" in words(figure)
    assert "1 hole" in words(figure)


def test_points_that_were_filled_in_are_told(drawn):
    known = np.ones((2, 9, 9), bool)
    known[0, ::2] = False
    figure = drawn(plotting.plot, surface(known=known, error=(0.0123, 0.0)))
    assert [w for w in words(figure) if "evaluated" in w] == ["44% evaluated, the rest within 0.012"]


def test_the_edge_of_a_region_is_where_it_is(drawn):
    one = surface(hole=False)
    area = region(one, tolerance=0.5)
    figure = drawn(plotting.draw_overlap, one, area=area)
    ax = figure.axes[0]
    edges = [c for c in ax.collections if isinstance(c, QuadContourSet) and not c.filled]
    assert len(edges) == 2
    for t, lines in enumerate(edges):
        at = np.concatenate([path.vertices for path in lines.get_paths()])
        np.testing.assert_allclose(panels.height(one, one.score[t], at), area.thresholds[t], rtol=0.02)
    assert any(f"{area.fraction:.1%} of the plane" in w for w in words(figure))


def test_the_worst_type_and_the_mean(drawn):
    one = surface()
    figure = drawn(plotting.draw_combined, one)
    images = [ax.images[0] for ax in figure.axes[:2]]
    shown = [np.ma.filled(image.get_array(), np.nan)[::REFINE, ::REFINE] for image in images]
    np.testing.assert_allclose(shown[0], one.score.min(axis=0), equal_nan=True)
    np.testing.assert_allclose(shown[1], one.score.mean(axis=0), equal_nan=True)
    assert images[0].norm.vmin == images[1].norm.vmin
    assert images[0].norm.vmax == images[1].norm.vmax


# ------------------------------------------------------------ reliefs
def test_reliefs_have_one_scale_one_view_and_open_holes(drawn):
    one = surface()
    figure = drawn(relief.draw_relief, one, by="loss")
    first, second = (ax for ax in figure.axes if hasattr(ax, "get_zlim"))
    assert first.get_zlim() == second.get_zlim()
    assert (first.elev, first.azim) == (second.elev, second.azim)
    faces = [sum(len(c.get_facecolor()) for c in ax.collections if len(c.get_facecolor()) > 100) for ax in (first, second)]
    factor = round(relief.FACES / 9)
    assert faces == [(8 * factor) ** 2, (8 * factor) ** 2 - factor**2]  # the cell at the hole is open
    assert "1 hole, left open" in words(figure)


def test_a_loss_that_spans_decades_is_drawn_by_its_logarithm(drawn):
    one = surface(hole=False)
    wide = dataclasses.replace(one, loss=np.exp(2 * one.loss))
    ax = drawn(relief.draw_relief, wide).axes[0]
    top = max(float(zs) for line in ax.lines for zs in line.get_data_3d()[2] if np.isfinite(zs))
    assert top < np.log10(wide.loss.max())
    assert ax.get_zlim()[1] == pytest.approx(np.log10(wide.loss.max()), rel=0.05)
    assert "loss, logarithmic" in words(ax.figure)


def test_what_lies_behind_a_hill_is_hidden():
    one = surface(("a",), hole=False)
    ground = relief._Ground(one, 0, "score", panels.scale_of([one], "score")[0], (20.0, 0.0))  # the eye is where x is large
    foot = ground.low + 0.05 * ground.spans[2]
    at = np.array([[-1.0, 0.0, foot], [1.8, 0.0, foot], [-1.0, 0.0, ground.high * 2]])
    assert ground.hidden(at).tolist() == [True, False, False]


@pytest.mark.parametrize("name", ["combined", "relief", "multiples"])
def test_empty_and_flat_types_are_drawn(drawn, name):
    one = surface()
    for loss, score in ((np.full_like(one.loss, np.nan), np.full_like(one.score, np.nan)), (np.ones_like(one.loss), np.zeros_like(one.score))):
        bare = dataclasses.replace(one, loss=loss, score=score)
        drawn(EVERY[name][0], [bare] if name == "multiples" else bare).canvas.draw()


# ------------------------------------------------------------ small multiples
def test_one_scale_a_metric(drawn):
    rows = [surface(), surface(task="two", shift=0.5), surface(("a",), task="three", metric="f1")]
    figure = drawn(multiples.draw_multiples, rows)
    grid = np.array(figure.axes[:9], object).reshape(3, 3)
    assert [ax.get_title("left") for ax in grid[0]] == ["a", "b", "all types"]
    norms = {(i, j): grid[i, j].images[0].norm for i in range(3) for j in range(2) if grid[i, j].images}
    assert sorted(norms) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert norms[0, 0] is norms[0, 1] is norms[1, 0] is norms[1, 1]
    assert norms[0, 0].vmax == max(np.nanmax(row.score) for row in rows[:2])
    assert norms[2, 0].vmax == pytest.approx(np.nanmax(rows[2].score))
    assert "not evaluated" in words(figure)
    found = drawn(multiples.draw_multiples, rows, by="loss")
    assert len({id(ax.images[0].norm) for ax in found.axes[:9] if ax.images}) == 1  # one loss for all


# ------------------------------------------------------------ paths
def test_bands_are_intervals_of_the_mean(drawn):
    one = section()
    figure = drawn(profiles.draw_profiles, [one])
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    for n, t in enumerate(one.t):
        low, high = stats.t.interval(0.95, 5, one.values["a"][:, n].mean(), stats.sem(one.values["a"][:, n]))
        at = band[np.isclose(band[:, 0], t), 1]
        assert (at.min(), at.max()) == pytest.approx((low, high))


def test_barriers_are_marked_over_the_line_between_the_ends(drawn):
    values = {"a": np.array([1.0, 2.0, 5.0, 2.0, 2.0]), "b": np.array([2.0, 1.5, 1.0, 1.5, 2.0])}
    figure = drawn(profiles.draw_profiles, [section(values=values), section("bent", values={"a": values["b"]})])
    assert {ax.get_ylim() for ax in figure.axes} == {figure.axes[0].get_ylim()}
    bars = [line for line in figure.axes[0].lines if line.get_marker() == "_"]
    assert [list(line.get_ydata()) for line in bars] == [[1.5, 5.0]]  # b has none
    assert {"a: barrier 3.5", "b: barrier 0"} <= set(words(figure))
    low = drawn(profiles.draw_profiles, [section(values=values, good="high")])
    assert {"a: barrier 0", "b: barrier 1"} <= set(words(low))  # of a score, how far it falls


def test_holes_on_a_path_are_counted(drawn):
    values = {"a": np.array([1.0, 4.0, np.nan, 2.0, 1.0]), "b": np.array([np.nan, 4.0, 2.0, 2.0, 1.0])}
    found = words(drawn(profiles.draw_profiles, [section(values=values)], across="types"))
    assert "straight: barrier at least 3, 1 hole" in found
    assert "straight: no barrier, as an end is a hole, 1 hole" in found


def test_a_section_of_a_path_keeps_its_whole_values():
    one = Section.of(walk(), "score")
    assert (one.quantity, one.good, one.space, one.ends, one.name) == ("f1", "high", "θ", ("first", "second"), "straight")
    np.testing.assert_array_equal(one.mean("a").values, np.full(5, 0.75))  # of all rows, not the mean over parts
    np.testing.assert_allclose(one.half("b"), stats.t.ppf(0.975, 2) * one.values["b"].std(axis=0, ddof=1) / np.sqrt(3))


# ------------------------------------------------------------ curvature
def test_densities_are_on_one_logarithmic_scale(drawn):
    one = density()
    half = Density(at=one.at / 2, density=2 * one.density, nodes=one.nodes / 2, weights=one.weights, width=one.width / 2)
    figure = drawn(spectral_figures.draw_densities, {"a": one, "b": half})
    first = figure.axes[0]
    assert {(ax.get_yscale(), ax.get_ylim(), ax.get_xlim()) for ax in figure.axes} == {("log", first.get_ylim(), first.get_xlim())}
    assert figure.axes[0].get_ylim()[1] > 2 * one.density.max()
    assert spectral_figures.negative(one) == pytest.approx(0.25)  # one of four
    assert "25.0% below 0, largest 4" in words(figure)


def test_eigenvalues_and_traces_have_their_errors(drawn):
    ax, trace = drawn(spectral_figures.draw_eigenvalues, EIGEN, traces=TRACES).axes
    bars = [segment[:, 1].tolist() for c in ax.collections for segment in c.get_segments()]
    assert bars == [[3.5, 4.5], [-1.25, -0.75]]
    assert [segment[:, 1].tolist() for c in trace.collections for segment in c.get_segments()] == [[2.0, 4.5]]
    many = {"a": Eigen(values=np.arange(50.0, 0, -1), vectors=np.eye(50), errors=np.zeros(50))}
    ax = drawn(spectral_figures.draw_eigenvalues, many).axes[0]
    assert len(ax.lines[0].get_ydata()) == 10


def test_refusals(tmp_path, refused):
    to = tmp_path / "f.png"
    with refused("two types", "got 1"):
        plotting.draw_combined(surface(("a",)), to)
    with refused("'score' or 'loss'"):
        relief.draw_relief(surface(), to, by="height")
    with refused("'score' or 'loss'"):
        multiples.draw_multiples([surface()], to, by="height")
    with refused("got none"):
        multiples.draw_multiples([], to)
    with refused("got 0 for 1"):
        multiples.draw_multiples([surface()], to, areas=[])
    with refused("one quantity", "loss, f1"):
        profiles.draw_profiles([section(), section("bent", quantity="f1")], to)
    with refused("different names"):
        profiles.draw_profiles([section(), section()], to)
    with refused("'paths' or 'types'"):
        profiles.draw_profiles([section()], to, across="tasks")
    with refused("[batches, 5]", "(6, 4)"):
        section(values={"a": np.zeros((6, 4))})
    with refused("'low' or 'high'"):
        section(good="up")
    for function in (spectral_figures.draw_densities, spectral_figures.draw_eigenvalues, profiles.draw_profiles):
        with refused("got n"):
            function({}, to)
    with pytest.raises(InputError, match=r"\.png, \.svg or \.pdf"):
        relief.draw_relief(surface(), tmp_path / "f.gif")
    assert not list(tmp_path.iterdir())
