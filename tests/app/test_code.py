"""The program that the page offers runs and prints the numbers that the page shows."""

import contextlib
import io
import json
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from transmix import TransMix, cutmix
from transmix.app.model import PageModel
from transmix.app.parts import classes_part, shares_part, write_code
from transmix.app.picture import SAMPLES, sample
from transmix.app.values import Setting, class_names, show
from transmix.labels import RULES, Evidence
from transmix.mixing import METHODS, Mixer
from transmix.models.loaded import load_model

SETTINGS = {
    "as it opens": Setting((56, 56, 168, 168)),
    "a head of a layer": Setting((20, 30, 120, 90), rule="attention", layer=2, head=1, downsample="fraction"),
    "a head of the last layer": Setting((20, 30, 120, 90), head=0),
    "mean of a layer": Setting((0, 0, 200, 90), layer=5),
    "a blend": Setting((0, 0, 0, 0), lam=0.3, method="mixup"),
    "maps of the clean images": Setting((56, 56, 168, 168), rule="semantic"),
    "block by block": Setting((20, 30, 120, 90), rule="rollout"),
}


def printed(code):
    """Run a program and return the lines that it prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "copied.py", "exec"), {})
    return said.getvalue().splitlines()


def check(setting, own, partner, page_model):
    """Check that the program prints the labels and classes that the page shows; return its lines."""
    lines = printed(write_code(setting, own, partner, page_model))
    images = [page_model.image(one) for one in (own, partner)]
    classes, foreground = (page_model.label(own), page_model.label(partner)), page_model.foreground((own, partner))
    shown = show(setting, *images, page_model, classes, foreground)
    rules = dict.fromkeys(("area", "attention", "trained", setting.rule))
    assert [line.split()[0] for line in lines[: len(rules)]] == list(rules)
    names = class_names((own, partner), page_model)
    for line, rule in zip(lines, rules, strict=False):
        numbers = [float(number) for number in re.findall(r"\d\.\d{3}", line)]
        assert numbers == pytest.approx(list(shown.labels[rule]), abs=0.00051)
        assert line.endswith(f" · {names[1]}")
        assert f" · {names[0]} + " in line
    most = [(page_model.loaded.classes or {}, number, share) for number, share in shown.classes]
    known = [f"{classes[number] if classes else f'class {number}'}: {share:.1%}" for classes, number, share in most]
    assert lines[len(rules) :] == known
    return lines


@pytest.mark.parametrize("name", SETTINGS)
def test_it_gives_the_numbers_shown(name, page_model, files):
    own, partner = (files["plain"], sample(SAMPLES[1])) if name == "as it opens" else map(sample, SAMPLES)
    check(SETTINGS[name], own, partner, page_model)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("cutmix", "mixup")])
def test_it_draws_what_the_page_drew(method, run_model):
    own, partner = run_model.pair(0)
    lines = check(Setting((0, 0, 8, 8), method=method, seed=3, rule="source"), own, partner, run_model)
    if method == "fmix":
        assert lines != check(Setting((0, 0, 8, 8), method=method, seed=4, rule="source"), own, partner, run_model)


@pytest.mark.parametrize("rule", RULES)
def test_labels_are_those_of_the_three_lines(rule, run_model):
    """`TransMix` on the same draw, as a training step has it, gives the label that the page shows."""
    if rule in run_model.no_rules:
        reasons = {"object": "no foreground masks. They come with 'digits'", "control": "one pair has no other row"}
        assert reasons[rule] in run_model.no_rules[rule]
        return
    own, partner = run_model.pair(0)
    classes = run_model.label(own), run_model.label(partner)
    images = [run_model.image(one) for one in (own, partner)]
    setting = Setting((0, 0, 9, 16), method="fmix", seed=1, rule=rule)
    shown = show(setting, *images, run_model, classes)
    mixer = Mixer(methods=[METHODS["fmix"]()], generator=torch.Generator().manual_seed(1))
    tm = TransMix(run_model.loaded.model, mixer=mixer, labels=rule, smoothing=0.1)
    try:
        if tm.reader is not None:
            tm.reader.eval = True
        mixed = tm.mix(run_model.normalise(torch.stack(images)), torch.tensor(classes))
        with torch.no_grad():
            mixed = tm.relabel(mixed, logits=run_model.loaded.model(mixed.images))
    finally:
        tm.detach()
    theirs = 1 - mixed.lam if mixed.lam_partner is None else mixed.lam_partner
    name = "trained" if rule == "attention" else rule  # on the page "attention" is attention alone
    assert shown.labels[name] == pytest.approx((mixed.lam[0].item(), theirs[0].item()), abs=1e-5)


def test_where_the_data_has_masks_labels_are_by_object(digits_model):
    own, partner = digits_model.pair(0)
    setting = Setting((3, 5, 20, 24), rule="object")
    check(setting, own, partner, digits_model)
    images, foreground = [digits_model.image(one) for one in (own, partner)], digits_model.foreground((own, partner))
    masks = torch.tensor(digits_model.data.val.masks[[own, partner]])
    assert torch.equal(foreground[0], masks)
    shown = show(setting, *images, digits_model, (0, 1), foreground)
    mixed = cutmix(torch.stack(images), torch.tensor([0, 1]), [(3, 5, 20, 24), (0, 0, 0, 0)])
    expected = RULES["object"]()(mixed, Evidence(foreground=masks)).lam[0].item()
    assert shown.labels["object"] == pytest.approx((expected, 1 - expected), abs=1e-6)
    assert abs(expected - mixed.lam_area[0].item()) > 0.01

    unknown = show(setting, *images, digits_model, (0, 1), digits_model.foreground((own, "a file")))
    assert unknown.reasons["object"] == "it needs masks of the objects, which only the validation images have"


def test_without_classes_the_rule_that_needs_them_says_so(run_model):
    images = [run_model.image(one) for one in run_model.pair(0)]
    shown = show(Setting((0, 0, 9, 16)), *images, run_model)
    assert shown.reasons["progressive"] == (
        "it compares the prediction with the classes of both images, which are not known"
    )
    assert "progressive" not in shown.labels
    assert (
        "no label by progressive here"
        in shares_part(shown, Setting((0, 0, 9, 16), rule="progressive"), run_model, ("A", "B")).lower()
    )


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
    check(setting, *images, page_model)
    shown = show(setting, *map(page_model.image, images), page_model)
    assert "&lt;cat&gt;" in classes_part(shown, page_model.classes)
