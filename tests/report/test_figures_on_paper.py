"""Figures in the measures of a paper: width, height, letters, font; and which layers their axes number."""

import re

import matplotlib.pyplot as plt
import page_cases as cases
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

import avflow
from avflow import plots
from avflow.errors import InputError
from avflow.plots.layer_ticks import LayerTicks
from avflow.plots.paper import WIDTHS, on_paper


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return avflow.read(cases.sweep(tmp_path_factory.mktemp("paper") / "run", 2))


@pytest.fixture
def figure(results):
    return plots.flow(results, paths=cases.PATHS[1:4], title="A title that is much longer than a column is wide")[0]


def size_of(pdf):
    box = re.search(rb"/MediaBox \[ *0 0 ([0-9.]+) ([0-9.]+) *\]", pdf.read_bytes())
    return float(box[1]) / 72, float(box[2]) / 72  # inches


@pytest.mark.parametrize(("width", "inches"), [("column", 3.3), ("page", 6.8), (4.25, 4.25)])
def test_both_files_are_as_wide_as_is_asked_for(figure, tmp_path, width, inches):
    png, pdf = plots.save(figure, tmp_path / "flow", dpi=100, width=width)
    assert size_of(pdf)[0] == pytest.approx(inches, abs=0.01)
    assert Image.open(png).width == pytest.approx(100 * inches, abs=1)
    other = plots.save(figure, tmp_path / "high", dpi=100, width=width, height=2.5)[1]
    assert size_of(other) == pytest.approx((inches, 2.5), abs=0.01)


def test_a_narrow_figure_has_its_legend_below_and_its_title_on_more_lines(figure):
    made, same = on_paper(figure, "column"), on_paper(figure, "page")
    (ax,), (legend,) = made.axes, made.legends
    assert ax.get_legend() is None and same.axes[0].get_legend() is not None and not same.legends
    old = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [text.get_text() for text in old.get_texts()]
    looks = [[(to_hex(line.get_color()), line.get_linestyle()) for line in one.get_lines()] for one in (legend, old)]
    assert looks[0] == looks[1]
    assert ax.bbox.width > 0.7 * made.bbox.width and legend.get_window_extent().y1 < ax.get_tightbbox().y0 + 1
    title = next(text for text in made.findobj(Text) if text.get_text().startswith("A title"))
    assert "\n" in title.get_text() and title.get_window_extent().x1 <= made.bbox.width


def test_a_figure_that_was_shown_or_saved_gives_the_bytes_of_a_fresh_one(results, tmp_path):
    """A layout moves on each time that it is drawn."""
    shown, fresh = plots.flow(results), plots.flow(results)[0]
    shown._repr_png_()
    made = [[path.read_bytes() for path in plots.save(one, tmp_path / "a")] for one in (shown[0], shown[0], fresh)]
    assert made[0] == made[1] == made[2]


def test_a_figure_that_cannot_be_copied_is_saved_as_it_is(figure, tmp_path):
    figure.axes[0].yaxis.set_major_formatter(lambda value, place: f"{value:.0f} points")
    assert plots.save(figure, tmp_path / "a")[0].stat().st_size
    with pytest.raises(InputError, match="cannot be copied to its new measures: .*lambda"):
        plots.save(figure, tmp_path / "a", width="page")


class Own(Text):
    """A user's artist, which says in its own way that it cannot be copied."""

    def __reduce__(self):
        raise ValueError("ctypes objects containing pointers cannot be pickled")


def test_nor_does_an_artist_of_the_users_keep_it_from_being_saved(figure, tmp_path):
    figure.add_artist(Own(0.5, 0.5, "mine"))
    assert plots.save(figure, tmp_path / "a")[0].stat().st_size
    with pytest.raises(InputError, match="cannot be copied to its new measures: ctypes objects"):
        plots.save(figure, tmp_path / "a", width="page")


def test_letters_and_font_are_as_asked_for_and_the_figure_stays(figure, tmp_path):
    made = on_paper(figure, font_size=6, font="serif")
    sizes = {name: text.get_fontsize() for name, text in letters(made).items()}
    assert sizes == pytest.approx({name: text.get_fontsize() * 6 / 9 for name, text in letters(figure).items()})
    assert {text.get_fontfamily()[0] for text in letters(made).values()} == {"serif"}
    for name in ("first", "before"):  # the layout settles when it is drawn
        before = plots.save(figure, tmp_path / name)[0].read_bytes()
    pdf = plots.save(figure, tmp_path / "serif", width="page", font="serif")[1].read_bytes()
    assert b"Serif" in pdf and b"DejaVuSans\n" not in pdf and b"BaseFont /DejaVuSans " not in pdf
    assert plots.save(figure, tmp_path / "after")[0].read_bytes() == before


