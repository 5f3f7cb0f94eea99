"""The mixing methods against what their authors' code gave, on `tests/rival_cases.json.gz`.

Conventions there as here: lam is the weight of the row's own label, masks are the partner's share. Where the authors'
code errs, `correct` holds what is right, and a test shows that ours is not the defective value.
"""

import gzip
import json
from pathlib import Path

import pytest
import torch

from transmix import Draw
from transmix.mixing import (
    Block,
    Row,
    SaliencyMix,
    cell_mask,
    cutmix,
    fourier_image,
    max_min_square,
    paste_mask,
    resizemix,
    saliency_box,
    snapmix,
    square_mix,
    threshold_mask,
    token_blocks,
    top_cells,
)
from transmix.mixing.maps import CleanMaps

METHODS = json.loads(gzip.decompress((Path(__file__).parents[1] / "rival_cases.json.gz").read_bytes()))["methods"]


def cases(*methods, only=lambda case: True):
    found = [(f"{method}-{case['id']}", case) for method in methods for case in METHODS[method] if only(case)]
    assert found
    return pytest.mark.parametrize("case", [case for _, case in found], ids=[name for name, _ in found])


def masks(rows):
    """(h, w) or (B, h, w) of strings or lists of strings."""
    one = [[[float(pixel) for pixel in row] for row in (mask if isinstance(mask, list) else rows)] for mask in rows]
    return torch.tensor(one if isinstance(rows[0], list) else one[0])


def equal(got, want):
    """To 1e-6 of max(1, |want|)."""
    want = torch.as_tensor(want, dtype=torch.float64)
    return bool(((torch.as_tensor(got).double() - want).abs() <= 1e-6 * want.abs().clamp(min=1)).all())


def pixel_ids(batch, height, width):
    return torch.arange(batch * height * width, dtype=torch.float32).view(batch, 1, height, width)


def a_batch(partner, height, width, labels=None):
    partner = torch.tensor(partner)
    labels = torch.arange(len(partner)) if labels is None else torch.tensor(labels)
    return pixel_ids(len(partner), height, width), labels, partner


# MaskMix


