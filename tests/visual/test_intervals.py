import pytest

from transmix.visual.intervals import Estimate, differences_figure, label_truth_figure
from transmix.visual.palette import AVERAGE, INK, MODEL, PALE

FOUND = {
    "area": {"error": (0.14, 0.13, 0.15), "rank_correlation": (0.87, 0.85, 0.88)},
    "attention": {"error": (0.18, 0.17, 0.19), "rank_correlation": (0.79, 0.77, 0.81)},
    "mean_fraction": {"error": (0.12, 0.11, 0.13), "rank_correlation": (0.85, 0.83, 0.87)},
}


def test_every_rule_has_its_point_and_its_interval():
    figure = label_truth_figure(FOUND, title="digits")
    for axes, score, colour in zip(figure.axes, ("error", "rank_correlation"), (MODEL, AVERAGE), strict=True):
        line, *drawn = axes.lines
        assert line.get_xdata()[0] == FOUND["area"][score][0]
        for row, (rule, interval, point) in enumerate(zip(FOUND, drawn[::2], drawn[1::2], strict=True)):
            value, low, high = FOUND[rule][score]
            assert list(interval.get_xdata()) == [low, high]
            assert (list(point.get_xdata()), list(point.get_ydata())) == ([value], [row])
            assert point.get_color() == (PALE if rule == "area" else colour)
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first rule is on top, beside its name


@pytest.mark.parametrize("width", [3.3, 6.9])
def test_texts_have_room(nothing_overlaps, width):
    nothing_overlaps(label_truth_figure(FOUND, title="A long title " * 12, width=width))
    nothing_overlaps(label_truth_figure({**FOUND, "a rule with a very long name": FOUND["area"]}, width=width))


def test_a_baseline_that_is_not_there_has_no_line():
    figure = label_truth_figure(FOUND, baseline="chance")
    assert len(figure.axes[0].lines) == 6


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no label rule to draw"):
        label_truth_figure({})


DIFFERENCES = {"transmix − cutmix": Estimate(2.5, 1.0, 4.0, [2.0, 3.0]), "none − cutmix": Estimate(-1.0, each=[-1.0])}


def test_every_difference_has_its_seeds_its_mean_and_its_interval_around_0():
    (axes,) = differences_figure(DIFFERENCES).axes
    zero, interval, mean, seeds, other_mean, other_seeds = axes.lines
    assert zero.get_xdata()[0] == 0
    assert list(interval.get_xdata()) == [1.0, 4.0]
    assert [list(line.get_xdata()) for line in (mean, seeds)] == [[2.5], [2.0, 3.0]]
    assert [list(line.get_xdata()) for line in (other_mean, other_seeds)] == [[-1.0], [-1.0]]
    assert {line.get_color() for line in (interval, mean, other_mean)} == {INK}
    rows = [line.get_ydata()[0] for line in (mean, other_mean)]
    assert 0 < rows[0] < 0.5 < 1 < rows[1] < 1.5


@pytest.mark.parametrize("width", [2.4, 3.3])
def test_names_of_differences_stand_above_their_lines(width):
    figure = differences_figure(
        {name + " with a very long name" * 4: one for name, one in DIFFERENCES.items()}, width=width
    )
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for row, text in enumerate(figure.texts):
        box = text.get_window_extent()
        assert box.x1 <= figure.bbox.x1
        top_of_line = axes.transData.transform((0, row + 0.15))[1] + 11 / 2 * figure.dpi / 72
        assert box.y0 >= top_of_line
