"""Suites: what `transmix evaluate --suite` measures beyond accuracy, one file each.

A suite is a function (evaluator, data, settings) that yields (name, value):

    evaluator an `Evaluator`: `evaluator.batches(split)` gives this process's share, `evaluator.logits(pixels)` runs it
    data      an `ImageData` whose labels are indices into `evaluator.classes`; suites measure on `data.val`
    settings  the `Settings` below: all that a user can choose, for all suites
    value     a number; a list of numbers, one row of a table; or a text, for how it was measured

A suite checks its arguments when it is called, before the first value is requested. All suites are called before any of
them runs, so a missing folder is found early. Every process runs the same suites and yields the same values, for the
whole data set (`sum_over_ranks`, `gather_rows`).
"""

import pkgutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from transmix import plugins
from transmix.attention import AttentionError
from transmix.data.dataset import DataError, ImageData, UnreadableImageError
from transmix.evaluation.evaluate import Evaluator
from transmix.recipes import RecipeError

Value = float | int | str | list[float] | list[int]

Suite = Callable[[Evaluator, ImageData, "Settings"], Iterator[tuple[str, Value]]]

SUITES = {
    "calibration": "transmix.evaluation.calibration_suite:calibration",
    "occlusion": "transmix.evaluation.patches:occlusion",
    "shuffle": "transmix.evaluation.patches:shuffle",
    "shifts": "transmix.evaluation.shifts:shifts",
    "attention-quality": "transmix.evaluation.attention_quality:attention_quality",
    "label-truth": "transmix.evaluation.label_truth:label_truth",
    "knn": "transmix.evaluation.knn:knn",
    "linear-probe": "transmix.evaluation.linear_probe:linear_probe",
    "segmentation-probe": "transmix.evaluation.segmentation_probe:segmentation_probe",
}
"""Where each suite is: its module and the function in it, imported when it is asked for."""

OF_FEATURES = ("knn", "linear-probe", "segmentation-probe")
"""Suites that need no outputs of the model, so that its classes need not be those of the data."""


@dataclass(frozen=True)
class Settings:
    """User settings of the suites."""

    suite_seed: int = 0
    """Seed of the suites: dropped patches, shuffled patches, halves of the data. Batch size and number of processes do
    not change the result."""
    occlusion_ratios: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """occlusion: fractions of the patches to drop."""
    occlusion_fill: Literal["black", "mean"] = "black"
    """occlusion: fill of dropped patches. 'black': 0 before normalisation, as in the published code; 'mean': 0
    after normalisation."""
    shuffle_grids: tuple[int, ...] | None = None
    """shuffle: patches along each side; default: those of 2, 4, 8, 14 and 16 that divide the image."""
    shift_data: tuple[str, ...] = ()
    """shifts: folders of class folders (ImageNet-A, -R, -Sketch), or of corruptions (ImageNet-C:
    <corruption>/<severity>/<class>)."""
    outlier_data: tuple[str, ...] = ()
    """shifts: folders of images that belong to no class of the model (ImageNet-O). Their class folders name the inlier
    classes to compare with."""
    class_map: str | None = None
    """shifts: file that maps the names of class folders to the model's class names, JSON or CSV (folder,class)."""
    baseline_errors: str | None = None
    """shifts: JSON file of the baseline's error per corruption, in 0..1; default: AlexNet's."""
    knn_k: int = 20
    """knn: number of neighbours of the score that is printed; the JSON has it for 10, 20, 100 and 200 too."""
    probe_images: int = 50_000
    """knn, linear-probe, segmentation-probe: use at most this many training images, drawn with --suite-seed."""


def load_suite(name: str) -> Suite:
    """Import a suite by its name in the table, or one that an installed package adds.

    Raises:
        UnknownNameError: unknown suite.
    """
    suite = plugins.find("suite", SUITES, name)
    return pkgutil.resolve_name(suite) if isinstance(suite, str) else suite


def run_suites(
    names: tuple[str, ...], evaluators: list[Evaluator], data: ImageData, settings: Settings
) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Call every suite for every set of weights, then run one after the other.

    Of "all", suites that do not apply to these models and data are left out, with a line that says why, whether that
    is known from the start or turns out while they run.

    Returns:
        An iterator over (suite, {model: {name: value}}), in the order asked for.

    Raises:
        AttentionError, DataError, RecipeError: a suite cannot run. Raised here or, if found later, during iteration.
    """
    every = plugins.names("suite", SUITES)
    asked = dict.fromkeys(name for one in names for name in (every if one == "all" else (one,)))
    wanted = {*names} | ({"shifts"} if settings.shift_data or settings.outlier_data else set())  # by name, or by data
    called = {}
    for name in asked:
        with _left_out_if_not_wanted(name, wanted, evaluators[0]):
            called[name] = {one.name: load_suite(name)(one, data, settings) for one in evaluators}

    def run() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
        for name, of_models in called.items():
            found = {}
            with _left_out_if_not_wanted(name, wanted, evaluators[0]):
                for model, values in of_models.items():
                    started = time.perf_counter()
                    found[model] = dict(values)
                    if evaluators[0].world.is_main:
                        print(f"{name} of {model}: {time.perf_counter() - started:.0f} s", flush=True)
            if found.keys() == of_models.keys():
                yield name, found

    return run()


@contextmanager
def _left_out_if_not_wanted(name: str, wanted: set[str], evaluator: Evaluator) -> Iterator[None]:
    """Leave out a suite of "all" that cannot be run, with a line that says why; of one that is wanted, raise."""
    try:
        yield
    except (AttentionError, DataError, RecipeError) as error:
        # Bad images are no matter of the suite, and one process alone may meet them.
        bad = evaluator.bad is not None and len(evaluator.bad.known) > evaluator.bad.limit
        if name in wanted or bad or isinstance(error, UnreadableImageError):
            raise
        if evaluator.world.is_main:
            print(f"left out, since it does not apply: {name}: {error}", flush=True)
