"""How far mixed labels are from what the images really contribute, epoch by epoch, by each label rule.

    python benchmarks/label_truth.py RUN                      every checkpoint that the run keeps
    python benchmarks/label_truth.py WEIGHTS.safetensors --data PETS

The truth is the share of foreground that each image contributes, by the data set's masks, as in
`transmix.evaluation.label_truth`, whose rules these are: rules that look, and null rules that do not. For each the
table gives the mean of |lam - truth| with half its 95 % interval, in the evaluation crop and in the run's training
crops; where one image is a ghost; and the correlation with what is specific to the images, which is 0 for a rule that
does not look at them. A run keeps its last checkpoints and the best; train with --keep-checkpoints 1000 to see every
epoch.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import where

from transmix.data.dataset import ImageData
from transmix.data.masks import open_masks
from transmix.evaluation.evaluate import Evaluator, prepare
from transmix.evaluation.label_pairs import PER_BOX, Pair, draw_pairs
from transmix.evaluation.label_scores import judged, scores, true_lam
from transmix.evaluation.label_truth import evaluation_view, training_view, weigh_all
from transmix.models.loaded import load_with_data
from transmix.runs.checkpoint import list_checkpoints, read_state, read_tensors

COLUMNS = ("error", "error_in_training", "ghost_error", "image_specific")
"""What is printed; the file holds more."""


def each_epoch(target: str, evaluators: Sequence[Evaluator]) -> Iterator[int | None]:
    """Load the weights of one epoch of a run after the other; yield its number, None of what is no run."""
    checkpoints = list_checkpoints(Path(target) / "checkpoints") if Path(target).is_dir() else []
    for folder in checkpoints:
        state = read_state(folder)
        for one in evaluators:
            one.model.load_state_dict(read_tensors(folder / f"{one.name}.safetensors")[0])
        yield state["step"] // state["steps_per_epoch"]
    if not checkpoints:
        yield None


def measure(one: Evaluator, data: ImageData, pairs: Sequence[Pair], seed: int, by: str) -> dict[str, dict[str, Any]]:
    """Return rule -> its scores, each with its interval, and the pairs that count."""
    masks = open_masks(data)
    views = {"": evaluation_view(one, data.val, masks), "_in_training": training_view(one, data.val, masks, seed)}
    found: dict[str, dict[str, Any]] = {}
    for suffix, view in views.items():
        if view is None:
            continue
        weighed = judged(weigh_all(one, data.val, masks, pairs, seed, view), by)
        counted = int((~np.isnan(true_lam(weighed.seen, weighed.whole, by))).sum())
        for rule, of in scores(weighed, by).items():
            of_rule = found.setdefault(rule, {})
            of_rule[f"pairs{suffix}"] = counted
            of_rule |= {f"{name}{suffix}": [round(value, 5) for value in estimate] for name, estimate in of.items()}
    return found


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", metavar="RUN", help="a run folder, a .safetensors file, or a timm model")
    parser.add_argument("--data", help="data set with masks; a run's own if not given")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="decides pairs and boxes")
    parser.add_argument("--by", choices=["object", "pixel"], default="object", help="what counts as true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--label", help="what the file calls the model; its path if not given")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)

    models, data = load_with_data(asked.target, asked.data)
    evaluators = prepare(models, device=asked.device)
    size = evaluators[0].preprocessing.height_width
    pairs = draw_pairs(asked.pairs, data.val.labels, size, asked.seed, per_box=PER_BOX)
    truth = []
    for epoch in each_epoch(asked.target, evaluators):
        for one in evaluators:
            found = measure(one, data, pairs, asked.seed, asked.by)
            truth.append({"epoch": epoch, "model": one.name, "by": asked.by, "rules": found})
            print(f"\n{one.name}{'' if epoch is None else f', epoch {epoch}'}")
            print(f"{'rule':<20}" + "".join(f"{name:>24}" for name in COLUMNS))
            for rule, of in found.items():
                cells = (
                    f"{of[name][0]:.3f} +- {of[name][2] - of[name][0]:.3f}" if name in of else "-" for name in COLUMNS
                )
                print(f"{rule:<20}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    write(asked, "label_truth", {"data": data.name, "truth": truth})


def write(asked: argparse.Namespace, benchmark: str, figures: dict[str, Any]) -> None:
    """Write figures with the command that made them, commit, versions and machine, if a file was named."""
    if asked.json is None:
        return
    settings = {name: value for name, value in vars(asked).items() if name not in ("json", "target", "label")}
    if asked.data:
        settings["data"] = Path(asked.data).name  # where it lay here helps nobody
    model = asked.label or Path(asked.target).name
    options = "".join(f" --{name} {value}" for name, value in settings.items() if value is not None)
    about = {"benchmark": benchmark, "command": f"python benchmarks/{benchmark}.py RUN{options}", "model": model}
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(
        json.dumps({**about, "settings": settings, **where(asked.device), **figures}, indent=1) + "\n"
    )
    print(f"written to {asked.json}")


if __name__ == "__main__":
    main()
