"""The program that the page offers runs and prints the numbers that the page shows."""

import contextlib
import io
import re

import pytest

from transmix.app.code import write_code
from transmix.app.picture import SAMPLES, read_picture, sample
from transmix.app.values import Setting, show

SETTINGS = {
    "as it opens": Setting((56, 56, 168, 168)),
    "a head of a layer": Setting((20, 30, 120, 90), rule="attention", layer=2, head=1, downsample="fraction"),
    "a head of the last layer": Setting((20, 30, 120, 90), head=0),
    "mean of a layer": Setting((0, 0, 200, 90), layer=5),
    "a blend": Setting((0, 0, 0, 0), lam=0.3, blend=True),
}


def numbers(text):
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


@pytest.mark.parametrize("name", SETTINGS)
def test_it_gives_the_numbers_shown(name, opened, watched, files):
    setting = SETTINGS[name]
    own, partner = (files["plain"], sample(SAMPLES[1])) if name == "as it opens" else map(sample, SAMPLES)
    code = write_code(setting, own, partner, opened, watched, "cpu")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "copied.py", "exec"), {})
    shown = show(setting, *(watched.crop(read_picture(path)) for path in (own, partner)), watched)
    lines = said.getvalue().splitlines()
    for line, (rule, lam) in zip(lines, shown.lam.items(), strict=False):
        assert line.startswith(rule)
        assert numbers(line) == pytest.approx([lam, 100 * lam, 100 - 100 * lam], abs=0.0502)
        assert numbers(line)[0] == pytest.approx(lam, abs=0.00051)
    classes = [(int(line.split(":")[0].split()[1]), numbers(line)[0]) for line in lines[3:]]
    assert [number for number, _ in classes] == [number for number, _ in shown.classes]
    assert [100 * p for _, p in shown.classes] == pytest.approx([share for _, share in classes], abs=0.0502)


def test_another_box_gives_other_numbers(opened, watched):
    texts = {
        write_code(Setting(box), *map(sample, SAMPLES), opened, watched, "cpu") for box in ((0, 0, 9, 9), (0, 0, 9, 8))
    }
    assert len(texts) == 2
