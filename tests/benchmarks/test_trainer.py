"""The race of the trainers: speed, settings and turns; timm's train.py itself is not run here."""

import json
import sys

import pytest

FAKE = """
import sys, time
for step in range(12):
    time.sleep(0.02)
    if step % 2 == 1: print(f"Train: 0 [  {step}/12 (  8%)]  Loss: 1", flush=True)
    if step == {dies_at}: sys.exit("out of luck")
time.sleep(60)
"""


@pytest.fixture
def trainer_arguments(script):
    return script("trainer").Namespace(steps=12, warm_up=4, batch=10, threads=1)


def test_the_trainers_speed_is_that_of_its_steady_part(script, tmp_path, trainer_arguments, monkeypatch):
    """Two steps of 10 images take 5 s up to step 4, which do not count, and 0.5 s from there on."""
    trainer, clock, steps = script("trainer"), [0.0], iter(range(1, 12, 2))

    class Started:
        pid, poll, wait = 0, lambda self: None, lambda self: 0

        def __init__(self, command, **about):
            self.__class__.output = about["stdout"].name

    def sleep(seconds):
        step = next(steps, 99)
        clock[0] += 5.0 if step < 4 else 0.5
        with open(Started.output, "a") as file:
            file.write(f"Train: 0 [  {step}/12 (  8%)]  Loss: 1\n")

    monkeypatch.setattr(trainer.subprocess, "Popen", Started)
    monkeypatch.setattr(trainer.os, "killpg", lambda *about: None)
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(trainer.time, "sleep", sleep)
    rate = trainer.images_per_second(
        ["timm"], tmp_path / "turn", trainer.OUTPUT, trainer.TIMM_STEP, trainer_arguments, offset=1
    )
    assert rate == 8 * 10 / (4 * 0.5)


def test_a_trainer_that_stops_early_is_an_error_with_its_last_words(script, tmp_path, trainer_arguments):
    trainer = script("trainer")
    command = [sys.executable, "-c", FAKE.replace("{dies_at}", "3")]
    with pytest.raises(SystemExit, match="out of luck"):
        trainer.images_per_second(
            command, tmp_path / "turn", trainer.OUTPUT, trainer.TIMM_STEP, trainer_arguments, offset=1
        )


TINY = [
    "--rounds", "2", "--model", "vit_tiny_patch16_224", "--model-options", "depth=1", "embed_dim=24", "num_heads=2",
    "--side", "16", "--stored", "16", "16", "--batch", "2", "--workers", "0", "--steps", "4", "--warm-up", "2",
    "--every", "1", "--classes", "2", "--threads", "1",
]  # fmt: skip


def test_our_trainer_runs_and_its_steps_are_found(script, tmp_path, monkeypatch):
    trainer, commands = script("trainer"), []

    def in_this_process(command, out, watched, step, arguments, offset=0):
        commands.append(command)
        trainer.main(command[2:])  # without the interpreter and the file
        found = [int(match[1]) + offset for match in step.finditer((out / watched).read_text())]
        assert found == [1, 2, 3, 4]
        return 7.0

    monkeypatch.setattr(trainer, "images_per_second", in_this_process)
    path = tmp_path / "out.json"
    trainer.main([*TINY, "--variants", "timm", "transmix", "--json", str(path)])
    (row,) = json.loads(path.read_text())["rows"]
    assert len(commands) == 2
    assert row["images_per_second"] == pytest.approx(7)
    assert (row["case"], row["variant"]) == ("vit_tiny_patch16_224, 16 pixels, batch 2", "transmix")


def test_timm_and_ours_get_the_same_settings_and_take_turns(script, tmp_path, monkeypatch):
    trainer, commands = script("trainer"), []
    monkeypatch.setattr(trainer, "images_per_second", lambda command, *_, **__: commands.append(command) or 5.0)
    (tmp_path / "timm").mkdir()
    (tmp_path / "train.py").touch()
    (tmp_path / "timm" / "version.py").write_text("__version__ = '9'")
    trainer.main([*TINY, "--timm-checkout", str(tmp_path), "--variants", "timm", "transmix"])
    assert ["--train" in command for command in commands] == [False, True, True, False]
    theirs, ours = " ".join(map(str, commands[0])), json.loads(commands[1][3])
    assert f"--batch-size {ours['Optimization']['batch_size']} " in theirs
    assert f"--lr {ours['Optimization']['lr']} " in theirs
    assert f"--clip-grad {ours['Optimization']['clip_grad']} " in theirs
    assert f"--aa {ours['Augmentation']['rand_augment']} " in theirs
    assert f"--reprob {ours['Augmentation']['random_erasing']} " in theirs
    assert f"--workers {ours['Data']['workers']} " in theirs
    assert "--model-kwargs img_size=16 depth=1 embed_dim=24 num_heads=2" in theirs


def test_a_folder_that_is_no_checkout_of_timm_is_refused(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script("trainer").main(["--timm-checkout", str(tmp_path)])
    assert f"no train.py in {tmp_path}" in capsys.readouterr().err
