"""transmix app: a web page on this computer to drag a box over two images and see what the label becomes."""

import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from transmix import distributed
from transmix.app.opened import open_model
from transmix.app.page import build_page
from transmix.app.serve import private_files, served
from transmix.app.values import Watched
from transmix.cli.options import parse
from transmix.recipes import RecipeError


@dataclass(frozen=True)
class App:
    """Serve a page to this computer alone: drag a box over two images, and see the label by area and by attention.

    Ctrl-C ends it. Nothing is sent anywhere, and files given to the page are deleted at the end.
    """

    target: Annotated[str | None, tyro.conf.Positional] = None
    """A run folder; a .safetensors file; the name of a timm model, whose published weights are fetched unless they are
    here; nothing: deit_tiny_patch16_224, with its published weights if they are here, else with random ones."""
    port: int | None = None
    """Where the page is served; None: 7860, or the first free one after it."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint of a run."""
    weights: Literal["auto", "model", "ema"] = "auto"
    """Of a run: 'ema': the running average; 'model': the weights themselves; 'auto': the average if there is one
    and its score is not far below the model's."""
    model: str | None = None
    """timm name of the model in a .safetensors file that does not say so itself."""
    grey_range: tuple[float, float] | None = None
    """The values that are black and white in grey images of more than 8 bits; None: those that a run has kept."""
    device: str = "auto"
    """'auto': cuda where there is one, else cpu."""


def main(arguments: list[str]) -> int:
    """Parse the command line, open the model, serve the page until Ctrl-C, and return the exit code."""
    asked = parse(App, "app", arguments)
    if asked.port is not None and not 1 <= asked.port <= 65535:
        raise RecipeError(f"port must be 1 to 65535, not {asked.port}")
    device = distributed.start(asked.device).device
    opened = open_model(
        asked.target,
        model=asked.model,
        checkpoint=asked.checkpoint,
        weights=asked.weights,
        grey_range=asked.grey_range,
    )
    print(f"weights: {opened.viewed.taken}", flush=True)
    watched = Watched(opened.viewed, device)
    with _signals() as came, private_files(), served(build_page(opened, watched, str(device)), asked.port) as address:
        print(f"{opened.name} is at {address}  (Ctrl-C ends it)", flush=True)
        if opened.notice:
            print(opened.notice.replace("`", ""), flush=True)
        number = came.get()
    print("ended; the files given to the page are deleted")
    return 0 if number == signal.SIGINT else 128 + number


@contextmanager
def _signals() -> Iterator[queue.SimpleQueue[int]]:
    """Put the numbers of Ctrl-C and SIGTERM into a queue when they come."""
    came: queue.SimpleQueue[int] = queue.SimpleQueue()
    before = {
        number: signal.signal(number, lambda number, _: came.put(number)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
