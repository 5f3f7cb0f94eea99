"""The grey range of a run: printed, kept, and the same in resuming, evaluating, exporting, showing and the page."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transmix.cli import main
from transmix.cli.options import parse
from transmix.cli.train import Train
from transmix.data.augment import EvaluationCrop
from transmix.data.dataset import DataError
from transmix.data.grey import EACH_IMAGE
from transmix.evaluation.evaluate import prepare, score
from transmix.models.build import normaliser
from transmix.models.loaded import load_model, load_with_data
from transmix.recipes import RecipeError, dump_recipe, load_recipe
from transmix.runs.error import RunError
from transmix.runs.folder import read_grey_range
from transmix.training import checkpoint_state
from transmix.training.loop import train

LOW, HIGH = 800.0, 1500.0


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two classes of 12 bits in 16-bit files, dark and light; the held-out images leave the range of the others."""
    root, rng = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for centre, name in ((1000, "dark"), (1300, "light")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                values = rng.normal(centre, 60, (20, 16)).clip(801, 1499)
                values[0, 0], values[0, 1] = (LOW, HIGH) if split == "train" else (500, 3000)
                Image.fromarray(values.astype(np.uint16)).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def run(scans, small_recipe, tmp_path_factory):
    """A finished run: its folder, its recipe, its summary."""
    folder, recipe = tmp_path_factory.mktemp("grey") / "run", small_recipe(scans, epochs=1)
    return folder, recipe, train(recipe, folder)


def by_hand(path):
    """What evaluation sees of an image: scaled by the range of the training images, then cropped."""
    stored = np.asarray(Image.open(path)).astype(np.float64)
    grey = np.rint(255 * ((stored - LOW) / (HIGH - LOW)).clip(0, 1)).astype(np.uint8)
    return EvaluationCrop(16, 1.0)(np.repeat(grey[..., None], 3, axis=2))


def test_the_range_is_said_and_kept(scans, small_recipe, tmp_path, capsys):
    train(small_recipe(scans, max_steps=1), tmp_path / "run")
    said = capsys.readouterr().out.splitlines()
    at = said.index("grey range 800 to 1500, found over 16 training images of more than 8 bits (--grey-range sets it)")
    assert said[at + 1] == (
        "6 of 6 images to evaluate on leave the grey range 800 to 1500: their values 500 to 3000 are clipped to it"
    )
    assert json.loads((tmp_path / "run" / "grey_range.json").read_text()) == [LOW, HIGH]


def test_evaluation_uses_the_range_of_the_run_on_any_data(run, scans, tmp_path, capsys):
    folder, _, summary = run
    models, data = load_with_data(folder)
    scores = score(prepare(models, workers=0), data)
    assert scores["ema"]["loss"] == pytest.approx(summary["last"]["ema_val_loss"], abs=1e-6)
    other = tmp_path / "other"
    for split in ("train", "val"):
        for name in ("dark", "light"):
            (other / split / name).mkdir(parents=True)
            Image.open(scans / "val" / name / "0.png").save(other / split / name / "0.png")
    for target in (folder, folder / "model.safetensors"):
        _, data = load_with_data(target, str(other))
        assert data.grey == (LOW, HIGH)
        shown = EvaluationCrop(16, 1.0)(data.val.images[0])
        assert shown.equal(by_hand(scans / "val" / "dark" / "0.png"))
    assert load_with_data(folder, str(other), grey_range=(0.0, 4095.0))[1].grey == (0.0, 4095.0)
    assert main(["evaluate", str(folder), "--workers", "0", "--out", str(tmp_path / "scores.json")]) in (None, 0)
    assert "6 of 6 images to evaluate on leave the grey range 800 to 1500" in capsys.readouterr().out


def test_images_of_a_suite_have_the_range_too(run, scans, monkeypatch):
    from transmix.evaluation.shifts import open_shifted

    folder, _, _ = run
    evaluator = prepare(load_with_data(folder)[0], device="cpu", workers=0)[0]
    shifted = open_shifted(scans / "val", evaluator.classes, {}).read()
    images, _, _ = next(evaluator.load(shifted))
    assert images[0].equal(by_hand(scans / "val" / "dark" / "0.png"))


def test_figures_and_the_page_use_the_range(run, scans):
    folder, _, _ = run
    (loaded,), data = load_with_data(folder, weights="auto")
    expected = by_hand(scans / "val" / "dark" / "0.png")
    assert loaded.preprocessing.crop(data.val.image(0)).equal(expected)
    for target in (folder, folder / "ema.safetensors"):
        seen = load_model(target).preprocessing
        assert seen.grey == (LOW, HIGH)
        assert seen.read(scans / "val" / "dark" / "0.png").equal(expected)
        assert load_model(target, grey_range=(1.0, 2.0)).preprocessing.grey == (1.0, 2.0)


def test_the_export_keeps_the_range_and_the_code_on_its_card_scales_by_it(run, scans, tmp_path, monkeypatch, capsys):
    folder, _, _ = run
    out = tmp_path / "export"
    main(["export", str(folder), "--out", str(out)])
    assert json.loads((out / "config.json").read_text())["grey_range"] == [LOW, HIGH]
    model = load_model(out).model
    assert load_model(out).preprocessing.grey == (LOW, HIGH)
    assert model.pretrained_cfg["grey_range"] == [LOW, HIGH]
    card = (out / "README.md").read_text()
    assert "800.0 is black and 1500.0 white" in card
    (out / "image.jpg").write_bytes((scans / "val" / "light" / "0.png").read_bytes())
    pixels = by_hand(out / "image.jpg")[None]
    normalise = normaliser(model.pretrained_cfg["mean"], model.pretrained_cfg["std"], torch.device("cpu"), False)
    with torch.inference_mode():
        expected = model(normalise(pixels)).softmax(1)[0]
    monkeypatch.chdir(out)
    codes = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), flags=re.DOTALL)
    capsys.readouterr()
    for code in codes:
        exec(compile(code, "README.md", "exec"), {})
        label, probability = capsys.readouterr().out.split()
        assert label == ["dark", "light"][int(expected.argmax())]
        assert float(probability) == pytest.approx(float(expected.max()), abs=1e-5)
    assert len(codes) == 2


