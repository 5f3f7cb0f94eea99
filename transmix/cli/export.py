"""transmix export: a run's model for timm, Hugging Face Transformers or ONNX."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from transmix.cli.options import parse
from transmix.export.write import export_run


@dataclass(frozen=True)
class Export:
    """Write a run's model, with class names and preprocessing, for timm, Hugging Face Transformers or ONNX."""

    run: Annotated[Path, tyro.conf.Positional, "export"]
    """A run folder."""
    out: Path | None = None
    """Output folder, must be absent or empty; default: RUN/export."""
    format: tuple[Literal["timm", "huggingface", "onnx"], ...] = ("timm",)
    """One or more formats. timm and huggingface write the same files; each is checked with its own library."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint of the run."""
    weights: Literal["auto", "model", "ema"] = "auto"
    """'model': the weights as trained; 'ema': their exponential moving average; 'auto': the EMA if there is one and its
    score is not far below the model's."""


def main(arguments: list[str]) -> None:
    """Parse the command line, write the folder, say what is in it."""
    asked = parse(Export, "export", arguments)
    out = asked.out or asked.run / "export"
    loaded = export_run(asked.run, out, asked.format, checkpoint=asked.checkpoint, weights=asked.weights)
    print(f"weights: {loaded.weights}")
    print(f"{', '.join(sorted(path.name for path in out.iterdir()))} in {out}")
    print("each file was opened again and gives the run's logits; README.md says how to load them")
