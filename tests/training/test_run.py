"""A run as a whole: what it leaves behind, what it refuses, and that what it says is so."""

import csv
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from transmix.cli import train as cli_train
from transmix.evaluation.evaluate import prepare, score
from transmix.models.loaded import load_with_data
from transmix.recipes import RecipeError, load_recipe, resolved
from transmix.report.run import write_report
from transmix.runs.folder import RunError
from transmix.training import loop
from transmix.training.loop import finish, train
from transmix.training.step import NotFiniteError
from transmix.training.stopping import Watch


@pytest.fixture(scope="module")
def finished(images, small_recipe, tmp_path_factory):
    """A finished run: its folder, its recipe and its summary."""
    folder, recipe = tmp_path_factory.mktemp("finished") / "run", small_recipe(images)
    return folder, recipe, train(recipe, folder, at_end=write_report)


def test_a_run_leaves_everything_that_its_folder_promises(finished):
    folder, recipe, summary = finished
    left = {path.name for path in folder.iterdir()}
    assert left == {
        "recipe.yaml",
        "classes.json",
        "data.json",
        "grey_range.json",
        "environment.json",
        "metrics.jsonl",
        "metrics.csv",
        "first_boxes.png",
        "last_boxes.png",
        "examples",
        "checkpoints",
        "model.safetensors",
        "ema.safetensors",
        "confusion.csv",
        "reliability.json",
        "summary.json",
        "report.html",
    }
    assert load_recipe(str(folder / "recipe.yaml")) == resolved(recipe)
    assert json.loads((folder / "classes.json").read_text()) == ["dark", "light"]
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"] == torch.__version__.split("+")[0]
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["step"] == 10
    assert summary["finished"] is True
    assert Image.open(folder / "first_boxes.png").size[0] > 1000


def test_the_log_has_every_read_and_every_epoch_and_the_csv_agrees(finished):
    folder, _, summary = finished
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [2, 4, 5, 6, 8, 10]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [row["step"] for row in epochs] == [5, 10]
    assert summary["last"] == epochs[-1]
    with (folder / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in table] == [row["loss"] for row in epochs]
    assert all(0 <= row["label_shift"] <= 1 and 0 <= row["empty_boxes"] <= 1 for row in epochs if "label_shift" in row)
    assert any("label_shift" in row for row in epochs)