def maskmix(case):
    side, patch, inputs = case["params"]["image_size"], case["params"]["mask_patch"], case["inputs"]
    cells = -(-side // patch)
    kept = torch.zeros(len(inputs["labels"]), cells * cells, dtype=torch.bool)
    for row, own in enumerate(inputs["own_cells"]):
        kept[row, own] = True
    theirs = ~kept.view(-1, cells, cells)
    images, labels, partner = a_batch(inputs["partner"], side, side, inputs["labels"])
    return theirs, paste_mask(images, labels, cell_mask(theirs, patch, side, side), partner)


@cases("mixpro_maskmix")
def test_maskmix(case):
    params, expected = case["params"], case["expected"]
    theirs, mixed = maskmix(case)
    assert equal(theirs, masks(expected["mask_cells"]))
    assert torch.equal(mixed.mask.float(), masks(expected["mask_pixels"]))
    patches = params["image_size"] // params["model_patch"]
    on_patches = cell_mask(theirs, params["mask_patch"] // params["model_patch"], patches, patches)
    assert equal(on_patches, masks(expected["mask_patches"]))
    assert equal(1 - mixed.lam, expected["mask_pixels_mean"])
    assert equal(mixed.lam, case.get("correct", expected)["lam_area"])
    assert torch.equal(mixed.images, mix_by_mask(mixed))
    if "correct" not in case:
        assert equal(mixed.targets(params["num_classes"], params["smoothing"]), expected["maskmix_target"])


def mix_by_mask(mixed):
    images = pixel_ids(len(mixed.labels), *mixed.images.shape[-2:])
    return torch.where(mixed.mask[:, None], images[mixed.partner], images)


@cases("mixpro_maskmix", only=lambda case: case.get("official_defect"))
def test_cells_cut_off_at_the_border_do_not_count_as_whole(case):
    mixed = maskmix(case)[1]
    assert not equal(mixed.lam, case["expected"]["lam_area"])
    params = case["params"]
    assert not equal(mixed.targets(params["num_classes"], params["smoothing"]), case["expected"]["maskmix_target"])


# TokenMix, and TL-Align's boxes


def tokenmix(case):
    params, inputs = case["params"], case["inputs"]
    lam = params.get("lam_used", params.get("lam_requested"))
    if "own_order" in inputs:  # the first of a permutation become the partner's
        taken = torch.zeros(196)
        taken[inputs["own_order"][: int((1 - lam) * 196) + params["minimum_tokens"]]] = 1
        return taken.view(14, 14).bool()
    draws = [Block(one["h"], one["w"], one.get("top"), one.get("left")) for one in inputs["draws"]]
    return token_blocks(draws, lam, (14, 14), params["minimum_tokens"])


@cases("tokenmix", "tokenmix_mask")
def test_tokenmix(case):
    tokens = tokenmix(case)
    assert tokens.dtype == torch.bool
    assert equal(tokens, masks(case["expected"]["mask_patches"]))
    mixed = paste_mask(pixel_ids(2, 28, 28), torch.arange(2), tokens)
    assert equal(mixed.lam, case["expected"]["lam_area"])
    assert not equal(tokens.T, masks(case["expected"]["mask_patches"])) or torch.equal(tokens, tokens.T)


@cases("tlalign")
def test_tlaligns_boxes(case):
    grid, inputs, expected = case["params"]["grid"], case["inputs"], case["expected"]
    images, labels, partner = a_batch(inputs["partner"], *grid, inputs["labels"])
    mixed = cutmix(images, labels, inputs["box_tokens_yxyx"], partner)
    assert equal(mixed.mask[0], masks(expected["mask_patches"]))
    assert equal(mixed.lam, expected["lam_area"])
    params = case["params"]
    assert equal(mixed.targets(params["num_classes"], params["smoothing"]), expected["initial_class_row"])


# FMix


def fmix(case):
    params = case["params"]
    gray = torch.tensor(case["inputs"]["gray"])
    return threshold_mask(gray, params["lam_requested"], params["max_soft"], params["rounding"])


@cases("fmix")
def test_fmix(case):
    params, mask = case["params"], fmix(case)
    expected = case["expected"]["mask"]
    want = masks(expected) if isinstance(expected[0], str) else torch.tensor(expected, dtype=torch.float64)
    assert equal(mask, want)
    assert not equal(1 - mask.float(), want)  # the official mask is the row's own
    height, width = params["height"], params["width"]
    mixed = paste_mask(pixel_ids(2, height, width), torch.arange(2), mask)
    assert equal(mixed.lam, case["correct"]["lam"])
    assert equal(mixed.lam, case["expected"]["lam_mask_mean"])
    for kind in (torch.float32, torch.float64):
        normals = torch.tensor(case["inputs"]["normals"], dtype=kind)
        gray = fourier_image(normals, height, width, params["decay_power"])
        assert gray.dtype == kind
        assert equal(gray, case["correct"]["gray_from_normals"])
        assert not equal(gray, case["expected"]["gray_from_normals"])


@cases("fmix", only=lambda case: case["expected"]["lam_returned"] != case["correct"]["lam"])
def test_lam_of_fmix_is_not_the_draw(case):
    mixed = paste_mask(pixel_ids(2, *fmix(case).shape), torch.arange(2), fmix(case))
    assert not equal(mixed.lam, case["expected"]["lam_returned"])


# ResizeMix


def resized(case, **how):
    inputs, params = case["inputs"], case["params"]
    images, labels, partner = a_batch(inputs["partner"], params["height"], params["width"], inputs["labels"])
    return resizemix(images, labels, torch.tensor(inputs["box_yxyx"]), partner, **how)


@cases("resizemix")
def test_resizemix(case):
    params, mixed = case["params"], resized(case, scale=case["params"]["scale"])
    assert mixed.images[:, 0].long().tolist() == case["expected"]["mixed_pixel_ids"]
    assert equal(mixed.lam, case["expected"]["lam"])
    sizes = (mixed.box[:, 2:] - mixed.box[:, :2]).tolist()
    assert sizes == [case["expected"]["small_size"]] * len(sizes)
    assert sizes[0] == [int(params[side] * params["scale"]) for side in ("height", "width")]


def test_without_the_scale_half_of_the_cases_are_sampled_as_the_authors_do():
    met = {
        case["id"]: resized(case).images[:, 0].long().tolist() == case["expected"]["mixed_pixel_ids"]
        for case in METHODS["resizemix"]
    }
    assert [name for name, is_met in met.items() if is_met] == ["shared-0", "shared-1", "shared-2"]


@cases("resizemix_mmpretrain")
def test_resizemix_of_mmpretrain(case):
    inputs, expected = case["inputs"], case["expected"]
    images, labels = torch.tensor(inputs["images"])[:, None], torch.tensor(inputs["labels"])
    mixed = resizemix(images, labels, inputs["box_yxyx"], torch.tensor(inputs["partner"]), "bilinear")
    assert equal(mixed.images[:, 0], expected["mixed"])
    assert equal(mixed.lam, expected["lam"])
    assert equal(mixed.targets(case["params"]["num_classes"]), expected["target"])
    nearest = resizemix(images, labels, inputs["box_yxyx"], torch.tensor(inputs["partner"]))
    assert not equal(nearest.images[:, 0], expected["mixed"])


# SnapMix


def snapped(case, images=None):
    inputs = case["inputs"]
    images = torch.tensor(inputs["images"])[:, None] if images is None else images
    boxes = inputs["own_box_yxyx"], inputs["partner_box_yxyx"]
    return snapmix(images, torch.tensor(inputs["labels"]), *boxes, torch.tensor(inputs["partner"]))


@cases("snapmix")
def test_snapmix(case):
    mixed = snapped(case)
    assert equal(mixed.images[:, 0], case["expected"]["mixed"])
    assert equal(mixed.lam, case["expected"]["lam_area"])


def test_snapmix_resizes_corner_on_corner_and_not_pixel_on_pixel():
    wrong = 0
    for case in METHODS["snapmix"]:
        mixed = snapped(case)
        one = mixed.box[0].tolist(), mixed.source_box[0].tolist()
        sides = {(bottom - top, right - left) for top, left, bottom, right in one}
        boxes = (tuple(one[0]),), (tuple(one[1]),)
        size = mixed.images.shape[-1]
        partner = tuple(mixed.partner.tolist())
        other = Draw(size, size, partner, (float(mixed.lam[0]),), *boxes, (), "bilinear")
        pixels = other.apply(torch.tensor(case["inputs"]["images"])[:, None], mixed.labels).images[:, 0]
        assert equal(pixels, case["expected"]["mixed"]) == (len(sides) == 1)
        wrong += len(sides) > 1
    assert wrong >= 4


# SMMix, Attentive CutMix, SaliencyMix: where the maps place the partner


def squares(case, swap=False):
    inputs, side = case["inputs"], case["params"]["side"]
    maps, partner = torch.tensor(inputs["attention"]), torch.tensor(inputs["partner"])
    maps = -maps if swap else maps
    return max_min_square(maps, partner, (side, side), case["params"]["region"])


@cases("smmix")
def test_smmix(case):
    params, inputs, expected = case["params"], case["inputs"], case["expected"]
    paste_at, taken_from = squares(case)
    assert paste_at.tolist() == expected["paste_at_yx"]
    assert taken_from.tolist() == expected["taken_from_yx"]
    patch, size = params["patch"], params["image_size"]
    images, labels, partner = a_batch(inputs["partner"], size, size, inputs["labels"])
    mixed = square_mix(images, labels, paste_at * patch, taken_from * patch, params["region"] * patch, partner)
    if "mixed_pixel_ids" in expected:
        assert mixed.images[:, 0].long().tolist() == expected["mixed_pixel_ids"]
    assert torch.equal(mixed.mask[:, ::patch, ::patch].float(), masks(expected["mask_patches"]))
    assert equal(mixed.lam, expected["lam"])
    assert equal(mixed.targets(params["num_classes"], params["smoothing"]), expected["target"])
    swapped = squares(case, swap=True)
    assert swapped[0].tolist() != expected["paste_at_yx"]
    assert swapped[1].tolist() != expected["taken_from_yx"]


@cases("attentive_cutmix")
def test_attentive_cutmix(case):
    grid, size, k = (case["params"][name] for name in ("grid", "image_size", "top_k"))
    maps = torch.tensor(case["inputs"]["attention"]).flatten(1)
    cells, want = top_cells(maps, (grid, grid), k), masks(case["expected"]["mask_cells"])
    assert torch.equal(cells.float(), want)
    images, labels, partner = a_batch(case["inputs"]["partner"], size, size)
    mixed = paste_mask(images, labels, cells, partner)
    assert equal(mixed.lam, case["expected"]["lam"])
    assert torch.equal(mixed.mask, cell_mask(cells, size // grid, size, size))
    assert torch.equal(mixed.images, mix_by_mask(mixed))
    if k < grid * grid:
        assert not torch.equal(top_cells(maps[partner], (grid, grid), k).float(), want)  # the partner's cells
    assert not torch.equal((~cells).float(), want)  # roles swapped


@cases("saliencymix")
def test_saliencymix(case):
    saliency, lam = torch.tensor(case["inputs"]["saliency"]), case["params"]["lam_requested"]
    height, width, partner = case["params"]["height"], case["params"]["width"], case["inputs"]["partner"]
    of_image = saliency_box(saliency, lam)
    assert of_image.tolist() == case["expected"]["box_yxyx_from_saliency_of_image"]
    images = pixel_ids(len(partner), height, width)
    mixed = cutmix(images, torch.arange(len(partner)), of_image)
    assert equal(mixed.lam, case["expected"]["lam_of_that_box"])
    boxes = saliency_box(saliency[partner], lam)
    assert boxes.tolist() == case["correct"]["box_yxyx"]
    one_for_all = of_image[partner[0]].expand(len(partner), 4)
    assert boxes.tolist() != one_for_all.tolist()  # the authors' one box for the batch


def test_a_row_of_saliencymix_takes_the_box_of_its_own_partner(monkeypatch):
    for case in METHODS["saliencymix"]:
        *size, lam = (case["params"][name] for name in ("height", "width", "lam_requested"))
        monkeypatch.setattr("transmix.mixing.saliencymix.draw_beta", lambda rng, alpha, lam=lam: lam)
        maps = torch.tensor(case["inputs"]["saliency"])
        # The map's maximum becomes 1: the place of the maximum is that of the case where no other pixel joins it.
        clean = CleanMaps(maps.flatten(1), tuple(size), case["inputs"]["partner"], tuple(size))
        rows = SaliencyMix().place(dict.fromkeys(range(len(maps))), clean)
        scaled = maps / maps.amax((1, 2), keepdim=True)
        boxes = saliency_box(scaled[case["inputs"]["partner"]], lam).tolist()
        assert [list(rows[row].box) for row in range(len(maps))] == boxes
        assert all(isinstance(row, Row) for row in rows.values())
