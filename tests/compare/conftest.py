"""Run folders as training leaves them, written by hand: any scores, any settings, at once."""

import json
import math
from dataclasses import replace

import pytest

from transmix.recipes import dump_recipe, load_recipe

ENVIRONMENT = {
    "command": "transmix train --recipe digits32",
    "python": "3.11.7",
    "packages": {"transmix": "0.1.0", "torch": "2.15.0", "timm": "1.0.31"},
    "system": "Linux",
    "device": "x86_64",
    "cores": 2,
    "threads": 1,
    "processes": 1,
}


def write_run(folder, mix="cutmix", seed=0, top1=0.9, *, epochs=6, done=None, classes=10, environment=None, **settings):
    """Write a run; `done` epochs of `epochs` where it is not finished; further settings by their names."""
    recipe = load_recipe("digits32")
    settings |= {"mix": mix, "seed": seed, "epochs": epochs, "threads": 1}
    for section in ("data", "augmentation", "model", "mixing", "optimization", "run"):
        part = getattr(recipe, section)
        mine = {name: value for name, value in settings.items() if hasattr(part, name)}
        recipe = replace(recipe, **{section: replace(part, **mine)})
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    names = classes if isinstance(classes, list) else [str(one) for one in range(classes)]
    (folder / "classes.json").write_text(json.dumps(names))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT if environment is None else environment))
    rows = []
    for epoch in range(1, (done or epochs) + 1):
        grown = 1 - math.exp(-epoch)
        row = {"kind": "epoch", "step": 10 * epoch, "epoch": epoch, "loss": 2.3 - grown, "images_per_second": 640.0}
        for prefix in ("", "ema_") if recipe.optimization.ema_decay is not None else ("",):
            score = top1 if epoch == epochs else top1 * grown
            row |= {f"{prefix}top1": score, f"{prefix}top5": 0.5 + score / 2, f"{prefix}val_loss": 2.3 - 2 * score}
            row[f"{prefix}calibration_error"] = (1 - score) / 2
        if mix == "transmix" and epoch < epochs:
            row["label_shift"] = 0.04 + 0.001 * epoch
        rows.append(row)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done is None:
        (folder / "summary.json").write_text(json.dumps({"step": 10 * epochs, "finished": True, "last": rows[-1]}))
        counts = [[107 * (row == column) for column in range(len(names))] for row in range(len(names))]
        lines = [",".join(map(str, [f"c{row}", *of_row])) for row, of_row in enumerate(counts)]
        head = ",".join(["true", *(f"c{row}" for row in range(len(names)))])
        (folder / "confusion.csv").write_text("\n".join([head, *lines]) + "\n")
    return folder


@pytest.fixture(scope="session")
def made_run():
    """Write a run folder; see `write_run`."""
    return write_run


@pytest.fixture
def made_runs(tmp_path):
    """Write mix -> scores of seeds 0, 1, ... as run folders, and return them in order."""

    def make(**scores):
        return [
            write_run(tmp_path / f"{mix}-seed{seed}", mix.replace("_", "+"), seed, top1)
            for mix, values in scores.items()
            for seed, top1 in enumerate(values)
        ]

    return make
