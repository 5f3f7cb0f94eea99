"""transmix app: a web page on this computer to drag a box over two images and see what the label becomes."""

import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from transmix import distributed
from transmix.app.model import DEFAULT, PageModel
from transmix.app.page import build_page
from transmix.app.serve import private_files, served
from transmix.cli.options import parse
from transmix.models.loaded import load_model
from transmix.recipes import RecipeError


@dataclass(frozen=True)
class App:
    """Serve a page to this computer alone: drag a box over two images, and see the label by area and by attention.

    Ctrl-C ends it. Nothing is sent anywhere, and files given to the page are deleted at the end.
    """

    target: Annotated[str | None, tyro.conf.Positional, "page"] = None
    """A run folder; an exported folder; a .safetensors file; a timm name, whose published weights are downloaded if
    needed. Default: deit_tiny_patch16_224, with its published weights if
    they are on this machine, else random ones."""
    port: int | None = None
    """Port of the page; None: 7860, or the first free one after it."""
    checkpoint: Annotated[Literal["last", "best"], "model"] = "last"
    """Checkpoint of a run to use."""
    weights: Literal["auto", "model", "ema"] = "auto"
    """Weights of a run: 'model', the weights as trained; 'ema', their exponential moving average; 'auto', the EMA if
    there is one and its score is not far below the model's."""
    model: str | None = None
    """timm name of the model in a .safetensors file without that name in its metadata."""
    grey_range: tuple[float, float] | None = None
    """Pixel values for black and white in grey images of more than 8 bits; None: the range saved in the run."""
    device: str = "auto"
    """'auto': cuda if there is a GPU, else cpu."""


def main(arguments: list[str]) -> int:
    """Parse the command line, open the model, serve the page until Ctrl-C, and return the exit code."""
    asked = parse(App, "app", arguments)
    if asked.port is not None and not 1 <= asked.port <= 65535:
        raise RecipeError(f"port must be 1 to 65535, not {asked.port}")
    device = distributed.start(asked.device).device
    options: dict[str, Any] = {"offline": True}
    if asked.target is not None:
        given = {name: getattr(asked, name) for name in ("model", "checkpoint", "weights")}
        options = {name: value for name, value in given.items() if value != getattr(App, name)}
    loaded = load_model(asked.target or DEFAULT, grey_range=asked.grey_range, **options)
    print(f"weights: {loaded.weights}", flush=True)
    model = PageModel(loaded, device, options)
    with _signals() as came, private_files(), served(build_page(model), asked.port) as address:
        print(f"{loaded.target} is at {address}  (Ctrl-C ends it)", flush=True)
        if model.notice:
            print(model.notice.replace("`", ""), flush=True)
        number = came.get()
    print("ended; the files given to the page are deleted")
    return 0 if number == signal.SIGINT else 128 + number


@contextmanager
def _signals() -> Iterator[queue.SimpleQueue[int]]:
    """Put the numbers of Ctrl-C and SIGTERM into a queue when they come."""
    came: queue.SimpleQueue[int] = queue.SimpleQueue()
    both = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: came.put(number)) for number in both}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
