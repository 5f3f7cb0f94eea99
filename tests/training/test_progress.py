"""A live bar in a terminal, plain lines in a log, silence in all processes but the first."""

import io
import sys

from transmix.training.progress import Progress

ROW = {"loss": 1.5, "top1": 0.25, "images_per_second": 80.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def some_steps(quiet=False):
    progress = Progress(steps=8, first_step=0, epochs=2, images_per_step=16, quiet=quiet)
    progress.say("hello")
    for _ in range(3):
        progress.advance(epoch=0)
        progress.show({"loss": 1.2345})
    progress.bar.refresh()
    progress.say_epoch(0, ROW)
    progress.bar.close()


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