def letters(figure):
    figure.canvas.draw()
    return {text.get_text(): text for text in figure.findobj(Text) if text.get_text() and text.get_visible()}


@pytest.mark.parametrize(
    ("measures", "said"),
    [
        ({"width": "wide"}, "width is 'wide': give inches, or one of column, page"),
        ({"width": 0}, "width is 0: give inches, 1 to 40"),
        ({"height": "column"}, "height is 'column'"),
        ({"font_size": True}, "font_size is True: give points, 3 to 40"),
        ({"font": "No Such Font"}, "font 'No Such Font' is not on this machine"),
        ({"font": 3}, "font"),
    ],
)
def test_other_measures_are_refused(figure, tmp_path, measures, said):
    with pytest.raises(InputError, match=said):
        plots.save(figure, tmp_path / "flow", **measures)
    assert not list(tmp_path.iterdir()) and WIDTHS == {"column": 3.3, "page": 6.8}


def test_panels_that_have_no_room_are_refused(results, tmp_path):
    panels, _ = plots.flow_panels(results)
    with pytest.raises(InputError, match=r"no room in 3\.3 x .* inches: give a larger width="):
        plots.save(panels, tmp_path / "panels", width="column")
    assert size_of(plots.save(panels, tmp_path / "panels", width="page", font_size=7)[1])[0] == pytest.approx(
        6.8, abs=0.01
    )
    plan = plots.heat_map(results)[0]
    assert size_of(plots.save(plan, tmp_path / "map", width="column", font_size=7)[1])[0] == pytest.approx(
        3.3, abs=0.01
    )


@pytest.mark.parametrize("width", [2.6, 3.3, 4.0, 6.8])
@pytest.mark.parametrize("font_size", [6, 9])
def test_nothing_reaches_out_of_the_figure(results, width, font_size):
    figure = plots.flow(results, title="Averylongwordthatnothingbreaks of a title that is long as well" * 2)[0]
    made = on_paper(figure, width, font_size=font_size)
    shown = [text for text in letters(made).values() if not text.get_text().strip("\N{MINUS SIGN}0123456789.")] or []
    boxes = [text.get_window_extent() for text in set(letters(made).values()) - set(shown)]
    boxes += [legend.get_window_extent() for legend in made.legends]
    room = made.bbox
    assert all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= room.x1 + 1 and box.y1 <= room.y1 + 1 for box in boxes)
    (legend,) = made.legends or [made.axes[0].get_legend()]
    assert len(legend.get_texts()) == len(figure.axes[0].get_legend().get_texts())


def test_a_height_that_cuts_a_name_is_refused_or_breaks_it(figure):
    made = on_paper(figure, "page", height=2.0)
    label = made.axes[0].yaxis.label
    assert label.get_window_extent().y1 <= made.bbox.y1 + 1 and label.get_window_extent().y0 >= -1
    with pytest.raises(InputError, match="no room in 6.8 x 1 inches"):
        on_paper(figure, "page", height=1.0, font_size=14)


def test_pyplot_gets_no_other_figure(results):
    shown = plt.figure(layout="constrained")
    try:
        plots.flow(results, ax=shown.subplots())
        manager = shown.canvas.manager
        on_paper(shown, "column")
        assert plt.get_fignums() == [shown.number] and shown.canvas.manager is manager
    finally:
        plt.close(shown)


def test_numbers_of_layers_begin_with_the_first(results):
    for first, last, want in (
        (0, 11, [0, 2, 4, 6, 8, 10]),
        (1, 12, [1, 3, 5, 7, 9, 11]),
        (1, 36, [1, 5, 10, 15, 20, 25, 30, 35]),
    ):
        ticks = LayerTicks(first).tick_values(first, last)
        assert [tick for tick in ticks if first <= tick <= last] == want
    ax = plots.flow(results, first_layer=1)[1]
    ax.figure.canvas.draw()
    assert [tick for tick in ax.get_xticks() if 1 <= tick <= cases.LAYERS] == [1, 2, 3, 4, 5, 6]
