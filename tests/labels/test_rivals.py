"""Label rules against numbers of the authors' code; where that errs, against what is right; and wrong rules."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from transmix import Mixed, MixedCrossEntropy
from transmix.labels import object_labels, progressive_labels, rollout_labels, semantic_labels, source_labels
from transmix.labels.progressive import agreement
from transmix.labels.semantic import semantic_map
from transmix.mixing.pixels import boxes_mask

TEXT = gzip.decompress(Path(__file__).parents[1].joinpath("rival_cases.json.gz").read_bytes()).decode()
CASES = json.loads(TEXT.replace('"nan"', "NaN"))["methods"]


def numbers(values):
    return torch.tensor(values, dtype=torch.float32)


def with_rows(values, rows):
    """(B,) with some rows replaced, {row number: value}."""
    values = values.clone()
    for row, value in (rows or {}).items():
        values[int(row)] = value
    return values


def a_mixed(case, size, mask, lam_area, **boxes):
    labels, partner = torch.tensor(case["inputs"]["labels"]), torch.tensor(case["inputs"]["partner"])
    lam = torch.as_tensor(lam_area, dtype=torch.float32).expand(len(labels)).contiguous()
    return Mixed(torch.zeros(len(labels), 1, *size), labels, partner, lam, lam, mask, **boxes)


def bits(rows):
    """(h, w) bool of strings of 0 and 1."""
    return torch.tensor([[bit == "1" for bit in row] for row in rows])


def patch_mask(rows, down, across):
    return bits(rows).repeat_interleave(down, 0).repeat_interleave(across, 1)


def each_box(box, batch):
    return torch.tensor(box).expand(batch, 4)


# Each function gives, by a rule, {name: (ours, right, official)}; official None: as right.


def by_progressive(case, rule):
    given, params, expected = case["inputs"], case["params"], case["expected"]
    patch, size = params["model_patch"], (params["image_size"],) * 2
    mask = torch.stack([patch_mask(rows, patch, patch) for rows in given["mask_patches"]])
    mixed = a_mixed(case, size, mask, given["lam_area"])
    smoothing, classes = params["smoothing"], params["num_classes"]
    logits = numbers(given["logits"]).requires_grad_()
    labelled = rule(mixed, numbers(given["attention"]), logits, smoothing=smoothing)
    official, right = numbers(expected["lam"]), case.get("correct", {})
    lam = with_rows(official, right.get("lam_rows"))
    assert not labelled.lam.requires_grad
    assert not agreement(mixed, logits, smoothing).requires_grad
    found = {
        "area_target": (mixed.targets(classes, smoothing), numbers(expected["area_target"]), None),
        "similarity": (agreement(mixed, logits, smoothing), numbers(expected["similarity"]), None),
        "lam_attn": (
            labelled.lam_evidence,
            with_rows(numbers(expected["lam_attn"]), right.get("lam_rows")),
            numbers(expected["lam_attn"]),
        ),
        "lam": (labelled.lam, lam, official),
    }
    if lam.equal(official):
        loss = MixedCrossEntropy()(logits, labelled)
        loss.backward()
        gradient = numbers(expected["grad_logits"])
        found |= {
            "target": (labelled.targets(classes), numbers(expected["target"]), None),
            "loss": (loss.detach(), numbers(expected["loss"]), None),
            "grad_logits": (logits.grad, numbers(right.get("grad_logits", expected["grad_logits"])), gradient),
        }
    return found


def by_rollout(case, rule):
    given, params, expected = case["inputs"], case["params"], case["expected"]
    (h, w), classes, smoothing = params["grid"], params["num_classes"], params["smoothing"]
    mask = patch_mask(expected["mask_patches"], 2, 3)[None]
    mixed = a_mixed(case, (2 * h, 3 * w), mask, expected["lam_area"])
    labelled = rule(mixed, numbers(given["attention"]), grid=(h, w))
    loss = MixedCrossEntropy(smoothing)(numbers(given["logits"]), labelled)
    return {
        "initial_class_row": (mixed.targets(classes, smoothing), numbers(expected["initial_class_row"]), None),
        "lam": (labelled.lam, numbers(expected["lam"]), None),
        "target": (labelled.targets(classes, smoothing), numbers(expected["target"]), None),
        "loss": (loss, numbers(expected["loss"]), None),
    }


def by_source(case, rule):
    given, params, expected, right = case["inputs"], case["params"], case["expected"], case["correct"]
    mixed = a_mixed(case, (28, 42), patch_mask(expected["mask_patches"], 2, 3)[None], expected["lam_area"])
    maps = numbers(given["own_class_map"]).flatten(1)
    one, two = (rule(mixed, maps, grid=(14, 14), sum_to_one=sum_to_one) for sum_to_one in (True, False))
    target = one.targets(params["num_classes"], params["smoothing"])
    return {
        "weight_own": (two.lam, numbers(expected["weight_own"]), None),
        "weight_partner": (two.lam_partner, numbers(expected["weight_partner"]), None),
        "lam": (one.lam, numbers(right["lam"]), numbers(expected["weight_own"])),
        "target": (target, numbers(right["target"]), numbers(expected["target"])),
    }


def by_semantic(case, rule):
    given, params, expected = case["inputs"], case["params"], case["expected"]
    batch, size = len(given["labels"]), (params["size"],) * 2
    box, source = each_box(given["own_box_yxyx"], batch), each_box(given["partner_box_yxyx"], batch)
    places = {"box": box, "source_box": source, "interpolation": "bilinear"}
    mixed = a_mixed(case, size, boxes_mask(box, *size), expected["lam_area"], **places)
    cam, grid = numbers(given["cam"]).flatten(1), (params["map_size"],) * 2
    labelled = rule(mixed, cam, grid=grid)
    same = torch.tensor(given["same_label"])
    own, theirs = numbers(expected["weight_own"]), numbers(expected["weight_partner"])
    found = {
        "weight_own": (labelled.lam[~same], own[~same], None),
        "weight_partner": (labelled.lam_partner[~same], theirs[~same], None),
    }
    if "semantic_map" in expected:
        found["map"] = (semantic_map(cam, grid, size), numbers(expected["semantic_map"]), None)
    if same.any():
        total = with_rows(own, case["correct"]["total_weight_rows"])[same]
        found["total"] = ((labelled.lam + labelled.lam_partner)[same], total, (own + theirs)[same])
    return found


def by_object(case, rule):
    given, params, expected, right = case["inputs"], case["params"], case["expected"], case.get("correct", {})
    size, batch = (params["height"], params["width"]), len(given["partner"])
    foreground = torch.stack([bits(rows) for rows in given["object_masks"]])
    box = each_box(given["box_yxyx"], batch)
    case = {"inputs": {"labels": list(range(batch)), "partner": given["partner"]}}
    mixed = a_mixed(case, size, boxes_mask(box[:1], *size), expected["lam_area"], box=box)
    settings = {
        "lam_absolute": {"by": "pixels"},
        "lam_relative": {"by": "object"},
        "lam_blend_0_5": {"by": 0.5},
        "lam_absolute_fg_weight_0_3": {"by": "pixels", "weight": 0.3},
        "lam_relative_fg_weight_0_3": {"by": "object", "weight": 0.3},
    }
    found = {}
    for name, options in settings.items():
        official = numbers(expected[name])
        right_lam = with_rows(official, right.get(f"{name}_rows"))
        found[name] = (rule(mixed, foreground, **options).lam, right_lam, official)
    return found


RIVALS = {
    "mixpro_pal": (by_progressive, progressive_labels),
    "tlalign": (by_rollout, rollout_labels),
    "tokenmix": (by_source, source_labels),
    "snapmix": (by_semantic, semantic_labels),
    "oacutmix": (by_object, object_labels),
}
every_case = pytest.mark.parametrize(
    ("method", "case"),
    [pytest.param(method, case, id=f"{method}-{case['id']}") for method in RIVALS for case in CASES[method]],
)


def agrees(got, want):
    return bool(((got - want).abs() <= 1e-6 * want.abs().clamp(min=1)).all())


def disagreements(method, case, rule=None):
    values, ours = RIVALS[method]
    return [name for name, (got, want, _) in values(case, rule or ours).items() if not agrees(got, want)]


def test_there_are_as_many_cases_as_the_authors_code_gave():
    assert {method: len(CASES[method]) for method in RIVALS} == {
        "mixpro_pal": 8,
        "tlalign": 7,
        "tokenmix": 6,
        "snapmix": 6,
        "oacutmix": 6,
    }


@every_case
def test_a_rule_gives_the_numbers_of_the_authors_code(method, case):
    assert disagreements(method, case) == []


@pytest.mark.parametrize(
    ("method", "case"), [mark for mark in every_case.args[1] if mark.values[1].get("official_defect")]
)
def test_where_the_authors_code_errs_ours_differs_from_it(method, case):
    values, rule = RIVALS[method]
    found = values(case, rule).values()
    wrong = [(got, official) for got, want, official in found if official is not None and not agrees(official, want)]
    assert wrong
    assert not any(agrees(got, official) for got, official in wrong)


# ------------------------------------------------------------------------------------- rules that are wrong


def batch_mean(rule):
    def wrong(*args, **settings):
        done = rule(*args, **settings)
        theirs = done.lam_partner
        theirs = None if theirs is None else theirs.mean().expand(len(theirs))
        return replace(done, lam=done.lam.mean().expand(len(done.lam)), lam_partner=theirs)

    return wrong


def roles_swapped(rule):
    def wrong(*args, **settings):
        done = rule(*args, **settings)
        theirs = 1 - done.lam if done.lam_partner is None else done.lam_partner
        return replace(done, lam=theirs, lam_partner=None if done.lam_partner is None else done.lam)

    return wrong


def mask_transposed(rule):
    """The mask (and the boxes) with rows and columns swapped, in an image of the same size."""

    def wrong(mixed, *args, **settings):
        height, width = mixed.images.shape[-2:]
        turned = torch.nn.functional.interpolate(mixed.mask[None].float().transpose(2, 3), size=(height, width))[0]
        boxes = {
            name: getattr(mixed, name)[:, [1, 0, 3, 2]]
            for name in ("box", "source_box")
            if getattr(mixed, name) is not None and height == width
        }
        done = rule(replace(mixed, mask=turned.to(mixed.mask.dtype), **boxes), *args, **settings)
        return replace(done, mask=mixed.mask)

    return wrong


def partners_by_own_box(rule):
    """The partner's map where its pixels go, not where they come from."""
    return lambda mixed, *args, **settings: rule(replace(mixed, source_box=None), *args, **settings)


