import pytest

from transmix.visual.intervals import Estimate, differences_figure
from transmix.visual.palette import INK

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
