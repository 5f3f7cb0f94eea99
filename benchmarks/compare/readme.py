"""The figures in README.md: a table for each comparison, and one of speeds, all from benchmarks/results."""

import json
from pathlib import Path
from typing import Any

from shown import cell, ratio, read_difference, table
from suites import FIGURES, figures

from transmix.compare.statistics import Difference, Mean, difference, mean_of
from transmix.compare.text import interval, show_mean
from transmix.metrics import Metric, log_metrics

BEGIN = "<!-- Made by `python benchmarks/compare/results.py`; changes by hand are lost. -->\n"
END = "<!-- The end of what is made. -->\n"

COMPARISONS = {
    "compare_digits.json": "Digits of 48 pixels, XCiT-Nano",
    "compare_digits32.json": "Digits of 32 pixels, XCiT-Nano",
    "compare_cifar100_small.json": "CIFAR-100, 10,000 training images, a ViT of 3 blocks with patches of 4",
}
"""File -> what was trained."""

SCORES = ("ema_top1", "ema_calibration_error")
SALIENT = ("occlusion", "salient")

SPEEDS = (
    ("a step over CutMix's", "step_overhead_cpu.json", "deit_tiny_patch16_224 batch 16", "transmix"),
    ("the same, compiled", "step_overhead_models_cpu.json", "deit_tiny_patch16_224 batch 16 compiled", "transmix"),
    ("the last block unfused, as by hand", "step_overhead_cpu.json", "deit_tiny_patch16_224 batch 16", "last unfused"),
    ("every block unfused and cloned, as the reference", "step_overhead_cpu.json", "deit_tiny_patch16_224 batch 16",
     "reference"),
    ("the loss over dense targets'", "loss_cpu.json", "21841 classes, batch 128, float32", "transmix"),
    ("CutMix over timm's, in place", "mixing_cpu.json", "cutmix batch, batch 64", "transmix"),
    ("Mixup over timm's, in place", "mixing_cpu.json", "mixup batch, batch 64", "transmix"),
    ("our trainer over timm's train.py", "trainer_cpu.json", "deit_tiny_patch16_224, 224 pixels, batch 16", "transmix"),
    ("the same, labels by area in both", "trainer_cpu.json", "deit_tiny_patch16_224, 224 pixels, batch 16",
     "transmix cutmix"),
    ("our loader over timm's, JPEG files, one core", "pipeline_cpu.json", "full loader, 0 workers", "transmix"),
    ("`--on-device` over our loader", "on_device_cpu.json", "cifar, 32 pixels, 0 workers", "on device"),
)  # fmt: skip
"""What, and the row that says it: file, case, variant."""


def section(folder: Path) -> str:
    """Return what stands between BEGIN and END."""
    read = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    parts = [comparison(what, read[name]) for name, what in COMPARISONS.items()]
    return "\n".join([*parts, speeds(read)])


def comparison(what: str, found: dict[str, Any]) -> str:
    """Show the mixes of one comparison, and how far TransMix is from the one that differs in the label alone."""
    metrics, groups = log_metrics(), {group["name"]: group for group in found["groups"]}
    (pair,) = [one for one in found["differences"] if "the label alone differs" in one["common"]]
    name = f"{cell(pair['group'])} − {cell(pair['baseline'])}"
    lines = [[cell(group)] for group in [*groups, name]]
    for score in SCORES:
        means = [show_mean(Mean(**group["means"][score]), metrics[score]) for group in groups.values()]
        add_column(lines, [*means, spread(read_difference(pair["scores"][score]), metrics[score])])
    salient = {
        group: {run["seed"]: figures(run["suites"], "ema")[SALIENT] for run in about["runs"]}
        for group, about in groups.items()
    }
    means = [show_mean(mean_of(list(of_seed.values())), FIGURES[SALIENT]) for of_seed in salient.values()]
    far = difference(salient[pair["group"]], salient[pair["baseline"]])
    add_column(lines, [*means, spread(far, FIGURES[SALIENT])])
    epochs, seeds = groups[pair["group"]]["settings"]["epochs"], len(groups[pair["group"]]["seeds"])
    heads = ["", *(metrics[score].heading for score in SCORES), FIGURES[SALIENT].heading]
    return (
        f"**{what}**, {epochs} epochs, {seeds} seeds (`{found['command']}`):\n\n{table(heads, lines)}\n"
        f"{name}, which differ in the label alone: {pair['verdict']}\n"
    )


def add_column(lines: list[list[str]], cells: list[str]) -> None:
    """Put one more cell at the end of each line."""
    for line, one in zip(lines, cells, strict=True):
        line.append(one)


def spread(found: Difference | None, metric: Metric) -> str:
    """Write a difference with its interval."""
    return f"{metric.write_difference(found.mean)} ({interval(found, metric)})" if found else ""


def speeds(read: dict[str, Any]) -> str:
    """Show each speed as a ratio to its peer of the same run, and the ratio of peak memory where it was measured."""
    lines = []
    for what, name, case, variant in SPEEDS:
        (row,) = [row for row in read[name]["rows"] if (row["case"], row["variant"]) == (case, variant)]
        memory = f"{row['memory_ratio']:.3f}" if "memory_ratio" in row else ""
        source = f"[{read[name]['benchmark']}.py](benchmarks/{read[name]['benchmark']}.py)"
        lines.append([what, cell(case), ratio(row["ratio"], row["ratio_quartiles"]), memory, source])
    heads = ["time of", "case", "ratio (quartiles)", "peak memory", "made by"]
    about = read["step_overhead_cpu.json"]
    return (
        f"**Speed** on {about['cores']} cores ({about['device']}), torch {about['versions']['torch']}; medians over "
        f"turns within one run, below 1 is faster than the peer:\n\n" + table(heads, lines)
    )


def put_into(text: str, folder: Path) -> str:
    """Return README.md's text with the figures of a folder."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + section(folder) + "\n" + END + after