def last_block_alone(rule):
    return lambda mixed, attention, **settings: rule(mixed, attention[:, -1:], **settings)


def one_head_alone(rule):
    return lambda mixed, attention, **settings: rule(mixed, attention[:, :, :1], **settings)


def compared_by_hard_label(rule):
    return lambda *args, smoothing, **settings: rule(*args, smoothing=0.0, **settings)


def agreement_turned(rule):
    def wrong(mixed, attention, logits, **settings):
        done = rule(mixed, attention, logits, **settings)
        return replace(done, lam=done.lam_evidence + mixed.lam_area - done.lam)

    return wrong


def gradient_through_the_label(rule):
    def wrong(mixed, attention, logits, smoothing):
        done = rule(mixed, attention, logits, smoothing=smoothing)
        target = mixed.targets(logits.shape[1], smoothing)
        a = torch.nn.functional.cosine_similarity(target, logits.softmax(1))
        lam = a * done.lam_evidence + (1 - a) * mixed.lam_area
        return replace(done, lam=lam)

    return wrong


WRONG = [(method, mistake, 2) for mistake in (batch_mean, roles_swapped, mask_transposed) for method in RIVALS] + [
    ("snapmix", partners_by_own_box, 4),
    ("tlalign", last_block_alone, 4),
    ("tlalign", one_head_alone, 4),
    ("mixpro_pal", compared_by_hard_label, 5),
    ("mixpro_pal", agreement_turned, 5),
]


