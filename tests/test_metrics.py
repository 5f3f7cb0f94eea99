"""One table of metrics: each label stands in it and nowhere else, and numbers are written as it says."""

import ast
import math
import re
from pathlib import Path

import pytest

from transmix.metrics import FIGURES, METRICS, TRAINING_METRICS, Metric, headlines, log_metrics, says_something

PACKAGE = Path(__file__).parents[1] / "transmix"
OURS = {**{("", name): one for name, one in (METRICS | TRAINING_METRICS).items()}}
OURS |= {(suite, name): one for suite, known in FIGURES.items() for name, one in known.items()}
LABELS = {one.label for one in OURS.values()}


def texts(path):
    """Yield the texts of a file that a reader may see: strings that are no docstring, and templates."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        yield from re.split(r"[<>\"']", content)
        return
    tree = ast.parse(content)
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def is_label(text):
    """Whether a text is a label, with a number's place, its unit or marks around it; no sentence, no name."""
    if text in {name for _, name in OURS}:
        return False
    bare = re.sub(r"\bEMA\b|\([^)]*\)|[\s:;,%]+$|^[\s:;,%]+", "", text).strip().lower()
    return bare in {label.lower() for label in LABELS}


def second_labels(package):
    return sorted(
        (path.relative_to(package).as_posix(), text.strip())
        for path in (*package.rglob("*.py"), *package.rglob("*.html"))
        for text in texts(path)
        if path != package / "metrics.py" and is_label(text)
    )


def test_each_label_stands_in_the_table_alone():
    assert second_labels(PACKAGE) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.py", 'COLUMNS = {"top1": "top-1"}\n'),
        ("a.py", 'def f(row):\n    return f"EMA top-1 {row:.2f} %, calibration error {row}"\n'),
        ("a.py", 'HEADINGS = ["Label shift (points)"]\n'),
        ("a.html", "<tr><th>Top-1</th></tr>"),
        ("a.html", '{{ table("By epoch", ["epochs", "empty boxes"]) }}'),
    ],
)
def test_a_second_label_would_be_seen(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert second_labels(tmp_path)
    (tmp_path / name).write_text(re.sub("(?i)top-1|calibration error|label shift|empty boxes", "something", content))
    assert second_labels(tmp_path) == []


def test_every_metric_says_what_it_is_and_none_is_called_like_another():
    assert all(one.label and one.meaning and one.better in ("higher", "lower", None) for one in OURS.values())
    logged = [one.label for one in log_metrics().values()]
    assert len(set(logged)) == len(logged)
    assert {name for name in log_metrics() if name.startswith("ema_")} >= {"ema_top1", "ema_val_loss"}
    assert log_metrics()["ema_top1"].better == "higher"
    assert log_metrics()["loss"] is TRAINING_METRICS["loss"]


def test_numbers_are_written_with_their_unit_and_what_is_none_in_words():
    speed = Metric("speed", 1, 0, "images/s")
    shown = [METRICS["top1"].write(value) for value in (0.87654, None, math.nan, math.inf, True)]
    assert shown == ["87.65 %", "–", "not a number", "infinite", "–"]
    assert (speed.write(1234.4), speed.write(1234.4, unit=False)) == ("1,234 images/s", "1234")
    assert [speed.write(one) for one in (0.0341, 4.26, 9.96, 12.4)] == [
        f"{text} images/s" for text in ("0.034", "4.3", "10", "12")
    ]
    assert [says_something(name, 5) for name in ("top1", "top5", "ema_top5")] == [True, False, False]
    assert says_something("top5", 6)
    assert (speed.heading, METRICS["top1"].difference_unit) == ("speed (images/s)", "points")
    assert [METRICS["top1"].write_difference(value) for value in (0.012, -0.003, None)] == ["+1.20", "−0.30", "–"]


def test_of_a_list_the_entry_nearest_to_the_one_that_is_shown_is_printed():
    found = {
        "model": {"grids": [1, 2, 8], "top1": [0.9, 0.5, 0.1]},
        "ema": {"grids": [1, 2, 8], "top1": [0.8, 0.4, 0.2]},
    }
    ((metric, values),) = headlines("shuffle", found)
    assert (metric.label, values) == ("top-1 on shuffled patches, grid 2", {"model": 0.5, "ema": 0.4})
    ((metric, values),) = headlines("shifts", {"model": {"sketch/top1": 0.25, "sketch/images": 7}})
    assert (metric.label, values) == ("sketch: top-1", {"model": 0.25})
