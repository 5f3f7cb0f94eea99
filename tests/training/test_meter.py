"""What training reports are plain means over what was added since the last read."""

from dataclasses import replace

import pytest
import torch

from transmix.distributed import World
from transmix.mixing import Mixed
from transmix.training.step import Meter

ALONE = World(rank=0, size=1, local=1, device=torch.device("cpu"))
WEIGHT = 0.7
HEIGHT, WIDTH = 4, 6

# Rows as (area of the box, share of the attention in it); None is a row without a box.
ELEMENTS = [(0.5, 0.2), None, (0.25, 0.01)]
BATCH = [(0.5, 0.9), (0.5, 0.04), (0.5, 0.06), (0.5, 0.5), (0.5, 0.3)]
EMPTY = [None, None]


def boxed(rows, rule="attention"):
    """A batch whose rows have these boxes, the label weighed by area and attention."""
    mask = torch.zeros(len(rows), HEIGHT, WIDTH, dtype=torch.bool)
    lam_area, lam, alone = torch.ones(len(rows)), torch.ones(len(rows)), torch.ones(len(rows))
    for row, box in enumerate(rows):
        if box is not None:
            area, share = box
            mask[row].view(-1)[: int(area * HEIGHT * WIDTH)] = True
            lam_area[row] = 1 - area
            alone[row] = 1 - share
            lam[row] = 1 - (WEIGHT * share + (1 - WEIGHT) * area) if rule == "attention" else 1 - area
    return Mixed(
        torch.zeros(len(rows), 3, HEIGHT, WIDTH),
        torch.zeros(len(rows), dtype=torch.int64),
        torch.arange(len(rows)),
        lam,
        lam_area,
        mask,
        rule,
        lam_evidence=alone if rule == "attention" else None,
    )


def blended(count, rule="attention"):
    lam = torch.full((count,), 0.3)
    labels = torch.zeros(count, dtype=torch.int64)
    return Mixed(torch.zeros(count, 3, HEIGHT, WIDTH), labels, labels, lam, lam, None, rule)


def meter_of(batches):
    meter = Meter(ALONE.device)
    for loss, accuracy, mixed in batches:
        meter.add(torch.tensor(loss), torch.tensor(accuracy), mixed)
    return meter


def oracle(batches, rows):
    boxes = [box for box in rows if box is not None]
    shifts = [WEIGHT * abs(share - area) for area, share in boxes]
    return {
        "loss": sum(loss for loss, _, _ in batches) / len(batches),
        "mixed_accuracy": sum(accuracy for _, accuracy, _ in batches) / len(batches),
        "label_shift": sum(shifts) / len(shifts),
        "empty_boxes": sum(share < 0.1 * area for area, share in boxes) / len(boxes),
    }


ADDED = [(2.0, 0.25, boxed(ELEMENTS)), (1.0, 0.5, blended(4)), (4.5, 0.0, boxed(BATCH)), (0.5, 1.0, boxed(EMPTY))]


def test_means_are_those_of_a_plain_loop_over_batches_and_boxes():
    assert meter_of(ADDED).read(ALONE) == pytest.approx(oracle(ADDED, ELEMENTS + BATCH), abs=1e-6)
    assert meter_of(ADDED).read(ALONE) != pytest.approx(oracle(ADDED, ELEMENTS), abs=1e-6)
    assert meter_of(ADDED).read(ALONE) != pytest.approx(oracle(ADDED[:3], ELEMENTS + BATCH), abs=1e-6)


def test_one_box_for_the_whole_batch_counts_for_every_row():
    mixed = boxed(BATCH)
    one_box = replace(mixed, mask=mixed.mask[:1])
    batches = [(1.0, 0.5, one_box)]
    assert meter_of(batches).read(ALONE) == pytest.approx(oracle(batches, BATCH), abs=1e-6)


@pytest.mark.parametrize(
    "mixed", [blended(3), blended(3, "area"), boxed(BATCH, "area"), boxed(EMPTY)], ids=["blend", "area", "box", "empty"]
)
def test_label_shift_is_reported_only_if_attention_labelled_a_box(mixed):
    assert meter_of([(1.0, 0.5, mixed)]).read(ALONE) == {"loss": 1.0, "mixed_accuracy": 0.5}


def test_boxes_labelled_by_area_do_not_dilute_those_labelled_by_attention():
    batches = [(1.0, 0.5, boxed(ELEMENTS)), (1.0, 0.5, boxed(BATCH, "area"))]
    assert meter_of(batches).read(ALONE) == pytest.approx(oracle(batches, ELEMENTS), abs=1e-6)


def test_a_read_starts_anew_even_after_a_loss_that_is_not_finite():
    meter = meter_of([*ADDED, (float("nan"), 0.0, blended(2))])
    assert torch.tensor(meter.read(ALONE)["loss"]).isnan()
    meter.add(torch.tensor(3.0), torch.tensor(0.5), blended(2))
    assert meter.read(ALONE) == {"loss": 3.0, "mixed_accuracy": 0.5}


def test_nothing_added_reads_as_nothing():
    assert meter_of([]).read(ALONE) == {"loss": 0.0, "mixed_accuracy": 0.0}


def test_means_are_taken_over_all_processes(monkeypatch):
    mine, theirs = ADDED[:1], ADDED[1:]
    other = meter_of(theirs).sums
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.add_(other))
    both = World(rank=0, size=2, local=2, device=torch.device("cpu"))
    assert meter_of(mine).read(both) == pytest.approx(oracle(ADDED, ELEMENTS + BATCH), abs=1e-6)
