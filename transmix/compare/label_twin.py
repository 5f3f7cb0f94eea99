"""Find out whether two recipes draw the same partners, boxes and ratios from the same seed.

The draws depend on (seed, step, micro-batch, process). This module compares real draws instead of settings.
"""

import dataclasses
from dataclasses import dataclass

from transmix.compare.groups import LEFT_OUT
from transmix.data.seeding import derive_seed
from transmix.mixing.draw import Draw
from transmix.mixing.mixer import looks_at
from transmix.recipes.mixing import build_mixer
from transmix.recipes.settings import Mixing
from transmix.runs.read import RunRecord

STEPS = 400
"""Draws that are looked at."""

LABEL_ONLY = {"labels", "smoothing"}
"""Settings that change labels and no image, beside those of the label rule."""

NO_TWIN = (
    "A group whose labels follow a rule has no twin, the same mixed images with labels by area: its difference from "
    "the others is not that of the label alone. The twin of transmix is mixup+cutmix with the same settings, or cutmix "
    "where mixup_alpha is 0 in both."
)
"""What is said where labels by a rule are compared without their twin, the same mix with labels by area."""


@dataclass(frozen=True)
class Shared:
    """How often two recipes mix a row in the same way, as fractions of the compared rows.

    Attributes:
        same: all numbers of the draw are equal (includes rows that both leave unmixed).
        boxes: both paste a box.
        same_boxes: both paste the same box.
        alike: whether all settings except the label rule's are equal.
    """

    same: float
    boxes: float
    same_boxes: float
    alike: bool

    @property
    def all(self) -> bool:
        """Whether both groups see exactly the same mixed images."""
        return self.alike and self.same == 1

    def __str__(self) -> str:
        """Describe in a few words which draws both groups share."""
        if not self.alike:
            return "the seed alone: other settings differ too"
        if self.all:
            return "the same mixed images: the label alone differs"
        boxes = ", the same box wherever both paste one" if 0 < self.boxes == self.same_boxes else ""
        return f"the same images before mixing, mixed alike {100 * self.same:.0f} % of the time{boxes}"


def shared_draws(one: RunRecord, other: RunRecord, steps: int = STEPS) -> Shared:
    """Draw the first steps of two recipes with the same seed and compare the draws.

    Args:
        one: a run of the first group.
        other: a run of the second group.
        steps: approximate number of rows to compare.
    """
    rows_a, rows_b = _rows(one, one.seed, steps), _rows(other, one.seed, steps)
    pairs = list(zip(rows_a, rows_b, strict=False))
    boxes = [(a[1], b[1]) for a, b in pairs if a[1] is not None and b[1] is not None]
    names = one.settings.keys() | other.settings.keys()
    changed = {name for name in names if one.settings.get(name) != other.settings.get(name)} - LEFT_OUT
    mixing = {field.name for field in dataclasses.fields(Mixing)} - {"loss", "bce_threshold", "mix_start", "mix_epochs"}
    processes = one.environment.get("processes") == other.environment.get("processes")
    return Shared(
        same=sum(a == b for a, b in pairs) / len(pairs),
        boxes=len(boxes) / len(pairs),
        same_boxes=sum(a == b for a, b in boxes) / len(pairs),
        alike=changed <= mixing | LABEL_ONLY | one.of_labels | other.of_labels and processes,
    )


def _rows(run: RunRecord, seed: int, number: int) -> list[tuple]:
    """Return (lam, box, source box, shape, what holds for the batch) of the first rows that a run mixes.

    If there is one draw per batch, it counts as one row.
    """
    mixing, size = run.recipe.mixing, run.recipe.data.image_size
    mixer = build_mixer(mixing)
    mixer.enabled = mixing.mix != "none"
    if any(map(looks_at, mixer.methods)):  # then the pasted pixels depend on the weights, which other runs do not share
        return [(str(run.folder), None, None, None, None)] * number
    batch = 2 if mixing.mode == "batch" else min(run.recipe.optimization.images_per_step, number)
    rows: list[tuple] = []
    step = 0
    while len(rows) < number:
        mixer.generator.manual_seed(derive_seed(seed, "mix", step, 0, 0))
        draw: Draw = mixer.draw(batch, size, size)
        nothing = (None,) * len(draw.lam)
        sources, shapes = draw.source_boxes or nothing, draw.shapes or nothing
        whole = ((draw.partner, draw.interpolation),) * len(draw.lam)
        rows += list(zip(draw.lam, draw.boxes, sources, shapes, whole, strict=True))
        step += 1
    return rows[:number]
