"""Does attention give boxes of background less than their area, and boxes on the object more? TransMix's premise.

    python benchmarks/empty_boxes.py RUN                      a run's held-out images, its own masks
    python benchmarks/empty_boxes.py WEIGHTS.safetensors --data PETS

CutMix boxes are drawn as in training and pasted from one held-out image B into another, A. For each, the share of the
class token's attention inside the box minus its share of the area: what TransMix adds to B's label, before it takes the
mean with the area. A box is

    empty        if it holds no pixel of B's object, nor of its unsure outline
    on object    if it holds at least half of B's object (--on)
    in between   otherwise

Attention that is even over the patches gives 0 with 'attention_fraction', which shares a patch between both sides of a
box's border; 'attention' is the paper's way, by each patch's upper left pixel. --shift: see label_truth.py.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_truth import write

from transmix.data.masks import open_masks
from transmix.evaluation.evaluate import prepare
from transmix.evaluation.label_pairs import PairLabels, draw_pairs
from transmix.evaluation.label_scores import mean_interval
from transmix.evaluation.label_truth import RULES, weigh
from transmix.labels import AttentionLabels
from transmix.models.loaded import load_with_data


def kinds_of(weighed: PairLabels, on: float) -> dict[str, np.ndarray]:
    """Return kind -> (n,) bool, by how much of B's object each box holds."""
    holds = weighed.seen[:, 1] / weighed.whole[:, 1]
    empty, much = weighed.seen[:, 1] == 0, holds >= on
    return {"empty": empty, "in between": ~empty & ~much, "on object": much}


def differences(weighed: PairLabels, kinds: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return for each rule and kind of box the mean of (share by the rule - share of the area), with its interval."""
    rows = []
    for rule, lam in weighed.lam.items():
        for kind, those in kinds.items():
            difference = (weighed.lam_area - lam)[those]
            mean, low, high = mean_interval(difference)
            area = mean_interval(1 - weighed.lam_area[those])[0]
            below = float((difference < 0).mean()) if len(difference) else float("nan")
            row = {"rule": rule, "box": kind, "boxes": len(difference), "area": area, "difference": mean}
            rows.append(row | {"interval": [low, high], "below_area": below})
    return rows


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", metavar="RUN", help="a run folder, a .safetensors file, or a timm model")
    parser.add_argument("--data", help="data set with masks; a run's own if not given")
    parser.add_argument("--boxes", type=int, default=1000)
    parser.add_argument("--on", type=float, default=0.5, help="share of B's object that a box 'on object' holds")
    parser.add_argument("--seed", type=int, default=0, help="decides pairs and boxes")
    parser.add_argument("--shift", type=int, help="pixels to move the mask by")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--label", help="what the file calls the model; its path if not given")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)

    loaded, data = load_with_data(asked.target, asked.data)
    evaluators = prepare(loaded, device=asked.device)
    masks, size = open_masks(data), evaluators[0].preprocessing.height_width
    pairs = draw_pairs(asked.boxes, data.val.labels, size, asked.seed)
    rules = {name: rule for name, rule in RULES.items() if name.startswith("attention")}
    if asked.shift is not None:
        rules["attention_shifted"] = AttentionLabels(1.0, "fraction", asked.shift)
    models = {}
    for one in evaluators:  # unsure pixels count as the object: what is called empty is
        weighed = weigh(one, data.val, lambda index: (masks(index) > 0).astype(np.uint8), pairs, rules)
        models[one.name] = differences(weighed, kinds_of(weighed, asked.on))
        print(f"\n{one.name} of {asked.label or asked.target} on {data.name}: attention share - area share")
        print(
            f"{'rule':<20}{'box':<12}{'boxes':>6}{'area':>8}{'difference':>12}{'95 % interval':>20}{'below area':>12}"
        )
        for row in models[one.name]:
            low, high = row["interval"]
            print(
                f"{row['rule']:<20}{row['box']:<12}{row['boxes']:>6}{row['area']:>8.3f}{row['difference']:>+12.3f}"
                f"{f'{low:+.3f} to {high:+.3f}':>20}{row['below_area']:>12.0%}"
            )
    write(asked, "empty_boxes", {"data": data.name, "models": models})


if __name__ == "__main__":
    main()
