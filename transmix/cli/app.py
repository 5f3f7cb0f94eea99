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
from transmix.data.dataset import ImageData
from transmix.error import TransMixError
from transmix.models.loaded import LoadedModel, load_model, load_with_data
from transmix.recipes import RecipeError
from transmix.runs.weights import is_run


@dataclass(frozen=True)
class App:
    """Serve a page to this computer alone: mix two images, and see the label by every rule.

    A run's page opens on its own validation images; other models show example photographs unless --data is given.
    Ctrl-C ends it. Nothing is sent anywhere, and files given to the page are deleted at the end.
    """

    target: Annotated[str | None, tyro.conf.Positional, "page"] = None
    """A run folder; an exported folder; a .safetensors file; a timm name, whose published weights are downloaded if
    needed. Default: deit_tiny_patch16_224, with its published weights if
    they are on this machine, else random ones."""
    port: int | None = None
    """Port of the page; None: 7860, or the first free one after it."""
    data: str | None = None
    """Data set whose validation images are shown; default: the run's own."""
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
    if asked.data is not None and asked.target is None:
        raise RecipeError("--data needs a model whose classes it has: transmix app RUN --data DATA")
    device = distributed.start(asked.device).device
    options: dict[str, Any] = {"offline": True}
    if asked.target is not None:
        given = {name: getattr(asked, name) for name in ("model", "checkpoint", "weights", "grey_range")}
        options = {name: value for name, value in given.items() if value != getattr(App, name)}
    loaded, data, notice = _open(asked, options)
    print(f"weights: {loaded.weights}", flush=True)
    model = PageModel(loaded, device, options | ({"data": asked.data} if asked.data else {}), data)
    model.notice += notice
    with _signals() as came, private_files(), served(build_page(model), asked.port) as address:
        print(f"{loaded.target} is at {address}  (Ctrl-C ends it)", flush=True)
        if model.notice:
            print(model.notice.replace("`", ""), flush=True)
        number = came.get()
    print("ended; the files given to the page are deleted")
    return 0 if number == signal.SIGINT else 128 + number


def _open(asked: App, options: dict[str, Any]) -> tuple[LoadedModel, ImageData | None, str]:
    """Return the model, the data whose validation images are shown, and a notice where a run's cannot be read."""
    notice, target = "", asked.target or DEFAULT
    if asked.data is not None or is_run(target):
        try:
            (loaded,), data = load_with_data(target, asked.data, **{"weights": "auto", **options})
            return loaded, data, ""
        except TransMixError as error:
            if asked.data is not None:
                raise
            notice = f"The run’s validation images cannot be read ({error}); example photographs are shown. "
    return load_model(target, **options), None, notice


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
