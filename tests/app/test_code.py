"""The program that the page offers runs and prints the numbers that the page shows."""

import contextlib
import io
import json
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from transmix.app.model import PageModel
from transmix.app.parts import classes_part, write_code
from transmix.app.picture import SAMPLES, read_picture, sample
from transmix.app.values import Setting, show
from transmix.models.loaded import load_model

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
def test_it_gives_the_numbers_shown(name, page_model, files):
    setting = SETTINGS[name]
    own, partner = (files["plain"], sample(SAMPLES[1])) if name == "as it opens" else map(sample, SAMPLES)
    code = write_code(setting, own, partner, page_model)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "copied.py", "exec"), {})
    shown = show(
        setting, *(page_model.loaded.preprocessing.crop(read_picture(path)) for path in (own, partner)), page_model
    )
    lines = said.getvalue().splitlines()
    for line, (rule, lam) in zip(lines, shown.lam.items(), strict=False):
        assert line.startswith(rule)
        assert numbers(line) == pytest.approx([lam, 100 * lam, 100 - 100 * lam], abs=0.0502)
        assert numbers(line)[0] == pytest.approx(lam, abs=0.00051)
    classes = [(int(line.split(":")[0].split()[1]), numbers(line)[0]) for line in lines[3:]]
    assert [number for number, _ in classes] == [number for number, _ in shown.classes]
    assert [100 * p for _, p in shown.classes] == pytest.approx([share for _, share in classes], abs=0.0502)


def test_another_box_gives_other_numbers(page_model):
    texts = {write_code(Setting(box), *map(sample, SAMPLES), page_model) for box in ((0, 0, 9, 9), (0, 0, 9, 8))}
    assert len(texts) == 2


def test_a_weights_file_of_ours_is_opened_by_its_code_and_names_its_classes(tmp_path, files):
    options = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3, **options)
    about = {
        "model": "vit_tiny_patch16_224",
        "model_options": options,
        "classes": ["ant", "bee", "<cat>"],
        "image_size": 32,
        "eval_crop": 1.0,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    save_file(model.state_dict(), tmp_path / "small.safetensors", {"transmix": json.dumps(about)})
    page_model = PageModel(load_model(tmp_path / "small.safetensors"), torch.device("cpu"))
    assert page_model.classes == ("ant", "bee", "<cat>")
    assert page_model.notice == ""
    assert (page_model.size, page_model.grid, page_model.heads) == ((32, 32), (4, 4), {0: 2, 1: 2})
    setting = Setting((4, 8, 20, 32), layer=0, head=1)
    images = files["plain"], files["rotated"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(write_code(setting, *images, page_model), "copied.py", "exec"), {})
    shown = show(setting, *(page_model.loaded.preprocessing.crop(read_picture(path)) for path in images), page_model)
    lam = [float(one) for one in re.findall(r"lam (\d\.\d{3})", said.getvalue())]
    assert lam == pytest.approx(list(shown.lam.values()), abs=0.00051)
    assert "&lt;cat&gt;" in classes_part(shown, page_model.classes)
