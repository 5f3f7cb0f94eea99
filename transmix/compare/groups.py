"""Runs in groups that differ only in the seed, and reasons why groups cannot be compared."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transmix.data.dataset import class_difference
from transmix.runs import read
from transmix.runs.error import RunError
from transmix.runs.folder import MAY_CHANGE
from transmix.runs.read import RunRecord

LEFT_OUT = (MAY_CHANGE - {"epochs", "patience"}) | {"seed"}
"""Settings that do not decide which group a run belongs to: the seed, and what does not change what is trained. (Of
the data, `check_same_data` sees to it.)"""

WAYS = ("mix", "labels")
"""The settings that give a group its name, and that a comparison is about."""

PACKAGES = ("transmix", "torch", "torchvision", "timm", "numpy", "pillow")
MACHINE = ("device", "cores", "threads", "processes", "system", "python")


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one recipe.

    Attributes:
        name: what differs from the other groups: its mix, or "mix, setting value, ...".
        runs: sorted by seed.
    """

    name: str
    runs: tuple[RunRecord, ...]

    @property
    def finished(self) -> tuple[RunRecord, ...]:
        """The finished runs."""
        return tuple(run for run in self.runs if run.finished)


def read_run(folder: Path) -> RunRecord:
    """Read a run; check that the files for a comparison are complete.

    Raises:
        RunError: no such folder, not a run folder, or a damaged file.
        RecipeError: its recipe cannot be read.
    """
    if folder.is_dir() and not (folder / "recipe.yaml").exists():
        raise RunError(f"{folder} holds no run (recipe.yaml); name run folders: transmix compare RUN RUN ...")
    run = read.read_run(folder)
    needed = ("summary.json", "environment.json", "metrics.jsonl", *(("confusion.csv",) if run.finished else ()))
    for problem in map(run.damage, needed):
        if problem:
            raise RunError(f"{folder}/{problem}; --resume of that run writes it again")
    _ = run.recipe, run.classes  # both raise if they cannot be read
    return run


def group_runs(runs: Sequence[RunRecord]) -> tuple[Group, ...]:
    """Group runs whose recipes differ only in the seed; groups keep the order in which they first appear.

    Raises:
        RunError: fewer than two runs, different data, or a seed twice in a group.
    """
    if len(runs) < 2:
        raise RunError("nothing to compare: name at least two run folders")
    check_same_data(runs)
    sorted_runs: dict[str, list[RunRecord]] = {}
    for run in runs:
        sorted_runs.setdefault(repr(_deciding(run)), []).append(run)
    members = [sorted(group, key=lambda run: run.seed) for group in sorted_runs.values()]
    differ = differing([group[0] for group in members])
    groups = tuple(Group(_name(group[0], differ), tuple(group)) for group in members)
    for group in groups:
        for one, other in zip(group.runs, group.runs[1:], strict=False):
            if one.seed == other.seed:
                raise RunError(
                    f"{one.folder} and {other.folder} are both {group.name} with seed {one.seed}; a seed counts once, "
                    f"leave one out"
                )
    return groups


def check_same_data(runs: Sequence[RunRecord]) -> None:
    """Raise an error if the runs have different tasks.

    Raises:
        RunError: the data's names, the class lists or the numbers of validation images differ.
    """
    first, remedy = runs[0], "; compare runs of one data set with each other"
    measured = next((run for run in runs if run.images), None)
    for run in runs[1:]:
        if difference := class_difference(first.classes, run.classes):
            raise RunError(f"{run.folder} has other classes than {first.folder} ({difference}){remedy}")
        if data_name(run) != data_name(first):
            names = run.settings["data"], first.settings["data"]
            raise RunError(f"{run.folder} was trained on {names[0]}, {first.folder} on {names[1]}{remedy}")
        if measured and run.images and _by_name(run) != _by_name(measured):
            raise RunError(
                f"{run.folder} was measured on {sum(run.images)} validation images, {measured.folder} on "
                f"{sum(measured.images or ())}, or on other numbers of each class{remedy}"
            )


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """Return the names of the settings that affect the result and differ between runs, mix and labels first.

    This includes a setting that only some of the runs' label rules have.
    """
    settings = [_deciding(run) for run in runs]
    names = dict.fromkeys(name for one in settings for name in one)
    differ = [name for name in names if len({repr(one[name]) for one in settings if name in one}) > 1]
    return sorted(differ, key=lambda name: name not in WAYS)


