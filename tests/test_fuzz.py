"""Three hundred damaged files of each kind are read or refused, quickly, and touch nothing outside the run folder."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fuzz_script", ROOT / "scripts" / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["images", "recipes", "checkpoints"])
def test_damage_is_read_or_refused_and_touches_nothing(script, kind):
    outcome = script.fuzz(kind, 300, seed=1, seconds=60)
    assert outcome.failures == []
    assert outcome.counts["refused"] > 60
    assert outcome.counts["read"] > 10
    assert outcome.counts.total() == 300


def test_a_case_is_the_same_whenever_it_is_tried(script):
    def contents(first):
        found = []

        def attempt(rng):
            found.append(script.damaged(b"x" * 100, rng, [b"y" * 100]))
            return "read"

        script.KINDS["echo"] = lambda _: attempt
        script.fuzz("echo", 10 - first, first=first)
        del script.KINDS["echo"]
        return found

    assert contents(4) == contents(0)[4:]


@pytest.mark.parametrize(
    "misdeed",
    [
        lambda run: (run.parent / "stray.txt").write_text("x"),
        lambda run: (run / ".." / "stray").mkdir(),
        lambda run: os.rename(run / "in", run.parent / "out"),
        lambda run: subprocess.run(["true"], check=True),
        lambda run: (_ for _ in ()).throw(KeyError("x")),
    ],
)
def test_misdeeds_are_noticed(script, misdeed):
    def kind(run):
        (run / "in").mkdir()
        return lambda rng: misdeed(run) and "read"

    script.KINDS["evil"] = kind
    try:
        assert script.fuzz("evil", 1).failures
    finally:
        del script.KINDS["evil"]


def test_a_slow_case_is_a_failure(script):
    import time

    script.KINDS["slow"] = lambda _: lambda rng: time.sleep(0.05) or "read"
    try:
        assert "took" in script.fuzz("slow", 1, seconds=0.01).failures[0]
    finally:
        del script.KINDS["slow"]
