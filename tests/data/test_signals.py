"""Loader workers are deaf to what asks a run to stop, unless the training process itself ends them."""

import signal
import subprocess
import sys

import pytest

import transmix.data.loader
from transmix.training.stopping import SIGNALS

FAMILY = """
import os, runpy, signal, sys, time
ignore_signals = runpy.run_path(sys.argv[1])["ignore_signals"] if sys.argv[2] == "deaf" else lambda _: None

ready, told = os.pipe()
worker = os.fork()
if worker == 0:
    ignore_signals(0)
    os.write(told, b"x")
    time.sleep(600)
    os._exit(3)
os.read(ready, 1)
stranger = os.fork()
if stranger == 0:
    for number in map(int, sys.argv[4:]):
        os.kill(worker, number)
    os._exit(0)
os.waitpid(stranger, 0)
until = time.monotonic() + float(sys.argv[3])
found = 0
while not found and time.monotonic() < until:
    time.sleep(0.01)
    found, status = os.waitpid(worker, os.WNOHANG)
if found:
    print("ended by a stranger")
else:
    os.kill(worker, signal.SIGTERM)
    print("ended by its parent with", os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
"""


def family(hears, waits, *signals):
    """Let a stranger send signals to a worker, wait so many seconds for its end, and say who ended it."""
    command = [sys.executable, "-c", FAMILY, transmix.data.loader.__file__, hears, str(waits), *map(str, signals)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300).stdout.strip()


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not say who sent a signal")
def test_a_worker_outlives_every_signal_but_its_parents():
    assert family("deaf", 0.2, *map(int, SIGNALS)) == "ended by its parent with 0"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_that_listens_does_not(number):
    assert family("listening", 200, int(number)) == "ended by a stranger"