def test_a_resumed_run_keeps_its_range_although_the_images_have_changed(scans, small_recipe, tmp_path):
    import shutil

    root, recipe = tmp_path / "scans", small_recipe(scans, epochs=1)
    shutil.copytree(scans, root)
    train(replace(recipe, run=replace(recipe.run, max_steps=1)), tmp_path / "run")
    Image.fromarray(np.full((20, 16), 60_000, np.uint16)).save(root / "train" / "dark" / "0.png")
    moved = replace(recipe, data=replace(recipe.data, data=str(root)))
    assert train(moved, tmp_path / "run", resume=True)["finished"]
    assert read_grey_range(tmp_path / "run") == (LOW, HIGH)
    with pytest.raises(RunError, match=r"grey_range: None -> \(0.0, 5000.0\)"):
        train(replace(moved, data=replace(moved.data, grey_range=(0.0, 5000.0))), tmp_path / "run", resume=True)


def test_a_run_from_before_goes_on_and_is_evaluated_as_it_was_trained(scans, small_recipe, tmp_path, monkeypatch):
    from transmix.data import source

    recipe, folder = small_recipe(scans, epochs=1), tmp_path / "run"
    scale, about = source.scale_grey, checkpoint_state.weights_metadata

    def metadata_of_before(one):
        known = json.loads(about(one)["transmix"])
        del known["grey_range"]
        return {"transmix": json.dumps(known)}

    with monkeypatch.context() as before:
        before.setattr(source, "scale_grey", lambda data, _: scale(data, EACH_IMAGE))
        before.setattr(checkpoint_state, "weights_metadata", metadata_of_before)
        train(replace(recipe, run=replace(recipe.run, max_steps=1)), folder)
        (folder / "grey_range.json").unlink()
    assert read_grey_range(folder) == EACH_IMAGE
    _, data = load_with_data(folder)
    stored = np.asarray(Image.open(scans / "val" / "dark" / "0.png"))
    np.testing.assert_array_equal(data.val.images[0][..., 0], stored >> 8)
    assert load_model(folder).preprocessing.grey == EACH_IMAGE
    assert train(recipe, folder, resume=True)["finished"]
    assert read_grey_range(folder) == EACH_IMAGE


def test_a_run_without_deep_grey_refuses_it_later_and_nothing_is_written_for_data_that_is_refused(
    images, scans, small_recipe, tmp_path
):
    folder = tmp_path / "run"
    train(small_recipe(images, max_steps=1), folder)
    assert read_grey_range(folder) is None
    with pytest.raises(
        DataError, match=r"6 of 6 images to evaluate on are grey of more than 8 bits, the first is .*: --"
    ):
        load_with_data(folder, str(scans))
    out = tmp_path / "refused"
    with pytest.raises(DataError, match="leaves fewer than 8 of 256 levels"):
        train(small_recipe(scans, grey_range=(0.0, 1e9)), out)
    assert not out.exists()


@pytest.mark.parametrize("words", [["-1000", "400.5"], ["None"]])
def test_the_command_line_takes_negative_numbers_and_the_recipe_keeps_them(words, tmp_path):
    parsed = parse(Train, "train", ["--out", "x", "--grey-range", *words], Train(out=Path("x")))
    expected = (-1000.0, 400.5) if len(words) == 2 else None
    assert parsed.settings.data.grey_range == expected
    (tmp_path / "recipe.yaml").write_text(dump_recipe(parsed.settings))
    assert load_recipe(str(tmp_path / "recipe.yaml")).data.grey_range == expected


@pytest.mark.parametrize("wrong", [(5.0, 5.0), (6.0, 5.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_a_range_that_is_none_is_refused_first(wrong, small_recipe, tmp_path):
    message = rf"^grey_range needs two numbers, black below white, not {wrong[0]:g} {wrong[1]:g}$"
    with pytest.raises(RecipeError, match=message):
        train(small_recipe("digits", grey_range=wrong), tmp_path / "run")
    with pytest.raises(RecipeError, match=message):
        load_model("no_such_model", grey_range=wrong)
    assert not (tmp_path / "run").exists()
