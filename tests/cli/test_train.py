"""transmix train: fine-tuning by default, weights that are not there, and what the first and last lines say."""

import re
import socket
import time

import pytest
import timm
from safetensors.torch import save_file

from transmix.cli import main
from transmix.cli import train as cli_train
from transmix.cli.options import as_defaults
from transmix.cli.train import recipe_name
from transmix.recipes import RecipeError, dump_recipe, load_recipe

TINY = ["patch_size=14", "embed_dim=24", "depth=2", "num_heads=2"]


def train_finetune(images, run, *more):
    """Fine-tune from random weights of a small model, with the recipe that is taken by default."""
    small = ["--image-size", "28", "--model-options", *TINY, "--threads", "1", "--workers", "0"]
    return main(["train", "--data", str(images), "--out", str(run), *small, *more])


@pytest.fixture(scope="module")
def finetuned(images, tmp_path_factory):
    """Start from a weights file, as a user without a network does; give the run and what was printed."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("finetuned")
    options = {"patch_size": 14, "embed_dim": 24, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_small_patch14_dinov2", img_size=28, num_classes=0, **options)
    save_file(model.state_dict(), folder / "weights.safetensors")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = train_finetune(images, folder / "run", "--init", str(folder / "weights.safetensors"), "--epochs", "2")
    assert code == 0
    return folder / "run", out.getvalue().splitlines()


def test_data_alone_is_fine_tuned_and_the_first_lines_say_how(finetuned, images):
    run, lines = finetuned
    weights = run.parent / "weights.safetensors"
    assert lines[0] == "recipe    finetune"
    assert re.fullmatch(r"model     vit_small_patch14_dinov2, 0\.0\d M weights, 28 pixels", lines[1])
    assert lines[2:7] == [
        f"data      {images.name}: 40 training and 8 validation images (val), 2 classes",
        "training  2 epochs of 10 steps of 4 images; mix transmix; cpu",
        f"folder    {run}",
        f"started from the weights in {weights}: loaded 34 of 36 tensors; new: head.weight, head.bias",
        "batch     4 images, not 32, for 40 training images; --batch-size sets another",
    ]
    recipe = load_recipe(str(run / "recipe.yaml"))
    assert (recipe.model.pretrained, recipe.model.compile, recipe.model.amp) == (False, False, "none")


def test_the_last_lines_say_scores_weights_and_the_next_commands(finetuned, capsys):
    run, lines = finetuned
    end = lines[next(row for row, line in enumerate(lines) if line.startswith("scores")) :]
    found = re.fullmatch(
        r"scores    top-1 ([\d.]+ %), calibration error [\d.]+ %: "
        r"(EMA|model) of step 20 \(last checkpoint\): .*",
        end[0],
    )
    assert found
    commands = [line.removeprefix("next").strip() for line in end if "transmix " in line and "scores" not in line]
    assert f"transmix evaluate {run}" in commands
    assert f"transmix export {run}" in commands
    assert f"transmix app {run}" in commands
    assert f"report    {run / 'report.html'}" in end
    capsys.readouterr()
    assert main([*commands[0].split()[1:], "--workers", "0"]) == 0  # the numbers are those of the first command
    assert re.search(rf"^top-1 .*{found[2]} {re.escape(found[1])}", capsys.readouterr().out, re.MULTILINE)


def test_a_better_epoch_before_the_last_is_named(images, small_recipe, tmp_path, monkeypatch, capsys):
    from transmix.training import loop

    inner, falling = loop.evaluate, iter([0.875, 0.5])
    monkeypatch.setattr(loop, "evaluate", lambda *args, **more: inner(*args, **more) | {"top1": next(falling)})
    (tmp_path / "small.yaml").write_text(dump_recipe(small_recipe(images, ema_decay=None)))
    assert main(["train", "--recipe", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run")]) == 0
    line = "best      top-1 87.50 % at epoch 1; evaluate and export take it with --checkpoint best"
    assert line in capsys.readouterr().out.splitlines()


def test_neither_data_nor_recipe_is_an_error_that_names_both_commands(tmp_path, says):
    for words in ([], ["--resume"], ["--recipe", "finetune"]):
        with says(
            RecipeError,
            "nothing says what to train: --data FOLDER fine-tunes a model on your images (transmix train --data FOLDER "
            "--out RUN), --recipe digits trains one on built-in digits (transmix train --recipe digits --out RUN)",
        ):
            cli_train.main([*words, "--out", str(tmp_path / "x")])


def test_a_run_is_resumed_with_its_own_recipe(finetuned, capsys):
    run, _ = finetuned
    assert recipe_name(["--out", str(run), "--resume"]) == str(run / "recipe.yaml")
    assert recipe_name(["--out", str(run), "--resume", "--recipe", "digits"]) == "digits"
    assert recipe_name(["--out", str(run), "--data", "x"]) == "finetune"
    assert main(["train", "--out", str(run), "--resume", "--epochs", "3"]) == 0
    said = capsys.readouterr().out
    assert "going on from step 20" in said
    assert "epochs: 2 -> 3; from here on the learning rate follows the longer schedule" in said


def test_init_on_the_command_line_takes_the_place_of_published_weights():
    recipe = load_recipe("finetune")
    assert as_defaults(recipe, ["--data", "x"]).model.pretrained
    for words in (["--init", "w.safetensors"], ["--init=None"]):
        assert not as_defaults(recipe, words).model.pretrained


def test_none_for_init_starts_from_random_weights(images, tmp_path, capsys):
    assert train_finetune(images, tmp_path / "run", "--init", "None", "--max-steps", "1") == 0
    assert "started from" not in capsys.readouterr().out


def test_weights_that_a_silent_hub_does_not_give_are_one_line_after_one_wait(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("transmix.models.build.HUB_SECONDS", 0.3)
    monkeypatch.setattr("transmix.models.build.cached_file", lambda config: None)
    with socket.create_server(("127.0.0.1", 0)) as server:  # it accepts, and never answers
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *_, **__: f"{address}/model.safetensors")
        started = time.monotonic()
        assert main(["train", "--data", str(images), "--out", str(tmp_path / "run")]) == 2
        assert time.monotonic() - started < 10
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot download the published weights of vit_small_patch14_dinov2 from https://huggingface.co (" in line
    for remedy in ("HF_ENDPOINT=URL", "--init model.safetensors", "HF_HUB_CACHE=FOLDER", "--init None"):
        assert remedy in line
    assert not (tmp_path / "run").exists()


def test_a_model_whose_weights_are_here_is_named_and_needs_no_hub(tmp_path, monkeypatch, says):
    from transmix.models import build
    from transmix.recipes.settings import Model

    def no_hub(*_, **__):
        raise ConnectionError("no network")

    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    snapshot = tmp_path / f"models--timm--{name}" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0")
    weights = timm.create_model("vit_tiny_patch16_224").state_dict()
    save_file(weights, snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    find = build.try_to_load_from_cache
    monkeypatch.setattr(build, "try_to_load_from_cache", lambda *a, **more: find(*a, cache_dir=tmp_path, **more))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", no_hub)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_hub)
    with pytest.raises(RecipeError, match=rf"take a model whose weights are here \(--model {name}\); or start"):
        build.check_reachable(Model("deit_tiny_patch16_224", pretrained=True))
    model = build.build_model(Model(name, pretrained=True), 5, 224)
    assert model.blocks[3].attn.qkv.weight.equal(weights["blocks.3.attn.qkv.weight"])


@pytest.mark.parametrize(
    ("words", "name"),
    [([], "digits"), (["--data", "x"], "finetune"), (["--data", "x", "--recipe", "digits32"], "digits32")],
)
def test_a_comparison_fine_tunes_data_and_trains_digits_without(words, name, monkeypatch):
    from transmix.cli import compare

    def loaded(asked):
        raise LookupError(asked)

    monkeypatch.setattr(compare, "load_recipe", loaded)
    with pytest.raises(LookupError, match=f"^{name}$"):
        compare.main(["--mix", "cutmix", "transmix", *words])
