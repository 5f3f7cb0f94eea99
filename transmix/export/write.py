"""Write a run's model in the requested formats, into one folder that is either complete or absent."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from transmix import __version__
from transmix.export.check import ExportError, check_huggingface
from transmix.export.onnx import write_onnx
from transmix.export.timm import write_timm
from transmix.metrics import METRICS, TRAINING_METRICS, in_log, says_something
from transmix.models.loaded import LoadedModel, load_model
from transmix.recipes.mixing import title
from transmix.runs.error import RunError
from transmix.runs.weights import is_run
from transmix.training.optimizer import peak_lr

PACKAGES = {"timm": (), "huggingface": ("transformers",), "onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Formats, and what each needs beyond what training does."""


def export_run(
    run: Path, out: Path, formats: Sequence[str] = ("timm",), *, checkpoint: str = "last", weights: str = "auto"
) -> LoadedModel:
    """Export a run's model for other programs; a failed export leaves no files.

    Args:
        run: run folder.
        out: output folder; must be absent or empty.
        formats: "timm", "huggingface" (the same files, checked with Transformers), "onnx".
        checkpoint: "last" or "best".
        weights: "model", "ema", or "auto": the EMA if the run has one whose score is not far below the model's.

    Returns:
        The exported model.

    Raises:
        ExportError: a missing package, a folder that is not empty, or a model that the format does not support.
        RunError, CheckpointError, RecipeError: the run cannot be opened.

    Example:
        >>> export_run(Path("runs/digits"), Path("digits"), ["timm", "onnx"])  # doctest: +SKIP
    """
    if not formats or not set(formats) <= set(PACKAGES):
        raise ExportError(f"formats are {', '.join(PACKAGES)}, one or more, not {' '.join(formats) or 'none'}")
    for name in formats:
        if missing := [package for package in PACKAGES[name] if find_spec(package) is None]:
            hint = f"pip install 'transmix[{name}]', or leave --format {name} out"
            raise ExportError(f"{missing[0]} is not installed: {hint}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists already; give another --out, or remove it first")
    if not is_run(run):
        raise RunError(f"{run}: no such run folder" if not run.is_dir() else f"{run} is no run (no recipe.yaml)")
    loaded = load_model(run, checkpoint=checkpoint, weights=weights)
    write_export(loaded, out, formats)
    return loaded


def write_export(loaded: LoadedModel, out: Path, formats: Sequence[str]) -> None:
    """Export a loaded model; arguments and errors as in `export_run`."""
    if "huggingface" in formats and loaded.settings.class_attention:
        raise ExportError(
            "Transformers opens plain timm models only, and this one has a class-attention head in place of its "
            "pooling; use --format timm (opened by transmix.models.loaded.load_model) or --format onnx"
        )
    with _whole_folder(out) as folder:
        if {"timm", "huggingface"} & set(formats):
            write_timm(folder, loaded)
        if "huggingface" in formats:
            check_huggingface(folder, loaded)
        if "onnx" in formats:
            write_onnx(folder, loaded)
        (folder / "README.md").write_text(card(loaded, formats), encoding="utf-8")


def card(loaded: LoadedModel, formats: Sequence[str]) -> str:
    """Return README.md: what the model is, how well it does, how to load it; with the header that the hub reads.

    Raises:
        ExportError: the model does not come from a run.
    """
    recipe, chosen, classes = loaded.recipe, loaded.chosen, loaded.classes or ()
    if recipe is None or chosen is None:
        raise ExportError(f"{loaded.target} is not a run; only a run has a model card")
    model, image, scores = recipe.model, loaded.preprocessing.as_json(), chosen.scores
    start = f"the weights {Path(model.init).name}" if model.init else "its published weights"
    # Nothing is escaped: it is Markdown. A value that the template asks for and does not get is an error.
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template("card.md").render(
        loaded=loaded,
        recipe=recipe,
        classes=classes,
        formats=sorted(set(formats)),
        image=image,
        weights=f"{sum(weight.numel() for weight in loaded.model.parameters()) / 1e6:.2f}",
        start=start if model.init or model.pretrained else "random weights",
        data=Path(recipe.data.data or "").name,
        lr=f"{TRAINING_METRICS['lr'].label} {peak_lr(recipe.optimization):g}",
        mixing=title(recipe.mixing.mix, recipe.mixing.labels),
        scores=[
            f"{metric.label} {metric.write(scores[in_log(name)])}"
            for name, metric in METRICS.items()
            if in_log(name) in scores and says_something(name, len(classes))
        ],
        version=__version__,
    )
    return text.rstrip("\n") + "\n"


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder; rename it to `out` on success, remove it on an error."""
    out = out.resolve()
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(out)
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
