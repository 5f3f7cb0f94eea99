"""Dead at any point and resumed, a run ends with the bits, scores and lines of one that was never disturbed.

Here a run dies of an exception that nobody handles; processes that are killed are in test_chaos.py.
"""

import functools
import shutil

import pytest
import torch
from safetensors.torch import load_file

from transmix.runs import checkpoint as checkpoint_module
from transmix.runs.folder import RunError
from transmix.runs.log import read_rows
from transmix.training import batches as loading
from transmix.training import loop
from transmix.training.loop import train
from transmix.training.step import TrainingStep

# 2 epochs of 5 steps of 2 micro-batches; checkpoints at steps 3, 5, 6, 9 and 10.
SETTINGS = {"checkpoint_every": 3, "accumulate": 2}


class Died(BaseException):
    """The process is no more: unlike an error, nobody handles it."""


def die(patch, owner, name, call):
    """Die where a function is called for the n-th time."""
    inner, calls = getattr(owner, name), []

    def maybe(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Died
        return inner(*args, **kwargs)

    patch.setattr(owner, name, maybe)


def die_in_evaluation(patch):
    """Die at the second batch that the average is evaluated on, after the first epoch."""
    inner, calls = loading.evaluation_batches, []

    def batches(*args, **kwargs):
        calls.append(1)
        for number, batch in enumerate(inner(*args, **kwargs)):
            if (len(calls), number) == (2, 1):
                raise Died
            yield batch

    patch.setattr(loading, "evaluation_batches", batches)


POINTS = {
    "in an epoch": (8, 6, lambda patch: die(patch, TrainingStep, "__call__", 9)),
    "between two micro-batches": (8, 6, lambda patch: die(patch, TrainingStep, "forward", 18)),
    "in a save": (6, 5, lambda patch: die(patch, checkpoint_module, "_put_in_place", 3)),
    "before the last batch": (9, 9, lambda patch: die(patch, TrainingStep, "__call__", 10)),
    "at the end of an epoch": (5, 3, lambda patch: die(patch, loop, "_end_epoch", 1)),
    "in an evaluation": (5, 3, die_in_evaluation),
    "between epochs": (5, 5, lambda patch: die(patch, loop, "_train_epoch", 2)),
    "after the last batch": (10, 9, lambda patch: die(patch, loop, "_end_epoch", 2)),
    "after the last save": (10, 10, lambda patch: die(patch, loop.run_folder, "write_end", 1)),
}
"""What dies where: steps taken, step that is saved, how."""

WORKERS = [(0, 2), (2, 0)]
"""Loader workers before and after; changing them is the harder case."""


def run_until_it_dies(recipe, folder, monkeypatch, how):
    with monkeypatch.context() as patch:
        how(patch)
        with pytest.raises(Died):
            train(recipe, folder)


@pytest.fixture(scope="module")
def undisturbed(images, small_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(small_recipe(images, **SETTINGS), folder)
    return folder


@pytest.mark.parametrize(
    ("point", "before", "after"),
    [(point, *WORKERS[number % 2]) for number, point in enumerate(POINTS)]
    + [("in an epoch", 2, 0), ("in an epoch", 2, 2)],
)
def test_dead_at_any_point_and_resumed_everything_is_bit_identical(
    point, before, after, undisturbed, chaos, images, small_recipe, tmp_path, monkeypatch, capsys
):
    taken, saved, how = POINTS[point]
    folder, steps, step = tmp_path / "run", [], TrainingStep.__call__

    def counted(self, number, *rest):
        step(self, number, *rest)
        steps.append(number + 1)

    monkeypatch.setattr(TrainingStep, "__call__", counted)
    run_until_it_dies(small_recipe(images, workers=before, **SETTINGS), folder, monkeypatch, how)
    assert steps == list(range(1, taken + 1))
    assert not (folder / "summary.json").exists()
    steps.clear()
    torch.manual_seed(77)  # as in a new process, nothing is left of the generator's state
    train(small_recipe(images, workers=after, **SETTINGS), folder, resume=True)
    assert steps == list(range(saved + 1, 11))
    assert chaos.differences(folder, undisturbed) == []
    rows = [(row["kind"], row["step"]) for row in read_rows(folder / "metrics.jsonl")]
    reads = [("train", step) for step in (2, 3, 4, 5, 6, 8, 9, 10)]
    assert rows == [*reads[:4], ("epoch", 5), *reads[4:], ("epoch", 10)]  # no line twice, none missing


def test_stopped_by_max_steps_and_resumed_the_weights_are_bit_identical(undisturbed, images, small_recipe, tmp_path):
    train(small_recipe(images, max_steps=7, **SETTINGS), tmp_path / "run")
    train(small_recipe(images, **SETTINGS), tmp_path / "run", resume=True)
    for name in ("model", "ema"):
        ours, expected = (load_file(run / f"{name}.safetensors") for run in (tmp_path / "run", undisturbed))
        assert all(ours[weight].equal(tensor) for weight, tensor in expected.items())


def test_compiled_and_resumed_everything_is_bit_identical(chaos, images, small_recipe, tmp_path, monkeypatch):
    # Inductor takes a minute a run; that the package's own compiling resumes is for scripts to show.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    recipe = small_recipe(images, compile=True, **SETTINGS)
    torch._dynamo.reset()
    train(recipe, tmp_path / "undisturbed")
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    run_until_it_dies(recipe, tmp_path / "run", monkeypatch, POINTS["in an epoch"][2])
    torch._dynamo.reset()  # what was compiled dies with a process
    train(recipe, tmp_path / "run", resume=True)
    assert compiled > 0
    assert chaos.differences(tmp_path / "run", tmp_path / "undisturbed") == []


# Each part of what is saved is needed. Half precision has a scaler; an average that hardly moves never gets a better
# score, so that the best one is that of the first epoch.
CONTROL = {**SETTINGS, "amp": "fp16", "ema_decay": 0.99999}


@pytest.fixture(scope="module")
def control(images, small_recipe, tmp_path_factory):
    """Give the recipe, the undisturbed run, and a function that dies, loses something and resumes in a folder."""
    root, recipe = tmp_path_factory.mktemp("control"), small_recipe(images, **CONTROL)
    train(recipe, root / "undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        run_until_it_dies(recipe, root / "dead", patch, POINTS["in an epoch"][2])

    def lose_and_resume(folder, monkeypatch, lose):
        shutil.copytree(root / "dead", folder)
        load = loop.load_checkpoint

        def load_less(path):
            checkpoint = load(path)
            lose(checkpoint)
            return checkpoint

        monkeypatch.setattr(loop, "load_checkpoint", load_less)
        train(recipe, folder, resume=True)

    return root / "undisturbed", lose_and_resume


def test_with_half_precision_and_nothing_lost_everything_is_bit_identical(control, chaos, tmp_path, monkeypatch):
    undisturbed, lose_and_resume = control
    lose_and_resume(tmp_path / "run", monkeypatch, lambda checkpoint: None)
    assert chaos.differences(tmp_path / "run", undisturbed) == []


def new_scaler(checkpoint):
    checkpoint.state["scaler"] = torch.amp.GradScaler("cpu").state_dict()


DIFFERENT = {
    "optimizer": (lambda one: one.tensors.update(optimizer={}), "step-00000010/optimizer: "),
    "generators": (lambda one: one.tensors.pop("random-0"), "step-00000010/random-0: cpu"),
    "best score": (lambda one: one.state.update(best=None), "step-00000010/state: best"),
    "scaler": (new_scaler, "step-00000010/state: scaler"),
    "reads": (lambda one: one.state.update(reads=[]), "metrics.jsonl differs"),
    "first weights for the later": (
        lambda one: one.tensors["model"].update({name: 0 * kept for name, kept in one.tensors["model"].items()}),
        "step-00000010/model: ",
    ),
    "no average": (
        lambda one: one.tensors["ema"].update(
            {name: one.tensors["model"][name].clone() for name in one.tensors["ema"]}
        ),
        "step-00000010/ema: ",
    ),
}


@pytest.mark.parametrize("part", DIFFERENT)
def test_without_a_part_of_what_was_saved_the_resumed_run_differs(part, control, chaos, tmp_path, monkeypatch):
    undisturbed, lose_and_resume = control
    lose, where = DIFFERENT[part]
    lose_and_resume(tmp_path / "run", monkeypatch, lose)
    found = chaos.differences(tmp_path / "run", undisturbed)
    assert any(one.startswith(where) for one in found), found


def test_without_the_position_in_the_epoch_the_resumed_run_differs(control, chaos, tmp_path, monkeypatch):
    undisturbed, lose_and_resume = control
    start_at = loading.EpochSampler.start_at
    monkeypatch.setattr(loading.EpochSampler, "start_at", lambda order, epoch, first_step: start_at(order, epoch, 0))
    lose_and_resume(tmp_path / "run", monkeypatch, lambda checkpoint: None)
    assert any("/model: " in one for one in chaos.differences(tmp_path / "run", undisturbed))


@pytest.mark.parametrize(
    "lose",
    [lambda one: one.tensors.pop("model"), lambda one: one.tensors.pop("ema"), lambda one: one.state.pop("reads")],
    ids=["model", "ema", "reads"],
)
def test_what_is_not_there_at_all_is_refused(lose, control, tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"the checkpoint of step 6 in .* does not belong to this run"):
        control[1](tmp_path / "run", monkeypatch, lose)


def test_a_damaged_newest_checkpoint_is_left_out_and_the_older_one_used(images, small_recipe, tmp_path, capsys):
    recipe = small_recipe(images, checkpoint_every=3)
    train(small_recipe(images, checkpoint_every=3, max_steps=7), tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000007" / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    summary = train(recipe, tmp_path / "run", resume=True)
    assert summary["finished"]
    said = capsys.readouterr().out
    assert "left out a checkpoint" in said
    assert "going on from step 6" in said


def test_resuming_on_data_that_has_grown_is_refused(images, small_recipe, tmp_path):
    grown = tmp_path / "images"
    shutil.copytree(images, grown)
    train(small_recipe(grown, max_steps=3), tmp_path / "run")
    shutil.copy(grown / "train" / "dark" / "000.png", grown / "train" / "dark" / "zzz.png")
    with pytest.raises(RunError, match=r"had 40 training images when .* was trained, now 41"):
        train(small_recipe(grown), tmp_path / "run", resume=True)


SECTION_OF_BEFORE = """mixing:
  mix: transmix
  mixup_alpha: 0.8
  cutmix_alpha: 1.0
  mix_prob: 1.0
  switch_prob: 0.5
  mix_mode: batch
  mix_epochs: null
  attention_weight: 0.5
  downsample: nearest
  loss: cross-entropy
  smoothing: 0.1
  bce_threshold: null
"""
"""What a run folder held before mix and labels were said apart."""


def test_a_run_from_before_mix_and_labels_were_apart_goes_on_to_the_same_bits(
    undisturbed, images, small_recipe, tmp_path
):
    run = tmp_path / "run"
    train(small_recipe(images, max_steps=3, **SETTINGS), run)
    text = (run / "recipe.yaml").read_text()
    start, end = text.index("mixing:"), text.index("optimization:")
    model = text[:start].replace("  linear_init: timm\n", "")
    assert "labels: attention" in text[start:end]
    (run / "recipe.yaml").write_text(model + SECTION_OF_BEFORE + text[end:])
    train(small_recipe(images, **SETTINGS), run, resume=True)
    for name in ("model", "ema"):
        mine, theirs = (load_file(folder / f"{name}.safetensors") for folder in (run, undisturbed))
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    (run / "recipe.yaml").write_text(model + SECTION_OF_BEFORE.replace("0.5", "0.25") + text[end:])
    with pytest.raises(RunError, match=r"with other settings: labels_options: .*0\.25.*; switch_prob: 0\.25 -> 0\.5"):
        train(small_recipe(images, **SETTINGS), run, resume=True)
