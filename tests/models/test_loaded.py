"""Every kind of target gives the logits, classes and preprocessing of a model built by hand with timm."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from transmix.cli import main
from transmix.data.augment import EvaluationCrop
from transmix.data.dataset import DataError
from transmix.models.loaded import Preprocessing, load_model, load_with_data
from transmix.recipes import RecipeError
from transmix.runs.checkpoint import CheckpointError
from transmix.runs.error import RunError
from transmix.runs.folder import read_best_step
from transmix.training.loop import train

OPTIONS = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def run(images, small_recipe, tmp_path_factory):
    """A run with two sets of weights and no default in its preprocessing."""
    folder = tmp_path_factory.mktemp("loaded") / "run"
    train(small_recipe(images, eval_crop=0.8, mean=MEAN, std=STD, lr=2e-3, model_options=OPTIONS), folder)
    assert main(["export", str(folder)]) == 0
    return folder


def by_hand(file, **options):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=16, **OPTIONS, **options)
    model.load_state_dict(load_file(file))
    return model.eval()


def checkpoint(run, step, name="ema"):
    return run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors"


OF_THE_RUN = {
    "auto": ({}, lambda run: checkpoint(run, 10), "EMA of step 10 (last checkpoint): the run kept an EMA (EMA top-1 "),
    "ema": ({"weights": "ema"}, lambda run: checkpoint(run, 10), "EMA of step 10 (last checkpoint): asked for with"),
    "model": (
        {"weights": "model"},
        lambda run: checkpoint(run, 10, "model"),
        "model of step 10 (last checkpoint): asked for with --weights model",
    ),
    "best": ({"checkpoint": "best"}, lambda run: checkpoint(run, read_best_step(run)), "EMA of step "),
    "file": ({}, lambda run: run / "model.safetensors", "from "),
    "export": ({}, lambda run: run / "export" / "model.safetensors", "from "),
    "file of an export": ({}, lambda run: run / "export" / "model.safetensors", "from "),
}
"""Options, the file that holds the weights, and how the words about them begin."""


@pytest.mark.parametrize("kind", OF_THE_RUN)
def test_what_a_run_trained_is_the_same_model_wherever_it_lies(kind, run, tmp_path):
    options, file, words = OF_THE_RUN[kind]
    targets = {"file": run / "model.safetensors", "export": run / "export"}
    loaded = load_model(targets.get(kind, file(run) if kind == "file of an export" else run), **options)
    pixels = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert loaded.model(pixels).equal(by_hand(file(run))(pixels))
        other = checkpoint(run, 10, "ema" if kind in ("model", "file") else "model")
        assert not loaded.model(pixels).equal(by_hand(other)(pixels))
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.classes == ("dark", "light")
    assert loaded.preprocessing == Preprocessing(16, 0.8, MEAN, STD, None)
    assert loaded.weights.startswith(words)
    assert (loaded.recipe is not None) == (loaded.chosen is not None) == (kind in ("auto", "ema", "model", "best"))
    assert loaded.name == ("ema" if kind in ("auto", "ema", "best") else "model")
    if "export" in kind:
        assert loaded.weights.endswith(f": {load_model(run).weights}")


def test_an_image_becomes_the_input_that_numpy_makes(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    seen = load_model(run).preprocessing
    cropped = seen.read(tmp_path / "one.png")
    assert cropped.equal(EvaluationCrop(16, 0.8)(pixels))
    expected = (cropped.numpy() / 255 - np.float32(MEAN)[:, None, None]) / np.float32(STD)[:, None, None]
    np.testing.assert_allclose(seen.normaliser("cpu")(cropped[None])[0], expected, rtol=1e-5, atol=1e-6)


def test_scores_are_those_that_the_run_logged_for_these_weights(run):
    last = json.loads((run / "summary.json").read_text())["last"]
    for name, prefix in (("model", ""), ("ema", "ema_")):
        scores = load_model(run, weights=name).chosen.scores
        assert scores == {"epoch": 2} | {
            one: last[prefix + one] for one in ("top1", "top5", "val_loss", "calibration_error")
        }


def test_with_data_every_set_of_weights_comes_or_the_one_asked_for(run, images):
    models, data = load_with_data(run)
    assert [one.name for one in models] == ["model", "ema"]
    assert data.classes == ("dark", "light")
    assert len(data.val) == 8
    (one,), _ = load_with_data(run, weights="model")
    assert one.name == "model"
    (exported,), other = load_with_data(run / "export", str(images))
    assert (exported.classes, other.classes) == (("dark", "light"),) * 2


def test_an_export_is_evaluated_and_shown_like_its_run(run, images, tmp_path, capsys):
    capsys.readouterr()
    out = tmp_path / "scores.json"
    assert main(["evaluate", str(run / "export"), "--data", str(images), "--workers", "0", "--out", str(out)]) == 0
    taken = f"from {run / 'export'}: {load_model(run).weights}"
    assert capsys.readouterr().out.splitlines()[0] == f"weights: {taken}"
    found = json.loads(out.read_text())
    assert found["weights"] == taken
    assert not (run / "export" / "evaluation.json").exists()
    assert main(["evaluate", str(run), "--workers", "0"]) == 0
    assert found["scores"]["model"] == json.loads((run / "evaluation.json").read_text())["scores"]["ema"]
    capsys.readouterr()
    command = ["show", "heads", str(run / "export"), "--data", str(images), "--out", str(tmp_path / "heads.png")]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"weights: {taken}"


@pytest.fixture
def foreign(tmp_path):
    """A weights file that does not say which model it holds."""
    torch.manual_seed(1)
    save_file(timm.create_model("test_vit", num_classes=2).state_dict(), tmp_path / "foreign.safetensors")
    return tmp_path / "foreign.safetensors"


def test_a_foreign_file_is_the_model_that_is_named(foreign, images):
    loaded = load_model(foreign, model="test_vit")
    model = timm.create_model("test_vit", num_classes=2)
    model.load_state_dict(load_file(foreign))
    pixels = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        assert loaded.model(pixels).equal(model.eval()(pixels))
    config = model.pretrained_cfg
    expected = Preprocessing(160, config["crop_pct"], tuple(config["mean"]), tuple(config["std"]))
    assert loaded.preprocessing == expected
    assert (loaded.classes, loaded.weights) == (None, f"from {foreign}")
    (named,), _ = load_with_data(foreign, str(images), model="test_vit")
    assert named.classes == ("dark", "light")


@pytest.mark.parametrize("offline", [True, False])
def test_published_weights_are_taken_from_the_cache(offline, tmp_path, monkeypatch):
    torch.manual_seed(2)
    other = timm.create_model("deit_tiny_patch16_224").eval()
    file = tmp_path / "model.safetensors"
    save_file(other.state_dict(), file)
    monkeypatch.setattr("transmix.models.build.try_to_load_from_cache", lambda *_, **__: str(file))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: load_file(file))
    loaded = load_model("deit_tiny_patch16_224", offline=offline)
    with torch.inference_mode():
        pixels = torch.randn(1, 3, 224, 224)
        assert loaded.model(pixels).equal(other(pixels))
    assert loaded.weights == "the published weights of deit_tiny_patch16_224"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert loaded.preprocessing == Preprocessing(224, 0.9, mean, std)
    assert loaded.classes is None


def test_offline_without_a_cache_weights_are_random_the_same_every_time_and_the_generator_is_left_alone(monkeypatch):
    monkeypatch.setattr("transmix.models.build.try_to_load_from_cache", lambda *_, **__: None)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    loaded = load_model("deit_tiny_patch16_224", offline=True)
    assert torch.rand(2).equal(expected)
    assert loaded.weights == "random"
    torch.manual_seed(0)
    for name, weight in timm.create_model("deit_tiny_patch16_224").state_dict().items():
        assert loaded.model.state_dict()[name].equal(weight)


def test_a_model_is_resized_and_its_crop_with_it(run):
    loaded = load_model(run).resized((16, 32))
    assert loaded.preprocessing.height_width == (16, 32)
    assert loaded.preprocessing.crop(np.zeros((40, 40, 3), np.uint8)).shape == (3, 16, 32)
    assert loaded.model(torch.zeros(1, 3, 16, 32)).shape == (1, 2)
    with pytest.raises(RecipeError, match=r"^image_size 20 is not a multiple of the model's patch of 8 pixels"):
        loaded.resized((16, 20))


def test_folders_that_hold_no_model_are_named(run, tmp_path, says):
    empty = tmp_path / "empty"
    empty.mkdir()
    for load in (load_model, load_with_data):
        with says(RunError, f"{empty} is neither a run (no recipe.yaml) nor exported for timm (no config.json)"):
            load(empty)
        with says(RunError, f"{tmp_path / 'absent'}: no such run folder"):
            load(tmp_path / "absent")
    (empty / "recipe.yaml").touch()
    with says(RunError, f"{empty} holds no whole checkpoint."):
        load_model(empty)
    with says(RecipeError, f"{run / 'export'} comes without data; give a data set: --data"):
        load_with_data(run / "export")


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda folder: (folder / "config.json").write_text("{}"), RunError, "writes: config.json: KeyError('pretrain"),
        (lambda folder: (folder / "model.safetensors").unlink(), CheckpointError, "cannot read "),
        (
            lambda folder: save_file({"head.bias": torch.ones(2)}, folder / "model.safetensors"),
            RecipeError,
            "changed do not fit its config.json: Error(s) in loading state_dict",
        ),
    ],
)
def test_an_export_whose_files_do_not_fit_is_refused(change, kind, words, run, tmp_path):
    folder = shutil.copytree(run / "export", tmp_path / "changed")
    change(folder)
    with pytest.raises(kind) as error:
        load_model(folder)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_files_and_names_that_do_not_fit_are_refused(run, foreign, images, tmp_path):
    def refused(message, *target, **options):
        load = load_with_data if len(target) == 2 else load_model
        with pytest.raises((RecipeError, DataError)) as error:
            load(*target, **options)
        assert str(error.value).startswith(message)

    refused(f"{foreign} does not say which model it holds; name it: --model vit_small_patch16_224", foreign)
    refused("timm has no model 'test_vitt'; did you mean test_vit", foreign, model="test_vitt")
    refused("timm has no model 'deit_tiny_patch16_225'", "deit_tiny_patch16_225")
    refused(f"{images.name}: the run has no class ", mislabelled(run, tmp_path), str(images))
    about, broken = {"transmix": '{"model": "test_vit"}'}, tmp_path / "broken.safetensors"
    save_file({"head.bias": torch.ones(2)}, broken, about)
    refused(f"{broken} does not say which model it holds in JSON: KeyError('model_options')", broken)
    save_file({"head.bias": torch.ones(2)}, broken, load_model(run).metadata)
    refused(f"{broken} does not fit vit_tiny_patch16_224: Error(s) in loading", broken)


def mislabelled(run, tmp_path):
    """The run's weights for classes that the data does not have."""
    about = json.loads(load_model(run).metadata["transmix"]) | {"classes": ["ant", "bee"]}
    weights = load_file(run / "model.safetensors")
    save_file(weights, tmp_path / "other.safetensors", {"transmix": json.dumps(about)})
    return tmp_path / "other.safetensors"


def test_an_onnx_export_is_refused_with_the_export_that_is_read(tmp_path, says):
    (tmp_path / "model.onnx").touch()
    for target in (tmp_path, tmp_path / "model.onnx", "model.onnx"):
        remedy = "give the run itself, or its export for timm: transmix export RUN --format timm"
        with says(RunError, f"{target}: an ONNX export, which is for onnxruntime and not read here; {remedy}"):
            load_model(target)
    (tmp_path / "config.json").write_text("{}")  # beside the export for timm, it is this that is read
    with pytest.raises(RunError, match="is not what transmix export --format timm writes"):
        load_model(tmp_path)


def test_preprocessing_of_another_size_is_not_equal():
    one = Preprocessing(16, 0.8, MEAN, STD)
    assert one.height_width == (16, 16)
    assert replace(one, size=(16, 24)).height_width == (16, 24)
    assert replace(one, grey=(1.0, 2.0)).as_json() == {"grey_range": [1.0, 2.0]} | one.as_json()
    assert one.as_json() == {
        "image_size": 16,
        "resize": 20,
        "crop_pct": 0.8,
        "interpolation": "bicubic",
        "mean": list(MEAN),
        "std": list(STD),
    }
