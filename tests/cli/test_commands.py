"""The command line as a user meets it: exit codes, one clear line for every mistake, nothing overwritten."""

import json
import re
import subprocess
import sys

import pytest

from transmix.cli import evaluate as cli_evaluate
from transmix.cli import main
from transmix.recipes import dump_recipe, recipe_names, recipe_text


@pytest.fixture
def recipe_file(images, small_recipe, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(dump_recipe(small_recipe(images, max_steps=2)))
    return str(path)


def complaint(capsys, *arguments):
    """Run a command that must fail as a usage error, and return its only line."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


def test_train_then_evaluate_prints_scores_and_writes_them(recipe_file, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "--recipe", recipe_file, "--out", str(run)]) == 0
    assert "epoch 1/2" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--workers", "0"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^top-1 +model [\d.]+ %, EMA [\d.]+ % \(higher is better\)", shown, re.MULTILINE)
    scores = json.loads((run / "evaluation.json").read_text())["scores"]
    assert set(scores) == {"model", "ema"}
    assert {"top1", "top5", "loss", "calibration_error", "per_class_accuracy"} <= set(scores["model"])


def test_export_writes_into_the_run_what_evaluate_then_measures(recipe_file, images, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "--recipe", recipe_file, "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["export", str(run), "--weights", "model"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == [
        "weights: model of step 2 (last checkpoint): asked for with --weights model",
        f"README.md, config.json, model.safetensors in {run / 'export'}",
    ]
    assert complaint(capsys, "export", run).endswith("exists already; give another --out, or remove it first")
    weights = str(run / "export" / "model.safetensors")
    assert main(["evaluate", weights, "--data", str(images), "--workers", "0"]) == 0
    assert "top-1 " in capsys.readouterr().out


def test_options_win_over_the_recipe_and_model_options_add_to_it(recipe_file, tmp_path):
    out = tmp_path / "run"
    main(["train", "--recipe", recipe_file, "--out", str(out), "--lr", "5e-4", "--model-options", "depth=1"])
    text = (out / "recipe.yaml").read_text()
    assert "lr: 0.0005" in text
    assert "depth: 1" in text
    assert "embed_dim: 24" in text


def test_an_existing_run_is_refused_until_resume_is_given(recipe_file, tmp_path, capsys):
    command = ["train", "--recipe", recipe_file, "--out", str(tmp_path / "run")]
    assert main(command) == 0
    capsys.readouterr()
    assert complaint(capsys, *command).endswith("exists already; give --resume to continue that run, or another --out")
    assert main([*command, "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lrr", "1"], "Unrecognized options: --lrr, 1; did you mean --lr"),
        (["--lr", "fast"], "Error parsing --lr: could not convert string to float: 'fast'"),
        (["--mix", "cutmux"], "mix: no method is called 'cutmux'; did you mean cutmix?"),
        (["--labels", "atention"], "labels: no rule is called 'atention'; did you mean attention?"),
        (["--labels-options", "wait=1"], "labels: rule 'attention' has no setting 'wait'; it has weight, downsample"),
        (["--labels", "line", "--downsample", "nearest"], "labels: rule 'line' has no setting 'downsample'"),
        (["--mix-options", "alpha=1"], "mix: mix_options alpha belongs to no method of transmix"),
        (["--model-options", "depth"], "expected NAME=VALUE, not 'depth'"),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all: no such folder; give the folder of a data set, or 'digits'"),
        (["--switch-prob", "0"], "TransMix would change nothing here: with switch_prob 0 every mixed batch is Mixup"),
        (
            ["--cutmix-alpha", "0"],
            "TransMix would change nothing here: without CutMix (cutmix_alpha 0) no image has a box",
        ),
        (
            ["--loss", "bce", "--bce-threshold", "0"],
            "TransMix would change nothing here: bce_threshold makes targets 0 or 1",
        ),
        (
            ["--model-options", "global_pool=avg"],
            "averages its class token away or leaves it unused (global_pool='avg')",
        ),
        (["--image-size", "20"], "image_size 20 is not a multiple of the model's patch of 8 pixels"),
        (["--recipe", "digitz"], "no recipe is called 'digitz'; did you mean digits?"),
    ],
)
def test_mistakes_get_one_clear_line_and_leave_nothing_behind(arguments, words, recipe_file, tmp_path, capsys):
    line = complaint(capsys, "train", "--recipe", recipe_file, "--out", tmp_path / "run", *arguments)
    assert words in line
    assert not (tmp_path / "run").exists()


def test_a_typo_in_a_recipe_is_named_with_the_nearest_setting(recipe_file, tmp_path, capsys):
    path = tmp_path / "typo.yaml"
    path.write_text("mixing:\n  switch-prob: 0.8\n")
    line = complaint(capsys, "train", "--recipe", path, "--out", tmp_path / "run")
    assert line.endswith("unknown setting mixing.switch-prob; did you mean switch_prob?")


def test_an_image_that_is_text_is_named(images, recipe_file, tmp_path, capsys):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(images, broken)
    (broken / "train" / "dark" / "000.png").write_text("this is not an image")
    line = complaint(capsys, "train", "--recipe", recipe_file, "--data", broken, "--out", tmp_path / "run")
    assert "000.png" in line


def test_a_class_missing_in_train_is_named(images, recipe_file, tmp_path, capsys):
    import shutil

    lacking = tmp_path / "lacking"
    shutil.copytree(images, lacking)
    shutil.rmtree(lacking / "train" / "light")
    line = complaint(capsys, "train", "--recipe", recipe_file, "--data", lacking, "--out", tmp_path / "run")
    assert "val: not among the classes of train: light" in line


def test_evaluating_what_is_not_there_is_one_line(tmp_path, capsys):
    assert "no such run folder" in complaint(capsys, "evaluate", tmp_path / "absent")
    assert complaint(capsys, "evaluate", tmp_path) == (
        f"transmix: {tmp_path} is neither a run (no recipe.yaml) nor exported for timm (no config.json)"
    )
    (tmp_path / "recipe.yaml").touch()
    assert "holds no whole checkpoint" in complaint(capsys, "evaluate", tmp_path)
    assert "comes without data" in complaint(capsys, "evaluate", "resnet18")
    assert "resnet18 has 1000 outputs, but digits_on_textures has 10 classes" in complaint(
        capsys, "evaluate", "resnet18", "--data", "digits"
    )


def test_a_weights_file_that_does_not_say_its_model_needs_to_be_told(images, tmp_path, capsys):
    import timm
    from safetensors.torch import save_file

    options = {"num_classes": 2}
    save_file(timm.create_model("test_vit", **options).state_dict(), tmp_path / "foreign.safetensors")
    command = ["evaluate", tmp_path / "foreign.safetensors", "--data", images, "--workers", "0"]
    assert "does not say which model it holds; name it: --model" in complaint(capsys, *command)
    assert main([str(word) for word in [*command, "--model", "test_vit"]]) == 0
    assert "top-1 " in capsys.readouterr().out


def test_recipes_are_listed_shown_and_copied_but_never_over_a_file(tmp_path, capsys):
    assert main(["recipes", "ls"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in recipe_names())
    assert main(["recipes", "show", "digits"]) == 0
    assert capsys.readouterr().out == recipe_text("digits")
    copy = tmp_path / "mine.yaml"
    assert main(["recipes", "cp", "digits", str(copy)]) == 0
    assert copy.read_text() == recipe_text("digits")
    capsys.readouterr()
    assert complaint(capsys, "recipes", "cp", "digits", copy).endswith("exists already; name another file")


def test_an_unknown_command_gives_the_nearest_and_help_exits_with_0(capsys):
    assert complaint(capsys, "trian") == "transmix: no command 'trian'; did you mean train?"
    assert main(["--help"]) == 0
    assert "evaluate" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    assert "--labels-options" in capsys.readouterr().out


def test_an_interrupted_command_says_how_it_goes_on_where_it_can(monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    for verb, how in {"train": "; the same command with --resume continues the run", "doctor": ""}.items():
        monkeypatch.setattr(f"transmix.cli.{verb}.main", interrupt)
        assert main([verb]) == 130
        assert capsys.readouterr().err == f"transmix: interrupted{how}\n"


def test_the_module_runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "transmix", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("transmix ")
    assert done.returncode == 0


def test_scores_that_are_no_numbers_are_null_and_not_nan_in_what_is_written():
    scores = {"a": [1.0, float("nan"), (float("inf"), None)], "b": {"c": float("nan")}, "d": "x"}
    found = json.loads(cli_evaluate._as_json(scores), parse_constant=pytest.fail)
    assert found == {"a": [1.0, None, [None, None]], "b": {"c": None}, "d": "x"}
    with pytest.raises(pytest.fail.Exception):
        json.loads(json.dumps(scores), parse_constant=pytest.fail)
