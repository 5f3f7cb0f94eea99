"""Processes so many at a time: side by side, one's failure left alone, all stopped in order."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from transmix.compare.schedule import Task, run_tasks, tail

NOTE = "import pathlib,sys,time,os;note=lambda word:open(sys.argv[1],'a').write(f'{word} {sys.argv[2]}\\n');"
MEET = NOTE + (  # wait until the other one has come too: only possible side by side
    "note('came');end=time.time()+300\n"
    "while len(open(sys.argv[1]).readlines())<2:\n assert time.time()<end;time.sleep(.01)"
)
ALONE = NOTE + "note('in');time.sleep(.1);note('out')"
FAIL = "print('one\\ntwo');import sys;print('it \\x1b[31mbroke',file=sys.stderr);sys.exit(3)"
WAIT = NOTE + (
    "import signal\ndef stop(*_):\n note('stopped');sys.exit(143)\n"
    "signal.signal(signal.SIGTERM,stop);note('ready');time.sleep(600)"
)
DEAF = NOTE + "import signal\nsignal.signal(signal.SIGTERM,signal.SIG_IGN);note('ready')\nwhile True: time.sleep(1)"


@pytest.fixture
def task(tmp_path):
    notes = tmp_path / "notes"
    notes.touch()

    def make(name, code):
        return Task(name, [sys.executable, "-c", code, str(notes), name], tmp_path / f"{name}.log")

    make.notes = lambda: notes.read_text().split("\n")[:-1]
    return make


def test_as_many_run_side_by_side_as_there_are_places(task):
    outcome = run_tasks([task("a", MEET), task("b", MEET)], [{}, {}])
    assert (set(outcome.done), outcome.failed, outcome.signal) == ({"a", "b"}, {}, 0)


def test_and_no_more(task):
    run_tasks([task(name, ALONE) for name in "abc"], [{}])
    assert task.notes() == ["in a", "out a", "in b", "out b", "in c", "out c"]


def test_each_place_has_its_own_environment_and_only_one_process(task):
    code = NOTE + "note(os.environ['GPU']);time.sleep(.05)"
    run_tasks([task(name, code) for name in "abcd"], [{"GPU": "3"}, {"GPU": "5"}])
    assert {note.split()[0] for note in task.notes()} == {"3", "5"}
    assert len(task.notes()) == 4


def test_one_that_fails_is_named_with_the_end_of_its_log_and_the_others_go_on(task, capsys):
    outcome = run_tasks([task("bad", FAIL), task("good", ALONE)], [{}])
    assert (outcome.done, outcome.failed) == (("good",), {"bad": 3})
    said = capsys.readouterr().out
    assert "bad failed (exit code 3); the end of " in said
    assert "    two\n" in said
    assert "    it \\x1b[31mbroke\n" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_the_running_to_stop_waits_for_them_and_starts_no_other(task, number):
    def send():
        while len(task.notes()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    threading.Thread(target=send).start()
    outcome = run_tasks([task("a", WAIT), task("b", WAIT), task("c", WAIT)], [{}, {}])
    assert (outcome.done, outcome.failed, outcome.signal) == ((), {}, number)
    assert sorted(task.notes()) == ["ready a", "ready b", "stopped a", "stopped b"]
    assert signal.getsignal(number) is before


def test_a_second_signal_kills_what_does_not_stop(task, monkeypatch):
    """What ignores the first would go on for ever: that this ends at all is the proof."""
    passed_on = threading.Event()
    monkeypatch.setattr(subprocess.Popen, "terminate", lambda self: passed_on.set())

    def send():
        while not task.notes():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        passed_on.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send).start()
    assert run_tasks([task("deaf", DEAF)], [{}]).signal == signal.SIGTERM


def test_no_process_outlives_an_error_here(task, tmp_path):
    nowhere = Task("b", [str(tmp_path / "no program")], tmp_path / "b.log")
    with pytest.raises(OSError, match="no program"):
        run_tasks([task("a", WAIT), nowhere], [{}, {}])
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in running


def test_the_tail_of_a_log_is_short_and_harmless(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"\n".join(b"line %d" % n for n in range(5000)) + b"\n\xff\x1b]0;x\n")
    assert tail(log, 2) == ["line 4999", "\ufffd\\x1b]0;x"]
    assert tail(Path("/nowhere")) == []