def cautions(groups: Sequence[Group]) -> list[str]:
    """Return warnings about a comparison, one sentence each; empty if there are none."""
    found = []
    for name in differing([group.runs[0] for group in groups]):
        if name not in WAYS:
            having = [group for group in groups if name in group.runs[0].settings]
            values = _listed([group.runs[0].settings[name] for group in having], [group.name for group in having])
            found.append(f"Groups differ in more than the mix and the seed: {name} is {values}.")
    for group in groups:
        for run in group.runs:
            if not run.finished:
                done, epochs = len(run.epochs), run.settings["epochs"] + run.settings["cooldown_epochs"]
                found.append(
                    f"{group.name} seed {run.seed} ({run.folder}) is not finished: {done} of {epochs} epochs. It is "
                    f"left out of all scores; transmix train --resume continues it."
                )
    seeds = {group.name: tuple(run.seed for run in group.finished) for group in groups}
    if len(set(seeds.values())) > 1:
        listed = "; ".join(f"{name}: {', '.join(map(str, has)) or 'none'}" for name, has in seeds.items())
        found.append(f"Groups have different seeds ({listed}). Differences are over those that two groups share.")
    names = [f"{group.name} seed {run.seed}" for group in groups for run in group.runs]
    runs = [run for group in groups for run in group.runs]
    if len({str(Path(run.settings["data"] or "")) for run in runs}) > 1:
        listed = _listed([run.settings["data"] for run in runs], names)
        found.append(f"Data of the same name lies in different places: {listed}. Are they the same?")
    origin = {f"version of {package}": [packages(run).get(package) for run in runs] for package in PACKAGES}
    origin["commit"] = [run.environment.get("commit") for run in runs]
    origin |= {f"machine ({key})": [run.environment.get(key) for run in runs] for key in MACHINE}
    return found + [
        f"The {what} differs: {_listed(values, names)}."
        for what, values in origin.items()
        if any(value != values[0] for value in values)
    ]


def packages(run: RunRecord) -> dict[str, Any]:
    """Return package -> version, as recorded by the run."""
    found = run.environment.get("packages")
    return found if isinstance(found, dict) else {}


def _listed(values: Sequence[Any], names: Sequence[str]) -> str:
    """Return each value with the names that have it; for the most common value only their number."""
    texts = ["unknown" if value is None else str(value) for value in values]
    parts = []
    for rank, (text, count) in enumerate(Counter(texts).most_common()):
        having = [name for name, one in zip(names, texts, strict=True) if one == text]
        few = having[:4] + [f"{count - 4} more"] * (count > 4)
        parts.append(f"{text} ({f'{count} runs' if rank == 0 and count > 4 else ', '.join(few)})")
    return ", ".join(parts)


def _deciding(run: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in run.settings.items() if name not in LEFT_OUT}


def _name(run: RunRecord, differ: Sequence[str]) -> str:
    own = [name for name in differ if name not in WAYS and name in run.settings]
    return ", ".join([run.title] + [f"{name} {_short(run.settings[name])}" for name in own])


def _short(value: Any) -> str:
    return " ".join(f"{name}={part}" for name, part in value.items()) if isinstance(value, dict) else str(value)


def data_name(run: RunRecord) -> str:
    """Return the name of the data set, or of its folder."""
    return Path(run.settings["data"] or "").name


def _by_name(run: RunRecord) -> dict[str, int]:
    return dict(zip(run.classes, run.images or (), strict=False))
