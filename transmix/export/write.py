"""Write a run's model in the requested formats, into one folder that is either complete or absent."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from transmix.export.card import card
from transmix.export.error import ExportError
from transmix.export.huggingface import check_huggingface
from transmix.export.onnx import write_onnx
from transmix.export.timm import write_timm
from transmix.models.loaded import LoadedModel, load_model
from transmix.runs.error import RunError
from transmix.runs.weights import is_run

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
    check_formats(formats)
    check_absent(out)
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


def check_formats(formats: Sequence[str]) -> None:
    """Check that each format is known and its packages are installed.

    Raises:
        ExportError: an unknown format, or a missing package.
    """
    if not formats or not set(formats) <= set(PACKAGES):
        raise ExportError(f"formats are {', '.join(PACKAGES)}, one or more, not {' '.join(formats) or 'none'}")
    for name in formats:
        for package in PACKAGES[name]:
            if find_spec(package) is None:
                raise ExportError(
                    f"{package} is not installed: pip install 'transmix[{name}]', or leave --format {name} out"
                )


def check_absent(out: Path) -> None:
    """Check that a folder is absent or empty.

    Raises:
        ExportError: it is neither.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists already; give another --out, or remove it first")


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
