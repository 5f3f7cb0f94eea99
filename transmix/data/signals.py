"""Signals in loader workers: what asks a run to stop is for the training process alone."""

import os
import signal
import threading


def ignore_signals(_: int) -> None:
    """Make a loader worker ignore SIGINT, SIGTERM and SIGUSR1; a DataLoader's worker_init_fn.

    A scheduler, or Ctrl-C, signals every process of a job. The training process then saves and stops, for which its
    workers must live. They end when it tells them to, and by themselves soon after it has gone.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows, where a worker that hangs has to be killed
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_at_the_word_of, args=(os.getppid(),), daemon=True).start()


def _end_at_the_word_of(parent: int) -> None:
    """Wait for SIGTERM from the training process itself: torch clears up workers that hang with it."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
