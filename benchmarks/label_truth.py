"""How far mixed labels are from what the images really contribute, epoch by epoch, by each label rule.

    python benchmarks/label_truth.py RUN                      every checkpoint that the run keeps
    python benchmarks/label_truth.py WEIGHTS.safetensors --data PETS

The truth is the share of foreground that each image contributes, by the data set's masks, as in
`transmix.evaluation.label_truth`. The table gives for each rule the mean of |lam - truth|, half its 95 % interval,
and the rank correlation of both. A run keeps its last checkpoints and the best; train with --keep-checkpoints 1000 to
see every epoch.

--shift weighs once more with the mask moved down and right by some pixels, as a token sees it whose receptive field is
centred that much above and left of the middle of its patch. Where patches overlap, as in convolutional stems (XCiT), it
is centred on the patch's upper left pixel: half a patch.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import where
from torch import Tensor
from torch.nn import functional as F

from transmix.data.dataset import ImageData
from transmix.data.masks import open_masks
from transmix.evaluation.evaluate import Evaluator, prepare
from transmix.evaluation.label_truth import RULES, Pair, Rule, agreement, draw_pairs, true_lam, weigh
from transmix.mixing import Mixed
from transmix.models.loaded import load_with_data
from transmix.runs.checkpoint import list_checkpoints, read_state, read_tensors


def moved(rule: Rule, pixels: int) -> Rule:
    """Return a rule that sees the mask moved down and right by some pixels; the border's values come in."""

    def weigh_moved(mixed: Mixed, attention: Tensor, grid: tuple[int, int]) -> Mixed:
        assert mixed.mask is not None
        whole = F.pad(mixed.mask[:, None].float(), (pixels, 0, pixels, 0), mode="replicate")[:, 0] > 0
        height, width = mixed.mask.shape[-2:]
        return rule(replace(mixed, mask=whole[:, :height, :width]), attention, grid=grid)

    return weigh_moved


def rules_with(shift: int | None) -> dict[str, Rule]:
    """Return the suite's rules, and two with the moved mask if asked for."""
    if shift is None:
        return dict(RULES)
    return {**RULES, **{f"{name}_shifted": moved(RULES[f"{name}_fraction"], shift) for name in ("attention", "mean")}}


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


def measure(
    one: Evaluator, data: ImageData, pairs: Sequence[Pair], rules: dict[str, Rule], by: str
) -> dict[str, dict[str, Any]]:
    """Return rule -> error, error over area and rank correlation, each with its interval; and the pairs that count."""
    weighed = weigh(one, data.val, open_masks(data), pairs, rules)
    truth = true_lam(weighed.seen, weighed.whole, by)
    known = ~np.isnan(truth)
    found: dict[str, dict[str, Any]] = {}
    for rule, lam in weighed.lam.items():
        scores = agreement(lam[known], truth[known], weighed.lam_area[known])
        found[rule] = {"pairs": int(known.sum())} | {
            name: [round(value, 5) for value in estimate] for name, estimate in scores.items()
        }
    return found


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", metavar="RUN", help="a run folder, a .safetensors file, or a timm model")
    parser.add_argument("--data", help="data set with masks; a run's own if not given")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="decides pairs and boxes")
    parser.add_argument("--by", choices=["object", "pixel"], default="object", help="what counts as true")
    parser.add_argument("--shift", type=int, help="pixels to move the mask by")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--label", help="what the file calls the model; its path if not given")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)

    rules = rules_with(asked.shift)
    models, data = load_with_data(asked.target, asked.data)
    evaluators = prepare(models, device=asked.device)
    pairs = draw_pairs(asked.pairs, data.val.labels, evaluators[0].preprocessing.height_width, asked.seed)
    print(f"{'epoch':>5} {'model':<6}" + "".join(f"{rule:>26}" for rule in rules))
    truth = []
    for epoch in each_epoch(asked.target, evaluators):
        for one in evaluators:
            found = measure(one, data, pairs, rules, asked.by)
            truth.append({"epoch": epoch, "model": one.name, "by": asked.by, "rules": found})
            cells = [
                f"{error[0]:.3f} +- {error[2] - error[0]:.3f}, r {score['rank_correlation'][0]:.3f}"
                for score in found.values()
                for error in [score["error"]]
            ]
            print(f"{epoch or '-':>5} {one.name:<6}" + "".join(f"{cell:>26}" for cell in cells), flush=True)
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