@pytest.mark.parametrize(("start", "mixed"), [(0, [True, True]), (1, [False, True])])
def test_mixing_begins_after_the_epochs_of_mix_start(images, small_recipe, tmp_path, start, mixed):
    boxes = {"mixup_alpha": 0.0, "prob": 1.0}
    train(small_recipe(images, mix_start=start, **boxes), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ["label_shift" in row for row in rows if row["kind"] == "epoch"] == mixed


def test_an_epochs_loss_is_the_mean_over_its_steps(finished):
    folder, _, _ = finished
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first = {row["step"]: row["loss"] for row in rows if row["kind"] == "train" and row["epoch"] == 1}
    epoch = next(row for row in rows if row["kind"] == "epoch")
    assert epoch["loss"] == pytest.approx((2 * first[2] + 2 * first[4] + 1 * first[5]) / 5)


def test_examples_hold_attention_and_logits_of_the_same_validation_images(finished):
    folder, _, _ = finished
    first, second = (load_file(folder / "examples" / f"epoch-000{epoch}.safetensors") for epoch in (1, 2))
    assert first["images"].equal(second["images"])
    assert first["images"].shape == (8, 3, 16, 16)
    assert first["logits"].shape == (8, 2)
    assert first["attention"].shape == (8, 4)
    assert first["grid"].tolist() == [2, 2]
    assert not first["logits"].equal(second["logits"])


def test_the_confusion_matrix_counts_every_validation_image(finished):
    folder, _, summary = finished
    with (folder / "confusion.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == ["dark", "light"]
    counts = [[int(cell) for cell in row[1:]] for row in rows[1:]]
    assert [sum(row) for row in counts] == [4, 4]
    assert (counts[0][0] + counts[1][1]) / 8 == summary["last"]["ema_top1"]


def scores_of(target, data=None, **options):
    models, data = load_with_data(target, data, **options)
    return score(prepare(models, workers=0), data)


def test_evaluating_a_run_gives_the_scores_that_training_logged(finished):
    folder, _, summary = finished
    scores = scores_of(folder)
    assert scores["model"]["top1"] == summary["last"]["top1"]
    assert scores["ema"]["top1"] == summary["last"]["ema_top1"]
    assert scores["model"]["loss"] == pytest.approx(summary["last"]["val_loss"], abs=1e-6)


def test_a_weights_file_of_a_run_can_be_evaluated_by_itself(finished, images):
    folder, _, summary = finished
    scores = scores_of(folder / "ema.safetensors", str(images))
    assert scores["model"]["top1"] == summary["last"]["ema_top1"]


def test_the_best_checkpoint_is_the_one_with_the_best_score(finished):
    folder, _, summary = finished
    assert summary["best"]["score"] == max(
        json.loads(line)["ema_top1"]
        for line in (folder / "metrics.jsonl").read_text().splitlines()
        if json.loads(line)["kind"] == "epoch"
    )
    best = scores_of(folder, checkpoint="best")
    assert best["ema"]["top1"] == summary["best"]["score"]


def test_an_existing_run_is_refused_and_left_as_it_is(finished, images, small_recipe):
    folder, recipe, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(RunError, match="exists already; give --resume to continue that run, or another --out"):
        train(recipe, folder)
    with pytest.raises(RunError, match=r"was trained with other settings: lr: 0.001 -> 0.1. Resume with the same ones"):
        train(small_recipe(images, lr=0.1), folder, resume=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_resuming_a_finished_run_says_so_and_does_nothing(finished, capsys):
    folder, recipe, summary = finished
    assert train(recipe, folder, resume=True) == summary
    assert "is finished already" in capsys.readouterr().out


def test_a_folder_with_other_files_is_not_taken_for_a_run(images, small_recipe, tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(RunError, match="exists already"):
        train(small_recipe(images), tmp_path)
    with pytest.raises(RunError, match=r"holds files but no run \(recipe.yaml\); give another --out"):
        train(small_recipe(images), tmp_path, resume=True)


def test_a_run_that_stopped_at_max_steps_goes_on_without_it(images, small_recipe, tmp_path):
    assert train(small_recipe(images, max_steps=3), tmp_path / "run")["finished"] is False
    summary = train(small_recipe(images), tmp_path / "run", resume=True)
    assert (summary["step"], summary["finished"]) == (10, True)


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix", "mixup+cutmix"])
def test_the_baselines_train_without_reading_attention(mix, images, small_recipe, tmp_path, monkeypatch):
    from transmix.attention import AttentionReader

    taken = []
    take = AttentionReader.take
    monkeypatch.setattr(AttentionReader, "take", lambda reader, *args: taken.append(reader.eval) or take(reader, *args))
    train(small_recipe(images, mix=mix, max_steps=3, rand_augment=None), tmp_path / "run")
    assert all(taken)  # only the examples look, in eval mode


def test_training_is_the_same_on_every_run_with_one_seed_and_another_with_another(images, small_recipe, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(small_recipe(images, seed=seed, max_steps=3), tmp_path / name)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(a[name].equal(b[name]) for name in a)
    assert not all(a[name].equal(c[name]) for name in a)


def test_a_model_without_class_attention_trains_with_cutmix_and_is_refused_with_transmix(
    images, small_recipe, tmp_path
):
    from transmix import AttentionError

    options = {"model": "resnet18", "model_options": {}, "drop_path": 0.0, "image_size": 32}
    with pytest.raises(AttentionError, match="ResNet is not a model whose class attention is known"):
        train(small_recipe(images, **options), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    train(small_recipe(images, **options, mix="cutmix", max_steps=1), tmp_path / "run")
    assert "attention" not in load_file(tmp_path / "run" / "examples" / "epoch-0001.safetensors")


def test_accumulated_micro_batches_give_the_same_weights_as_one_batch(images, small_recipe, tmp_path):
    plain = {"mix": "none", "drop_path": 0.0, "max_steps": 3, "ema_decay": None, "clip_grad": None}
    options = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    for name, accumulate in (("whole", 1), ("parts", 4)):
        recipe = small_recipe(images, **plain, model_options=options, accumulate=accumulate)
        train(recipe, tmp_path / name)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    # AdamW's first steps follow the sign of the gradient, so weights with a gradient near 0 may differ more.
    close = [torch.isclose(whole[name], parts[name], atol=1e-5).float().mean() for name in whole]
    assert min(close) > 0.97


def test_a_step_that_is_not_finite_is_held_back_and_stops_the_run(images, small_recipe, tmp_path):
    from transmix import distributed

    world = distributed.start("cpu")
    run = loop.prepare(small_recipe(images), tmp_path / "run", world, None)
    before = {name: tensor.clone() for name, tensor in run.bare.state_dict().items()}
    average = {name: tensor.clone() for name, tensor in run.average.model.state_dict().items()}
    normalise = run.step.normalise
    run.step.normalise = lambda batch: normalise(batch) * float("nan")
    with pytest.raises(
        NotFiniteError,
        match=r"not finite at step 1 \(epoch 1; training images .*\.png, .* and 5 more\); it was skipped\. transmix",
    ):
        finish(run, Watch(world))
    assert all(tensor.equal(before[name]) for name, tensor in run.bare.state_dict().items())
    assert all(tensor.equal(average[name]) for name, tensor in run.average.model.state_dict().items())


def test_tensorboard_that_is_not_installed_is_said_before_anything_is_written(
    images, small_recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr("transmix.training.loop.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"tensorboard is not installed: pip install 'transmix\[tensorboard\]'"):
        train(small_recipe(images, tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_starting_from_a_weights_file_takes_all_but_the_head(finished, images, small_recipe, tmp_path):
    from transmix.models.build import build_model

    folder = finished[0]
    weights = load_file(folder / "model.safetensors")
    settings = small_recipe(images, init=str(folder / "model.safetensors")).model
    same = build_model(settings, 2, 16).state_dict()
    assert all(same[name].equal(weights[name]) for name in weights)
    other = build_model(settings, 3, 32).state_dict()
    assert other["head.weight"].shape == (3, 24)
    assert other["pos_embed"].shape == (1, 17, 24)  # resized from 2 x 2 patches to 4 x 4
    assert other["blocks.0.attn.qkv.weight"].equal(weights["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("settings", [{"init": "vit_tiny_patch16_224"}, {"pretrained": True}])
def test_published_weights_are_taken_with_a_new_head_and_a_resized_position_embedding(
    settings, images, small_recipe, monkeypatch
):
    import timm

    from transmix.models.build import build_model

    published = timm.create_model("vit_tiny_patch16_224", depth=1)
    asked = []

    def from_hub(place, *_, **__):
        asked.append(place)
        return {name: tensor.clone() for name, tensor in published.state_dict().items()}

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", from_hub)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: None)  # the hub answers
    recipe = small_recipe(images, model="deit_tiny_patch16_224", model_options={"depth": 1}, **settings)
    model = build_model(recipe.model, 2, 32)
    source = "vit_tiny" if "init" in settings else "deit_tiny"
    assert source in str(asked)
    assert model.blocks[0].attn.qkv.weight.equal(published.blocks[0].attn.qkv.weight)
    assert model.head.weight.shape == (2, 192)
    assert model.pos_embed.shape == (1, 5, 192)
    assert not model.pos_embed.equal(torch.zeros(1, 5, 192))


def test_a_missing_or_broken_weights_file_is_named(images, small_recipe, tmp_path):
    (tmp_path / "text.safetensors").write_text("not weights")
    for name in ("absent.safetensors", "text.safetensors"):
        with pytest.raises(RecipeError, match=f"cannot read weights from .*{name}"):
            train(small_recipe(images, init=str(tmp_path / name)), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 20}, "image_size 20 is not a multiple of the model's patch of 8 pixels; use 16 or 24"),
        (
            {"model": "vit_tinny_patch16_224"},
            "timm has no model 'vit_tinny_patch16_224'; did you mean vit_tiny_patch16_224",
        ),
        ({"model_options": {"depht": 3}}, "timm cannot create 'vit_tiny_patch16_224' with .*depht=3"),
        ({"batch_size": 9, "accumulate": 2}, "batch_size 9 is not a multiple of 1 processes x 2 micro-batches"),
        ({"batch_size": 64}, "40 training images do not fill one batch of 64"),
        ({"rand_augment": "rand-x9"}, "timm does not know the policy rand_augment 'rand-x9'"),
        ({"device": "tpu9"}, "device 'tpu9' cannot be used here"),
        (
            {"init": "vit_smal_patch16"},
            "init must be a timm model, a weights file or the folder of a run, not 'vit_smal_patch16'",
        ),
        ({"init": "x.safetensors", "pretrained": True}, "pretrained and init both say where weights come from"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(changes, message, images, small_recipe, tmp_path):
    with pytest.raises(RecipeError, match=message):
        train(small_recipe(images, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_autocast_trains_and_keeps_weights_in_full_precision(amp, images, small_recipe, tmp_path):
    train(small_recipe(images, amp=amp, max_steps=2), tmp_path / "run")
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / "model.safetensors").values()} == {torch.float32}


def test_compiled_checkpointed_channels_last_training_gives_plain_weight_names(images, small_recipe, tmp_path):
    torch._dynamo.reset()
    changes = {"compile": True, "channels_last": True, "grad_checkpointing": True, "max_steps": 2}
    train(small_recipe(images, **changes), tmp_path / "run")
    assert "blocks.0.attn.qkv.weight" in load_file(tmp_path / "run" / "model.safetensors")


def test_layer_decay_and_binary_cross_entropy_and_tensorboard_work_together(images, small_recipe, tmp_path):
    changes = {"layer_decay": 0.7, "loss": "bce", "tensorboard": True, "max_steps": 3, "mode": "elem"}
    train(small_recipe(images, **changes), tmp_path / "run")
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_run_ends_with_its_report_and_does_without_where_that_fails(
    images, small_recipe, tmp_path, monkeypatch, capsys
):
    train(small_recipe(images, max_steps=2), tmp_path / "run", at_end=cli_train._end)
    page = (tmp_path / "run" / "report.html").read_text()
    bins = json.loads((tmp_path / "run" / "reliability.json").read_text())
    assert sum(bins["model"]["count"]) == sum(bins["ema"]["count"]) == 8  # validation images
    assert "Training report" in page
    assert f"report    {tmp_path / 'run' / 'report.html'}\n" in capsys.readouterr().out

    def fail(folder):
        raise ValueError("no room")

    monkeypatch.setattr("transmix.report.run.write_report", fail)
    assert train(small_recipe(images, max_steps=2), tmp_path / "other", at_end=cli_train._end)["step"] == 2
    said = capsys.readouterr().out
    assert f"no report: ValueError: no room; transmix report {tmp_path / 'other'} tries again\n" in said
    assert not (tmp_path / "other" / "report.html").exists()


@pytest.mark.parametrize("compile", [True, False])
def test_that_the_model_is_compiled_is_said_before_the_first_step(
    compile, images, small_recipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    train(small_recipe(images, compile=compile, max_steps=1, ema_decay=None), tmp_path / "run")
    said = "compiling the model at the first step takes a minute or more; --no-compile leaves it out"
    assert (said in capsys.readouterr().out.splitlines()) is compile
