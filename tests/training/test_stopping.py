"""Signals: a flag, a checkpoint, 128 + n; a second one stops at once; the resumed run ends with the same bits."""

import os
import signal
import subprocess
import threading

import pytest
from safetensors.torch import load_file

from transmix import distributed
from transmix.cli import main
from transmix.recipes import dump_recipe
from transmix.runs.log import read_rows
from transmix.training import batches as loading
from transmix.training import loop
from transmix.training.loop import train
from transmix.training.stopping import SIGNALS, StoppedError, Watch

ALONE = distributed.World(0, 1, 1, __import__("torch").device("cpu"))


def weights(folder):
    return {f: load_file(folder / f"{f}.safetensors") for f in ("model", "ema")}


def same(one, other):
    return all(one[f][name].equal(other[f][name]) for f in one for name in one[f])


@pytest.fixture(scope="module")
def undisturbed(images, small_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(small_recipe(images), folder)
    return weights(folder)


def send_at(monkeypatch, where, number, when=3):
    """Send this process a signal at the n-th call of a step, or in the evaluation of the n-th epoch."""
    calls = []
    owner, name = {"step": (loop.TrainingStep, "__call__"), "evaluation": (loading, "evaluation_batches")}[where]
    inner = getattr(owner, name)

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == when:
            os.kill(os.getpid(), number)
        return inner(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
@pytest.mark.parametrize(
    ("where", "when"), [("step", 1), ("step", 3), ("step", 5), ("evaluation", 1), ("evaluation", 3)]
)
def test_a_signal_saves_and_stops_and_the_resumed_run_ends_with_the_same_bits(
    number, where, when, undisturbed, images, small_recipe, tmp_path, monkeypatch
):
    recipe, folder = small_recipe(images), tmp_path / "run"
    handlers = [signal.getsignal(one) for one in SIGNALS]
    with monkeypatch.context() as patch:
        send_at(patch, where, number, when)
        with pytest.raises(StoppedError) as stopped:
            train(recipe, folder)
    step = {("evaluation", 1): 5, ("evaluation", 3): 10}.get((where, when), when)
    assert str(stopped.value) == (
        f"stopped by {signal.Signals(number).name} after step {step}; --resume continues from there"
    )
    assert [signal.getsignal(one) for one in SIGNALS] == handlers
    assert sorted((folder / "checkpoints").glob("step-*"))[-1].name == f"step-{step:08d}"
    train(recipe, folder, resume=True)
    assert same(weights(folder), undisturbed)
    rows = [(row["kind"], row["step"]) for row in read_rows(folder / "metrics.jsonl")]
    assert len(rows) == len(set(rows))
    assert {("epoch", 5), ("epoch", 10)} <= set(rows)


def test_stopping_without_saving_would_lose_steps(undisturbed, images, small_recipe, tmp_path, monkeypatch):
    """The negative control: what is resumed is the checkpoint that the signal left."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        send_at(patch, "step", signal.SIGTERM)
        patch.setattr(loop, "save", lambda *_, **__: None)
        with pytest.raises(StoppedError):
            train(small_recipe(images), folder)
    assert not list(folder.glob("checkpoints/step-*"))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
def test_the_command_ends_with_128_and_the_signal(number, images, small_recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "small.yaml").write_text(dump_recipe(small_recipe(images)))
    send_at(monkeypatch, "step", number)
    code = main(["train", "--recipe", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run")])
    assert code == 128 + number
    said = capsys.readouterr().err.strip()
    assert said == f"transmix: stopped by {signal.Signals(number).name} after step 3; --resume continues from there"


TWICE = """
import os, signal, time
from transmix.distributed import World
from transmix.training import stopping
from transmix.training.stopping import Watch
import torch
now = [100.0]
stopping.time.monotonic = lambda: now[0]  # a busy machine may let more than a second go by between two lines
with Watch(World(0, 1, 1, torch.device("cpu"))) as watch:
    os.kill(os.getpid(), signal.SIGTERM)
    assert watch.look() == (signal.SIGTERM, False)
    os.kill(os.getpid(), signal.SIGINT)
    assert watch.look() == (signal.SIGTERM, False)
    print("listened", flush=True)
    now[0] += 1.1
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)
"""


def test_a_second_signal_stops_at_once_but_one_that_comes_with_the_first_is_the_same(warm_python):
    done = subprocess.run([warm_python, "-c", TWICE], capture_output=True, text=True, timeout=300)
    assert done.stdout == "listened\n"
    assert done.returncode == -signal.SIGTERM


def test_outside_the_main_thread_signals_stay_as_they_are():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def listen():
        with Watch(ALONE) as watch:
            seen.append(watch.look())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [(0, False)]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_time_of_a_checkpoint_comes_and_starts_anew(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("transmix.training.stopping.time.monotonic", lambda: now[0])
    watch = Watch(ALONE, minutes=0.5)
    assert watch.look() == (0, False)
    now[0] += 31
    assert watch.look() == (0, True)
    watch.has_saved()
    assert watch.look() == (0, False)
    now[0] += 1e9
    assert Watch(ALONE).look() == (0, False)


def saved_steps(images, small_recipe, folder, monkeypatch, **settings):
    """The steps at which a run saves."""
    steps, save = [], loop.save
    monkeypatch.setattr(
        loop, "save", lambda run, *rest, **more: steps.append(run.step_number) or save(run, *rest, **more)
    )
    train(small_recipe(images, **settings), folder)
    return steps


@pytest.mark.parametrize(
    ("cadence", "steps"),
    [(None, {5, 10}), (4, {4, 5, 8, 10}), ("2steps", {2, 4, 5, 6, 8, 10}), ("0.0001min", set(range(1, 11)))],
)
def test_checkpoints_come_as_often_as_asked(cadence, steps, images, small_recipe, tmp_path, monkeypatch):
    assert set(saved_steps(images, small_recipe, tmp_path / "run", monkeypatch, checkpoint_every=cadence)) == steps


def test_epochs_between_checkpoints_are_left_out_unless_one_is_better(images, small_recipe, tmp_path, monkeypatch):
    settings = {"checkpoint_every": "3epochs", "epochs": 4, "ema_decay": None}
    scores = iter([0.5, 0.6, 0.1, 0.2])
    monkeypatch.setattr(
        loop,
        "_evaluate",
        lambda run, watch: (
            setattr(run, "scores", {"confusion": __import__("torch").eye(2)}) or {"top1": next(scores), "val_loss": 1.0}
        ),
    )
    assert saved_steps(images, small_recipe, tmp_path / "run", monkeypatch, **settings) == [5, 10, 15, 20]
    scores = iter([0.5, 0.4, 0.1, 0.2])
    assert saved_steps(images, small_recipe, tmp_path / "other", monkeypatch, **settings) == [5, 15, 20]


GROUP = """
import os, signal, sys, time
from transmix.data import loader
from transmix.cli import main
from transmix.training.step import TrainingStep

step = TrainingStep.__call__

def step_and_signal(self, number, *rest, **more):
    if number == 2:
        os.killpg(0, signal.{name})
        # for what kills a worker to be noticed, by SIGCHLD, before the run stops by itself: that raises here
        time.sleep(120 if {mortal} else 2)
    return step(self, number, *rest, **more)

TrainingStep.__call__ = step_and_signal
if {mortal}:
    loader.ignore_signals = lambda _: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGUSR1)]
sys.exit(main(["train", "--recipe", sys.argv[1], "--out", sys.argv[2], "--workers", "2"]))
"""


@pytest.mark.parametrize(("name", "mortal"), [("SIGINT", False), ("SIGUSR1", True)])
def test_a_signal_to_workers_as_well_is_left_to_the_training_process(
    name, mortal, warm_python, images, small_recipe, tmp_path
):
    (tmp_path / "small.yaml").write_text(dump_recipe(small_recipe(images)))
    command = [warm_python, "-c", GROUP.format(name=name, mortal=mortal)]  # in a process group of its own
    done = subprocess.run(
        [*command, str(tmp_path / "small.yaml"), str(tmp_path / "run")], capture_output=True, text=True, timeout=300
    )
    orderly = done.returncode == 128 + getattr(signal, name) and f"stopped by {name} after step 3" in done.stderr
    assert orderly != mortal, done.stderr  # workers that a signal ends take the run down with them