@pytest.mark.parametrize(("method", "mistake", "least"), WRONG)
def test_a_wrong_rule_is_rejected_by_the_cases(method, mistake, least):
    wrong = mistake(RIVALS[method][1])
    assert sum(bool(disagreements(method, case, wrong)) for case in CASES[method]) >= least


def test_the_authors_gradient_through_the_label_is_what_they_gave_and_is_rejected():
    """The mistake gives the authors' gradient to the digit, so the cases tell it from ours."""
    rejected = 0
    for case in CASES["mixpro_pal"]:
        found = _with_gradient(case)
        if "grad_logits" in found and "grad_logits" in case.get("correct", {}):
            got, right, official = found["grad_logits"]
            assert agrees(got, official)
            rejected += not agrees(got, right)
    assert rejected >= 5


def _with_gradient(case):
    wrong = gradient_through_the_label(progressive_labels)
    given = case["inputs"]
    logits = numbers(given["logits"]).requires_grad_()
    probe = {}

    def rule(mixed, attention, _, smoothing):
        done = wrong(mixed, attention, logits, smoothing)
        probe["loss"] = MixedCrossEntropy()(logits, done)
        return replace(done, lam=done.lam.detach())

    found = by_progressive(case, rule)
    if "grad_logits" in found:
        probe["loss"].backward()
        found["grad_logits"] = (logits.grad, *found["grad_logits"][1:])
    return found
