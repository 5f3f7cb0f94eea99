"""Loader workers are deaf to what asks a run to stop, unless the training process itself ends them."""

import multiprocessing
import os
import signal
import time

import pytest

from transmix.data.loader import ignore_signals
from transmix.training.stopping import SIGNALS


def family(hears, waits, signals):
    """Let a stranger send signals to a worker, wait so many seconds for its end, and say who ended it."""
    for number in SIGNALS:  # a shell lets what it starts in the background ignore SIGINT, and that is inherited
        signal.signal(number, signal.SIG_DFL)
    ready, told = os.pipe()
    worker = os.fork()
    if worker == 0:
        hears(0)
        os.write(told, b"x")
        time.sleep(600)
        os._exit(3)
    os.read(ready, 1)
    stranger = os.fork()
    if stranger == 0:
        for number in signals:
            os.kill(worker, number)
        os._exit(0)
    os.waitpid(stranger, 0)
    until = time.monotonic() + waits
    while time.monotonic() < until:
        time.sleep(0.01)
        if os.waitpid(worker, os.WNOHANG)[0]:
            return "ended by a stranger"
    os.kill(worker, signal.SIGTERM)
    return f"ended by its parent with {os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])}"


def ended(*arguments):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(family, arguments)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not say who sent a signal")
def test_a_worker_outlives_every_signal_but_its_parents():
    assert ended(ignore_signals, 0.2, SIGNALS) == "ended by its parent with 0"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_that_listens_does_not(number):
    assert ended(int, 200, [number]) == "ended by a stranger"
