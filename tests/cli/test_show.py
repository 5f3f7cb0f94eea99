"""transmix show as a user meets it: every figure of a real run, and one clear line for every mistake."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread
from PIL import Image
from safetensors.torch import load_file, save_file

from transmix import TransMix
from transmix.cli import main
from transmix.cli.show import FIGURES, Show, _scene
from transmix.labels import RULES
from transmix.mixing import Mixer, Row
from transmix.recipes import load_recipe
from transmix.runs.weights import choose_weights
from transmix.training.loop import train
from transmix.visual.boxes import draw_boxes, judge, most_disputed

pytest.importorskip("timm")


@pytest.fixture(scope="module")
def run(images, small_recipe, tmp_path_factory):
    """A run of two epochs on two classes."""
    folder = tmp_path_factory.mktemp("show") / "run"
    train(small_recipe(images, rand_augment=None, random_erasing=0.0), folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two files of 24 x 40 pixels."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(folder / name)
    return [str(folder / name) for name in ("a.png", "b.png")]


def complaint(capsys, *arguments):
    """Run a command that must fail as a usage error, and return its only line."""
    assert main(["show", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("transmix: ")


@pytest.mark.parametrize("what", FIGURES)
def test_every_figure_of_a_run_is_written_at_the_width_asked_for(what, run, tmp_path, capsys):
    out = tmp_path / "figure.png"
    assert main(["show", what, str(run), "--out", str(out), "--width", "3.3", "--dpi", "100", "--boxes", "20"]) == 0
    *weights, written = capsys.readouterr().out.splitlines()
    assert written == f"written to {out}"
    assert weights == ([] if what in ("curves", "epochs") else [f"weights: {choose_weights(run)}"])
    assert imread(out).shape[1] == 330
    assert imread(out)[..., :3].std() > 0.1


def asked(*arguments):
    from transmix.cli.options import parse

    return parse(Show, "show", [*map(str, arguments), "--out", "x.svg"])


def pictures(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images and not axes.axison]


def test_curves_are_the_log_and_epochs_the_examples_of_the_run(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figure = FIGURES["curves"](asked("curves", run))
    shown = {(axes.get_title(loc="left"), line.get_label()): line for axes in figure.axes for line in axes.lines}
    top1 = shown["top-1", "validation, EMA"]
    assert list(top1.get_ydata()) == [row["ema_top1"] for row in rows if row["kind"] == "epoch"]
    assert list(top1.get_xdata()) == [5, 10]
    shift = shown["label shift", "training"]
    assert list(shift.get_ydata()) == [
        row["label_shift"] for row in rows if row["kind"] == "train" and "label_shift" in row
    ]

    figure = FIGURES["epochs"](asked("epochs", run, "--count", 3))
    titles = [text.get_text() for text in figure.texts]
    assert [title for title in titles if title.startswith("epoch")] == ["epoch 1", "epoch 2"] * (
        len(figure.axes) > 8
    ) + (["epoch 1", "epoch 2"])
    kept = load_file(run / "examples" / "epoch-0001.safetensors")
    assert len(pictures(figure)) == 9
    for index in range(3):
        expected = kept["images"][index].numpy().transpose(1, 2, 0) / 255
        assert pictures(figure)[3 * index] == pytest.approx(expected)


def test_the_gallery_shows_the_boxes_that_a_brute_force_ranks_first(run):
    options = asked("gallery", run, "--boxes", 30, "--count", 2, "--seed", 5, "--weights", "model")
    figure, scene = FIGURES["gallery"](options), _scene(options)
    boxes = draw_boxes(30, 8, (16, 16), 5, labels=[0] * 4 + [1] * 4)
    judged = judge(scene.loaded.model, boxes, scene.image, scene.normalise)
    first = boxes[max(range(30), key=lambda one: abs(judged.lam_area[one] - judged.lam_attention[one]))]
    assert boxes[most_disputed(judged, 1)[0]] == first
    assert pictures(figure)[0] == pytest.approx(scene.image(first.own).numpy().transpose(1, 2, 0) / 255)
    assert pictures(figure)[1] == pytest.approx(scene.image(first.partner).numpy().transpose(1, 2, 0) / 255)


class Placed:
    """A method that pastes one box."""

    def __init__(self, box, size):
        self.row = Row(1 - (box[2] - box[0]) * (box[3] - box[1]) / (size[0] * size[1]), box)

    def draw(self, rng, height, width):
        return self.row


def by_the_three_lines(scene, box, rule):
    """Label a pair as a training step does, in evaluation mode."""
    images = scene.normalise(torch.stack([scene.image(box.own), scene.image(box.partner)]))
    classes = torch.tensor([int(scene.split.labels[one]) for one in (box.own, box.partner)])
    tm = TransMix(
        scene.loaded.model,
        mixer=Mixer(methods=[Placed(box.box, (16, 16))]),
        labels=rule,
        smoothing=scene.mixing.smoothing,
    )
    try:
        if tm.reader is not None:
            tm.reader.eval = True
        mixed = tm.mix(images, classes)
        with torch.no_grad():
            mixed = tm.relabel(mixed, logits=scene.loaded.model(mixed.images))
    finally:
        tm.detach()
    theirs = 1 - mixed.lam if mixed.lam_partner is None else mixed.lam_partner
    return (mixed.lam / (mixed.lam + theirs))[0].item()


@pytest.mark.parametrize("rule", RULES)
def test_trained_is_the_label_of_the_runs_own_rule_or_says_why_not(rule, run, photos, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["mixing"] |= {"mix": "cutmix", "labels": rule, "labels_options": {}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    options = asked("pair", folder, "--seed", 4)
    figure, scene = FIGURES["pair"](options), _scene(options)
    words = [text.get_text() for axes in figure.axes for text in axes.texts if axes.axison is False]
    notes = " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
    shown = {name: words[words.index(name) + 1] for name in ("area", "attention", "trained") if name in words}
    if "foreground" in RULES[rule].needs:
        assert f"trained: labels by {rule}, not drawn: " in notes
        assert ("no foreground masks" if rule == "object" else "one pair has no other row") in notes
        assert list(shown) == ["area", "attention"]
        return
    own = by_the_three_lines(scene, draw_boxes(1, 8, (16, 16), 4, labels=[0] * 4 + [1] * 4)[0], RULES[rule]())
    assert shown["trained"] == f"{round(100 * own)}%"
    assert ("trained: 50% attention, 50% area" if rule == "attention" else f"trained: labels by {rule}") in notes
    if rule == "progressive":  # files of somebody have no class
        notes = FIGURES["pair"](asked("pair", folder, "--images", *photos)).texts
        assert "which are not known" in " ".join(text.get_text() for text in notes)


def test_a_reliability_diagram_counts_the_validation_images(run):
    figure = FIGURES["reliability"](asked("reliability", run))
    words = " ".join(text.get_text() for text in figure.texts)
    assert f"{run.name} (EMA)" in words
    assert " 8 images" in words
    assert sum(int(text.get_text()) for text in figure.axes[1].texts) == 8


def test_files_of_any_shape_are_seen_at_the_size_asked_for(run, photos, tmp_path):
    figure = FIGURES["heads"](asked("heads", run, "--images", *photos, "--size", 16, 32, "--layer", 0))
    assert {picture.shape for picture in pictures(figure)} == {(16, 32, 3)}
    assert len(pictures(figure)) == 2 * 4
    figure = FIGURES["pair"](asked("pair", run, "--images", *photos, "--size", 16, 32, "--box", 2, 4, 10, 20))
    mask = np.zeros((16, 32))
    mask[2:10, 4:20] = 1
    own, partner, shown, mixed, _ = pictures(figure)
    assert np.array_equal(shown, mask)
    assert mixed == pytest.approx(np.where(mask[..., None] > 0, partner, own))
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [words[0], words[1], words[3], words[4]] == ["A: a.png", "B: b.png", "75%", "25%"]


def test_weights_of_timm_are_named_on_the_command_line(photos, tmp_path, capsys, images):
    import timm

    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    weights = timm.create_model("test_vit", num_classes=2).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    command = [
        "show",
        "rollout",
        str(path),
        "--model",
        "test_vit",
        "--images",
        *photos,
        "--out",
        str(tmp_path / "x.svg"),
    ]
    assert main(command) == 0
    assert "a.png" in (tmp_path / "x.svg").read_text()
    capsys.readouterr()
    assert complaint(capsys, "heads", path, "--images", *photos, "--out", tmp_path / "x.svg") == (
        f"{path} does not say which model it holds; name it: --model vit_small_patch16_224"
    )
    assert complaint(capsys, "heads", path, "--model", "test_vit", "--out", tmp_path / "x.svg") == (
        f"{path} comes without data; give --images FILE ..., or a data set: --data"
    )
    with_data = FIGURES["sheet"](asked("sheet", path, "--model", "test_vit", "--data", images, "--count", 2))
    assert pictures(with_data)[0].shape == (160, 160, 3)


def test_a_run_that_is_not_there_is_named(tmp_path, capsys):
    missing = tmp_path / "none"
    for what in FIGURES:
        line = complaint(capsys, what, missing, "--out", tmp_path / "x.png")
        assert line == f"{missing}: no such run folder"
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["heads", "RUN", "--layer", 7],
            "the model has 2 layers that attend over the whole image, 0 to 1; there is no 7",
        ),
        (["maps", "RUN"], "invalid choice 'maps' for argument"),
        (["pair", "RUN", "--box", 0, 0, 99, 9], "does not lie in an image of height 16 and width 16"),
        (["sheet", "RUN", "--count", 0], "count must be at least 1, not 0"),
        (["sheet", "RUN", "--width", 0.5], "width must be at least 2, not 0.5"),
        (
            ["heads", "RUN", "--size", 16, 20],
            "image_size 20 is not a multiple of the model's patch of 8 pixels; use 16 or 24",
        ),
        (
            ["heads", "vit_tiny_patch16_223"],
            "timm has no model 'vit_tiny_patch16_223'; did you mean vit_tiny_patch16_224?",
        ),
    ],
)
def test_mistakes_get_one_clear_line_and_no_file(arguments, words, run, tmp_path, capsys):
    arguments = [str(run) if word == "RUN" else word for word in arguments]
    assert words in complaint(capsys, *arguments, "--out", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_a_file_that_cannot_be_written_is_named_before_anything_is_computed(run, tmp_path, capsys):
    assert complaint(capsys, "pair", run, "--out", tmp_path / "x.pdf") == (
        f"a figure is saved as .png or .svg, got '{tmp_path / 'x.pdf'}'"
    )
    assert complaint(capsys, "pair", run, "--out", tmp_path / "no" / "x.png") == (
        f"cannot write {tmp_path / 'no' / 'x.png'}: no folder {tmp_path / 'no'}; make it first"
    )


def test_an_image_that_cannot_be_decoded_is_named(run, photos, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    assert complaint(capsys, "heads", run, "--images", photos[0], broken, "--out", tmp_path / "x.png") == (
        f"{broken}: cannot read the image (not an image, or of a kind that is not read); replace or remove it"
    )
    assert complaint(capsys, "pair", run, "--images", photos[0], "--out", tmp_path / "x.png") == (
        f"pair of {run}: a pair needs two images, got 1"
    )


def test_a_model_without_readable_attention_is_told_the_remedy(images, small_recipe, tmp_path, capsys):
    run = tmp_path / "run"
    options = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2, "global_pool": "avg"}
    recipe = small_recipe(images, rand_augment=None, model_options=options, mix="cutmix", max_steps=1)
    train(recipe, run)
    for what in ("heads", "layers", "rollout", "pair"):
        assert complaint(capsys, what, run, "--out", tmp_path / "x.png") == (
            "VisionTransformer averages its class token away or leaves it unused (global_pool='avg'): its attention "
            "does not belong to the prediction. Create the model with global_pool='token', or put a "
            "class-attention head in place of its pooling: transmix.attention.with_class_attention(model)"
        )
    assert complaint(capsys, "epochs", run, "--out", tmp_path / "x.png") == (
        f"{run} has no attention maps: the attention of its model cannot be read. Train one with a class token, or "
        f"give it a class-attention head: --class-attention"
    )
    shutil.rmtree(run / "examples")
    assert complaint(capsys, "epochs", run, "--out", tmp_path / "x.png") == (
        f"{run} has no validation images (examples/); they are written when an epoch is evaluated"
    )
    assert main(["show", "reliability", str(run), "--out", str(tmp_path / "x.png")]) == 0


def test_a_gallery_of_a_model_that_is_not_finite_is_refused(run, tmp_path, capsys):
    broken = tmp_path / "run.safetensors"
    weights = load_file(run / "model.safetensors")
    from safetensors import safe_open

    with safe_open(run / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file({name: tensor * torch.nan for name, tensor in weights.items()}, broken, metadata)
    data = load_recipe(str(run / "recipe.yaml")).data.data
    assert complaint(capsys, "heads", broken, "--data", data, "--out", tmp_path / "x.png") == (
        f"heads of {broken}: attention must be finite and not negative"
    )
    assert complaint(capsys, "reliability", broken, "--data", data, "--out", tmp_path / "x.png") == (
        f"reliability of {broken}: 8 of 8 predictions are not finite; they have no confidence to sort by"
    )
