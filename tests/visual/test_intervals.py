import pytest

from transmix.visual.intervals import label_truth_figure
from transmix.visual.palette import AVERAGE, MODEL, PALE

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
