"""Training curves are the numbers of the log."""

import json
import math

import pytest

from transmix.runs.folder import RunError
from transmix.visual.curves import CURVES, Curve, curves_figure, read_curves, thinned
from transmix.visual.run import read_log


def log(folder, epochs=3, average=True, mixed=True):
    """Write the log of a run that logs every second of five steps an epoch."""
    rows = []
    for step in range(1, 5 * epochs + 1):
        epoch = (step - 1) // 5 + 1
        if step % 2 == 0 or step % 5 == 0:
            row = {"kind": "train", "step": step, "epoch": epoch, "lr": 0.1 / step, "loss": 3.0 - 0.1 * step}
            rows.append(
                row | ({"mixed_accuracy": 0.01 * step, "label_shift": 0.1 + 0.01 * (step % 4)} if mixed else {})
            )
        if step % 5 == 0:
            row = {"kind": "epoch", "step": step, "epoch": epoch, "val_loss": 2 / epoch, "top1": 0.2 * epoch}
            row |= {"calibration_error": 0.3 / epoch}
            rows.append(row | ({"ema_val_loss": 2.5 / epoch, "ema_top1": 0.1 * epoch} if average else {}))
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def lines(figure):
    """Read the curves back: (panel, curve) -> (x, y)."""
    return {
        (axes.get_title(loc="left"), line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for axes in figure.axes
        for line in axes.lines
    }


def test_every_line_is_what_the_log_says(tmp_path):
    rows = log(tmp_path / "run")
    shown = lines(curves_figure(read_curves(read_log(tmp_path / "run"))))
    assert len(shown) == 3 + 2 + 1 + 1 + 1 + 1
    for (panel, curve), (x, y) in shown.items():
        kind, name = CURVES[panel][curve]
        expected = [(row["step"], row[name]) for row in rows if row["kind"] == kind and name in row]
        assert list(zip(x, y, strict=True)) == expected
    assert shown["top-1", "validation"][1] != shown["top-1", "validation, EMA"][1]


def test_what_a_run_does_not_log_has_no_panel(tmp_path):
    log(tmp_path / "run", average=False, mixed=False)
    panels = read_curves(read_log(tmp_path / "run"))
    assert list(panels) == ["loss", "top-1", "calibration error", "learning rate"]
    assert list(panels["loss"]) == ["training", "validation"]
    figure = curves_figure(panels)
    assert len(figure.axes) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "validation"]


def test_a_loss_that_is_no_number_leaves_a_gap_and_a_torn_line_is_left_out(tmp_path):
    log(tmp_path / "run", epochs=1)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 6, "loss": NaN, "lr": null}\n{"kind": "train", "st')
    panels = read_curves(read_log(tmp_path / "run"))
    assert panels["loss"]["training"].steps[-1] == 6
    assert math.isnan(panels["loss"]["training"].values[-1])
    assert panels["learning rate"]["training"].steps[-1] == 5
    curves_figure(panels)


@pytest.mark.parametrize("width", [2.0, 3.3, 6.9, 12.0])
def test_nothing_overlaps_and_every_curve_has_its_own_look(width, tmp_path, nothing_overlaps):
    log(tmp_path / "run", epochs=2)
    figure = curves_figure(read_curves(read_log(tmp_path / "run")), width=width)
    nothing_overlaps(figure)
    assert figure.get_size_inches()[0] == pytest.approx(width)
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == len({colour for colour, _, _ in looks}) == 3
    assert len({marker for _, _, marker in looks}) == 3  # not by colour alone


def test_a_single_point_is_seen(tmp_path):
    log(tmp_path / "run", epochs=1)
    panels = read_curves(read_log(tmp_path / "run")[:1])
    assert curves_figure(panels).axes[0].lines[0].get_marker() == "."


def test_long_curves_are_thinned_to_means_and_a_gap_stays_a_gap():
    values = [float(value) for value in range(1000)]
    values[500] = math.nan
    found = thinned(Curve(list(range(1000)), values))
    assert len(found.steps) == 250
    assert (found.steps[0], found.values[0]) == (1.5, 1.5)
    assert [at for at, value in enumerate(found.values) if math.isnan(value)] == [125]
    short = Curve([1, 2], [0.5, 0.25])
    assert thinned(short) == short


def test_a_run_without_a_log_is_named(tmp_path):
    with pytest.raises(RunError) as error:
        read_log(tmp_path / "none")
    assert str(error.value) == f"{tmp_path / 'none'}: no such run folder"
    with pytest.raises(RunError) as error:
        read_log(tmp_path)
    assert str(error.value).startswith(f"{tmp_path} holds no run: none of recipe.yaml, metrics.jsonl, ")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(RunError) as error:
        read_log(tmp_path)
    assert str(error.value) == f"{tmp_path} holds no log yet (metrics.jsonl); a row is written every few steps"
    with pytest.raises(ValueError, match="nothing to draw"):
        curves_figure({})
