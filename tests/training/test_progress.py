"""A live bar in a terminal, plain lines in a log, silence in all processes but the first."""

import io
import sys
from types import SimpleNamespace

import pytest

from transmix.training import progress
from transmix.training.progress import Progress

ROW = {"loss": 1.5, "top1": 0.25, "images_per_second": 80.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def some_steps(quiet=False):
    shown = Progress(steps=8, first_step=0, epochs=2, images_per_step=16, quiet=quiet)
    shown.say("hello")
    for _ in range(3):
        shown.advance(epoch=0)
        shown.show({"loss": 1.2345})
    shown.bar.refresh()
    shown.say_epoch(0, ROW)
    shown.bar.close()


def test_a_terminal_gets_a_live_bar_with_step_speed_loss_and_time_left(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    some_steps()
    shown = terminal.getvalue().split("\r")
    bar = next(text for text in shown if "step 3/8" in text and "loss" in text)
    for part in ("epoch 1/2 step 3/8", "38%", "img/s", "training loss 1.234", " left"):
        assert part in bar
    assert "epoch 1/2  training loss 1.500 nats  top-1 25.00 %" in capsys.readouterr().out


def test_a_log_gets_plain_lines(capsys):
    some_steps()
    out, err = capsys.readouterr()
    assert err == ""
    first, second = out.splitlines()
    assert first == "hello"
    assert second.startswith("epoch 1/2  training loss 1.500 nats  top-1 25.00 %  speed 80 images/s  0:0")


def test_other_processes_say_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    some_steps(quiet=True)
    assert terminal.getvalue() == capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "evaluations", "first_step", "expected"),
    [
        (2.0, 0.0, 0, "about 3 minutes left"),  # 99 steps of 103 are left
        (2.0, 103.0, 0, "about 7 minutes left"),  # evaluations cost as much again
        (2.0, 0.0, 72, "about a minute left"),
        (100.0, 0.0, 0, "about 2.8 hours left"),
    ],
)
def test_the_time_to_the_end_is_said_once_a_few_steps_are_measured(
    seconds, evaluations, first_step, expected, monkeypatch, capsys
):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    shown = Progress(103, first_step, 10, 16, False, evaluations)
    for step in range(6):
        now[0] += 60.0 if step == 0 else seconds  # the first step warms up, and is not measured
        shown.advance(0)
    assert capsys.readouterr().out == f"time      {expected}\n"


def test_a_run_of_seconds_says_no_time(capsys):
    shown = Progress(8, 0, 2, 16, False)
    for _ in range(8):
        shown.advance(0)
    assert capsys.readouterr().out == ""
