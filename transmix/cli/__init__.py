"""The command line: one file per command, imported when called."""

import importlib
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec

from transmix.error import TransMixError
from transmix.printable import printable

VERBS = {
    "train": "train a Vision Transformer as a recipe says",
    "doctor": "check every image of a data set before training",
    "pack": "resize a data set once, to files that are read fast",
    "evaluate": "measure a run, a timm model or a weights file",
    "predict": "predict the classes of image files, as a table and as a page",
    "app": "serve a page to this computer: drag a box over two images, see what the label becomes",
    "compare": "compare runs: scores over seeds, and whether a difference is more than noise",
    "export": "write a run's model for timm, Hugging Face or ONNX",
    "methods": "list the methods for --mix and the rules for --labels",
    "models": "list the models that are read, where, and how well",
    "replay": "re-run a step with NaN or Inf and locate it",
    "show": "draw figures: mixed pairs, attention, curves, reliability",
    "report": "write a self-contained HTML report",
    "recipes": "list, show or copy the recipes that come with the package",
}

CONTINUED = {
    "train": "; the same command with --resume continues the run",
    "compare": "; the same command continues where it stopped",
    "pack": "; the same command continues where it stopped",
}
"""Command -> how it goes on after it was interrupted, of those that can."""

EXTRAS = {
    "app": "gradio",
    "tensorboard": "tensorboard",
    "onnx": "onnx onnxruntime onnxscript",
    "huggingface": "transformers datasets accelerate",
    "lightning": "lightning",
}
"""Extra -> packages that it brings; all others are in the extra 'train'."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 bad usage or input, 128 + n stopped by signal n."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb == "--version":
        from transmix import __version__

        print(f"transmix {__version__}")
        return 0
    if verb not in VERBS:
        import difflib

        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use {', '.join(VERBS)}"
        return complain(" ".join([f"no command {verb!r};", hint, *_bare()]))
    try:
        return _run(verb, rest)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "transmix"):
            raise
        extra = next((extra for extra, packages in EXTRAS.items() if package in packages.split()), "train")
        return complain(f"{package} is not installed; install what {verb} needs: pip install 'transmix[{extra}]'")


def _run(verb: str, rest: list[str]) -> int:
    """Import a command, run it, and turn errors into one line and an exit code."""
    module = importlib.import_module(f"transmix.cli.{verb}")
    try:
        return _recorded(module.main)(rest) or 0
    except TransMixError as error:
        return complain(str(error), error.code)
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return complain(f"interrupted{CONTINUED.get(verb, '')}", code=130)
    return 0


def _recorded(function: Callable[[list[str]], int | None]) -> Callable[[list[str]], int | None]:
    """Under torchrun, record errors in torchrun's error file: its report then shows the first failed process."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return function
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(function)


def complain(message: str, code: int = 2) -> int:
    """Print an error in one line and return the exit code."""
    # A file's name in it may hold what a terminal obeys.
    print(f"transmix: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {what}" for verb, what in VERBS.items()]
    about = "usage: transmix COMMAND ...\n\nAttention-guided label mixing for Vision Transformers.\n"
    return "\n".join([about, *lines, "\ntransmix COMMAND --help explains a command.", *_bare()])


def _bare() -> list[str]:
    """Return the packages to install, if only torch is installed."""
    try:
        there = all(map(find_spec, ("numpy", "tyro", "timm")))
    except ModuleNotFoundError:
        there = False
    return [] if there else ["(commands need more than torch: pip install 'transmix[train]')"]
