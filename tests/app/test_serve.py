"""From the command line: the page is for this computer alone, and nothing is left when it ends."""

import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

pytest.importorskip("gradio", reason="gradio is not installed")

import gradio as gr

from transmix.app.model import PageModel
from transmix.app.serve import private_files, served
from transmix.attention import AttentionError
from transmix.cli import app
from transmix.error import TransMixError
from transmix.recipes import RecipeError
from transmix.training.loop import train

ASKED: list[str] = []
LISTENING = threading.Event()


def hear(event, arguments):
    """Note which hosts this process asks for, by name or address."""
    if LISTENING.is_set() and event in ("socket.connect", "socket.getaddrinfo"):
        where = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        ASKED.append(str(where[0] if isinstance(where, tuple) else where))


sys.addaudithook(hear)  # hooks stay for good; this one hears nothing unless it is asked to


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_serves_here_alone_calls_nobody_and_leaves_nothing(
    number, code, tmp_path, monkeypatch, capsys, page_model, free_port
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(app, "load_model", lambda *_, **__: page_model.loaded)
    pages, folders, failures, ended = [], [], [], threading.Event()

    def visit_and_end():
        try:
            found = None
            while not (found or ended.is_set()):
                time.sleep(0.02)
                found = re.search(r"is at (http://127\.0\.0\.1:\d+/)  ", capsys.readouterr().out)
            with urllib.request.urlopen(found[1], timeout=300) as page:
                pages.append(page.read())
            folders.extend(tmp_path.glob("transmix-app-*"))
        except Exception as error:
            failures.append(error)
        if not ended.is_set():
            os.kill(os.getpid(), number)

    visitor = threading.Thread(target=visit_and_end)
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    LISTENING.set()
    ASKED.clear()
    visitor.start()
    try:
        assert app.main(["--port", str(free_port())]) == code
    finally:
        ended.set()
        LISTENING.clear()
        visitor.join()
    assert failures == []
    assert b"Content-Security-Policy" in pages[0]
    assert len(folders) == 1
    assert list(tmp_path.iterdir()) == []
    assert "127.0.0.1" in ASKED  # the hook hears
    assert set(ASKED) <= {"127.0.0.1", "localhost", "None"}
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_taken_port_is_an_error_and_without_one_a_free_one_is_found():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with gr.Blocks(analytics_enabled=False) as page:
            gr.HTML("")
        with pytest.raises(RecipeError) as error, private_files(), served(page, port):
            pass
    assert str(error.value) == (
        f"port {port} is taken, or not allowed; give another, or leave it out for the first free one from 7860: --port"
    )


def test_files_are_private_and_the_environment_is_as_before(monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "before")
    monkeypatch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
    with private_files() as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert folder.is_dir()
        (folder / "given.png").write_bytes(b"x")
    assert not folder.exists()
    assert os.environ["GRADIO_TEMP_DIR"] == "before"
    assert "GRADIO_ANALYTICS_ENABLED" not in os.environ


def test_random_weights_are_said_and_named_by_imagenets_classes(page_model):
    assert page_model.loaded.weights == "random"
    assert "The weights of this model are random" in page_model.notice
    assert page_model.classes[950] == "orange"
    assert PageModel(replace(page_model.loaded, weights="published"), torch.device("cpu")).notice == ""


def test_a_run_without_its_data_shows_photographs_and_says_so(tmp_path, small_recipe, images, monkeypatch):
    run, moved = tmp_path / "run", tmp_path / "images"
    shutil.copytree(images, moved)
    train(small_recipe(moved, max_steps=1), run)
    asked = app.App(str(run))
    loaded, data, notice = app._open(asked, {})
    assert (loaded.classes, len(data.val), notice) == (("dark", "light"), 8, "")
    page_model = PageModel(loaded, torch.device("cpu"), {}, data)
    assert page_model.weights == f"EMA of step 1 (last checkpoint), top-1 {100 * loaded.chosen.scores['top1']:.2f} %"
    own, partner = page_model.pair(0)
    assert {page_model.label(own), page_model.label(partner)} == {0, 1}
    assert page_model.pair(1) != page_model.pair(0)
    shutil.rmtree(moved)
    loaded, data, notice = app._open(asked, {})
    assert data is None
    assert notice.startswith(f"The run’s validation images cannot be read ({moved}")
    with pytest.raises(TransMixError):
        app._open(replace(asked, data=str(moved)), {})
    assert PageModel(loaded, torch.device("cpu")).pair(0) is None


def test_data_without_a_model_is_refused(says):
    with says(RecipeError, "--data needs a model whose classes it has: transmix app RUN --data DATA"):
        app.main(["--data", "digits"])


def test_a_model_that_cannot_be_read_says_so_at_the_start(page_model):
    convolutional = timm.create_model("resnet10t", num_classes=2).eval()
    with pytest.raises(AttentionError, match="ResNet"):
        PageModel(replace(page_model.loaded, model=convolutional), torch.device("cpu"))
    assert not list(Path(__file__).parents[2].glob("transmix/app/*.pyi"))  # Gradio writes them beside its subclasses
