"""Evaluation of a weights file on JPEG files against timm's validate.py: same weights, images, batch and workers.

    git clone https://github.com/huggingface/pytorch-image-models TIMM
    python benchmarks/evaluation.py --timm-checkout TIMM            DeiT-Tiny, 224 pixels, 256 photographs, on the CPU
    python benchmarks/evaluation.py --timm-checkout TIMM --gpu      DeiT-Small, 16,384 photographs, 16 workers

Each turn opens the data, builds the model, loads the weights and measures: validate.py loss, top-1 and top-5; ours also
the calibration error, its reliability diagram, the accuracy of each class and the confusion matrix. timm's own code
runs from its checkout (Apache-2.0), nothing of it is kept. Without --timm-checkout ours runs alone. The scores of both
must agree, or the script fails.
"""

import importlib.util
import logging
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from photographs import write_folders
from safetensors.torch import save_file
from timing import Report, flags, parse, rows, take_turns

from transmix.evaluation.evaluate import prepare, score
from transmix.models.loaded import load_with_data


def ours(arguments: Namespace, weights: Path, data: Path) -> Callable[[], dict[str, float]]:
    """Return a function that measures all we measure."""

    def measure() -> dict[str, float]:
        models, images = load_with_data(weights, str(data), model=arguments.model)
        ready = prepare(
            models, batch_size=arguments.batch, device=arguments.device, workers=arguments.workers,
            threads=arguments.threads or torch.get_num_threads(), amp=arguments.amp,
        )  # fmt: skip
        found = next(iter(score(ready, images).values()))
        return {"top1": 100 * found["top1"], "top5": 100 * found["top5"]}

    return measure


def timms(arguments: Namespace, weights: Path, data: Path) -> Callable[[], dict[str, float]]:
    """Return a function that calls validate.py of the checkout."""
    spec: Any = importlib.util.spec_from_file_location("timm_validate", arguments.timm_checkout / "validate.py")
    validate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(validate)
    logging.getLogger("validate").setLevel(logging.ERROR)
    options = {
        "data-dir": data, "split": "val", "model": arguments.model, "checkpoint": weights, "workers": arguments.workers,
        "num-classes": arguments.classes, "batch-size": arguments.batch, "device": arguments.device,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--amp", "--amp-dtype", "bfloat16"] if arguments.amp == "bf16" else []
    words += ["--pin-mem"] if arguments.device == "cuda" else []
    return lambda: validate.validate(validate.parser.parse_args(words))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = flags(__doc__, rounds=5)
    parser.add_argument("--timm-checkout", type=Path, help="a checkout of huggingface/pytorch-image-models")
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--stored", type=int, nargs=2, default=[375, 500], help="height and width of the JPEG files")
    parser.add_argument("--classes", type=int, default=10, help="class folders in the data")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--amp", default="none", choices=["none", "bf16"])
    sizes = {"model": "deit_small_patch16_224", "images": 16384, "batch": 256, "workers": 15, "amp": "bf16"}
    arguments = parse(parser, argv, {**sizes, "rounds": 3})
    report = Report(__file__, arguments, argv)
    with tempfile.TemporaryDirectory() as folder:
        height, width = arguments.stored
        data = write_folders(
            Path(folder, "data"), arguments.images, classes=arguments.classes, height=height, width=width
        )
        (data / "train").rename(data / "val-of-all")
        (data / "val").rename(data / "train")
        (data / "val-of-all").rename(data / "val")
        weights = Path(folder, "weights.safetensors")
        torch.manual_seed(0)
        save_file(timm.create_model(arguments.model, num_classes=arguments.classes).state_dict(), weights)
        turns = {"transmix": ours(arguments, weights, data)}
        if arguments.timm_checkout is not None:
            turns = {"timm": timms(arguments, weights, data), **turns}
            scores = {name: [run()[one] for one in ("top1", "top5")] for name, run in turns.items()}
            if any(abs(one - other) > 0.01 for one, other in zip(*scores.values(), strict=True)):
                raise SystemExit(f"the scores differ, so the two do not do the same: {scores}")
        times = take_turns(turns, arguments.rounds, warm_up=0 if len(turns) > 1 else 1, device=arguments.device)
    made = rows(f"{arguments.model}, batch {arguments.batch}", times, next(iter(turns)))
    report.add(
        [row | {"images_per_second": 1e3 * arguments.images / row["median_ms"]} for row in made],
        {"images_per_second": ".0f"},
    )


if __name__ == "__main__":
    main()
