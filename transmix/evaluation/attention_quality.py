"""The suite 'attention-quality': does the class token attend to the foreground? Compares attention maps with masks."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.ndimage import label  # scikit-learn brings it
from torch import Tensor
from torch.nn import functional as F

from transmix.attention import AttentionReader, attention_maps
from transmix.data.dataset import DataError, ImageData
from transmix.data.masks import FOREGROUND, UNSURE, Masks, crop_mask, open_masks
from transmix.distributed import gather
from transmix.evaluation.evaluate import Evaluator
from transmix.evaluation.suites import Settings
from transmix.labels.patches import mask_on_patches
from transmix.mixing.box import Box, box_area

CUTS = tuple(step / 20 for step in range(20))
"""Thresholds of a map scaled to 0..1, of which MaxBoxAcc takes the best."""

AT_ONCE = 16
"""Images whose whole maps are formed at once: 12 layers of ViT-S take 0.2 GB."""

MASS = 0.6
"""Share of a map's mass that a thresholded map keeps, as in DINO's figures."""


def keep_mass(maps: Tensor, mass: float = MASS) -> Tensor:
    """Return the largest patches that together hold the fraction `mass` of each map (..., P): (..., P) bool.

    A patch is dropped if it and all smaller ones together hold at most 1 - mass.

    Source: Caron et al., DINO (ICCV 2021), section 4.2.2, and its visualisation.
    """
    ordered, order = maps.double().sort(dim=-1, stable=True)
    held = ordered.cumsum(-1) / ordered.sum(-1, keepdim=True)
    return torch.zeros_like(maps, dtype=torch.bool).scatter(-1, order, held > 1 - mass)


def on_pixels(patches: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Upsample patches (B, P) to pixels (B, H, W) by nearest neighbour; the dtype stays."""
    return F.interpolate(patches.view(-1, 1, *grid).float(), size=size, mode="nearest")[:, 0].to(patches.dtype)


def jaccard(found: Tensor, masks: Tensor) -> Tensor:
    """Return the IoU of `found` and the foreground of each image, (B,) float64; unclassified pixels do not count.

    Args:
        found: (B, H, W) bool.
        masks: (B, H, W) uint8, from `crop_mask`.
    """
    foreground, sure = masks == FOREGROUND, masks != UNSURE
    both, either = found & foreground & sure, (found | foreground) & sure
    return both.flatten(1).sum(1).double() / either.flatten(1).sum(1)


def box_around(found: np.ndarray) -> Box:
    """Return the smallest box around the true pixels of (H, W); an empty box if there are none."""
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def largest_box(patches: np.ndarray, size: tuple[int, int]) -> Box:
    """Return the box, in pixels, around the largest connected part of (h, w) bool; patches connect at corners too."""
    parts, count = label(patches, structure=np.ones((3, 3)))  # type: ignore[misc]
    if count > 1:
        patches = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    down, across = (pixels / cells for pixels, cells in zip(size, patches.shape, strict=True))
    top, left, bottom, right = box_around(patches)
    return round(top * down), round(left * across), round(bottom * down), round(right * across)


def overlap(one: Box, other: Box) -> float:
    """Return the IoU of two boxes; 0 for two empty boxes."""
    down = min(one[2], other[2]) - max(one[0], other[0])
    across = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(down, 0) * max(across, 0)
    covered = box_area(one) + box_area(other) - shared
    return shared / covered if covered else 0.0


def image_scores(attention: Tensor, heads: Tensor, grid: tuple[int, int], masks: Tensor) -> dict[str, Tensor]:
    """Score the maps of some images.

    Args:
        attention: (B, P), mean over the heads.
        heads: (B, G, P), or (B, 0, P) if the heads are unknown.
        grid: (h, w).
        masks: (B, H, W) uint8, each with some foreground.

    Returns:
        Name -> (B,) or (B, n) float64, names as in `attention_quality`; 'jaccard_heads' (B, G); 'boxes' (B, 20),
        whether the box at each threshold in `CUTS` has an IoU of at least 0.5 with the mask's box; 'maps' (B, P), each
        with sum 1; and 'foreground' (B, P), the foreground fraction of each patch.
    """
    size = masks.shape[-2], masks.shape[-1]
    foreground = masks == FOREGROUND
    theirs = [box_around(mask) for mask in foreground.numpy()]

    def has_box(patches: Tensor) -> Tensor:
        ours = [largest_box(one, size) for one in patches.view(-1, *grid).numpy()]
        return torch.tensor([overlap(*both) >= 0.5 for both in zip(ours, theirs, strict=True)]).double()

    def has_shape(patches: Tensor) -> Tensor:
        return jaccard(on_pixels(patches, grid, size), masks)

    kept, everything = keep_mass(attention), torch.ones_like(attention, dtype=torch.bool)
    lowest, highest = attention.amin(1, keepdim=True), attention.amax(1, keepdim=True)
    scaled = torch.where(highest > lowest, (attention - lowest) / (highest - lowest), 1.0)
    share = mask_on_patches(foreground, grid, "fraction").flatten(1).double()
    hits = (share > 0).double()
    of_heads = [has_shape(keep_mass(head)) for head in heads.unbind(1)]
    maps = attention.double() / attention.double().sum(1, keepdim=True)
    return {
        "maps": maps,
        "foreground": share,
        "jaccard": has_shape(kept),
        "jaccard_heads": torch.stack(of_heads, 1) if of_heads else torch.zeros(len(masks), 0).double(),
        "jaccard_whole_image": has_shape(everything),
        "mass_on_foreground": (maps * share).sum(1),
        "area_of_foreground": share.mean(1),
        "pointing": hits.gather(1, attention.argmax(1, keepdim=True))[:, 0],
        "pointing_by_chance": hits.mean(1),
        "localisation": has_box(kept),
        "localisation_whole_image": has_box(everything),
        "boxes": torch.stack([has_box(scaled > cut) for cut in CUTS], 1),
    }


def read_attention(evaluator: Evaluator, reader: AttentionReader, pixels: Tensor) -> tuple[Tensor, Tensor, tuple]:
    """Return the class token's attention over pixels (B, 3, S, S), on the CPU: mean (B, P), heads (B, G, P), grid.

    Heads come from the last layer's full maps, in a second forward. If that layer has other patches than the row that
    TransMix reads, G is 0.
    """
    evaluator.logits(pixels)
    attention, grid, _ = reader.take()
    attention = attention.cpu()
    patches = attention.shape[1]
    reader.eval = False
    with evaluator.autocast():
        found = [attention_maps(evaluator.model, part, -1)[0][:, :, 0].cpu() for part in pixels.split(AT_ONCE)]
    reader.eval = True
    heads = torch.cat(found)[..., -patches:]
    return attention, heads if heads.shape[-1] == patches else heads.new_zeros(len(pixels), 0, patches), grid


def heads_of(attention: Tensor, heads: Tensor) -> Tensor:
    """Return for which images the mean of the heads (B, G, P) is the map (B, P): (B,) bool."""
    if heads.shape[1] == 0:
        return torch.zeros(len(heads))
    off = (heads.mean(1) - attention).abs().amax(1)
    return (off <= 0.05 * attention.amax(1)).double()


def explained_by_position(maps: Tensor) -> float:
    """Return the fraction of the attention's variance that position alone explains, in 0..1.

    R squared of the mean map as a prediction of every image's map: 1 - sum (a_ip - m_p)^2 / sum (a_ip - 1/P)^2 over
    images i and patches p, where m_p is the mean of a_ip over the images and 1/P the mean over all images and patches.

    Args:
        maps: (N, P) float64, each with sum 1.

    Returns:
        0 if the mean map is uniform; 1 if all images have the same map, even a uniform one.
    """
    total = (maps - 1 / maps.shape[1]).square().sum()
    unexplained = (maps - maps.mean(0)).square().sum()
    return float(1 - unexplained / total) if total > 0 else 1.0


def own_over_other(maps: Tensor, foreground: Tensor) -> float:
    """Return the attention on an image's own object, divided by that of other images' maps at the same place.

    The mean over images i of sum_p f_ip a_ip, divided by the mean over pairs of different images of sum_p f_ip a_jp.

    Args:
        maps: a, (N, P) float64, each with sum 1; at least 2 images.
        foreground: f, (N, P), foreground fraction of each patch.

    Returns:
        1 if the maps do not depend on the image.
    """
    own = (maps * foreground).sum()
    pairs = maps.sum(0) @ foreground.sum(0) - own
    return float((len(maps) - 1) * own / pairs)


def attention_quality(
    evaluator: Evaluator, data: ImageData, settings: Settings
) -> Iterator[tuple[str, float | list | str]]:
    """Yield how well the class token's attention over unmixed validation images agrees with their masks.

    All except two are means over images, in 0..1, higher is better. 'images' counts images with visible foreground,
    'left_out' the others.

    'jaccard'                the map's patches that hold 60 % of its mass, against the mask; mean of all heads
    'jaccard_heads'          the same for each head of the layer, if they can be read
    'jaccard_best_head'      the best of them over all images; '..._of_each_image' takes the best for each image, which
                             looks at the mask, as published tables on PASCAL VOC do (object by object, void included)
    'mass_on_foreground'     share of the attention on the foreground; a uniform map has 'area_of_foreground'
    'own_over_other'         attention on the image's own object over that of all other images' maps at the same place:
                             1 if where it looks does not depend on the image, and no upper limit
    'explained_by_position'  share of the attention's variance over images and patches that the mean map explains: 1 if
                             all images have the same map, lower is better
    'pointing'               the patch that gets most holds foreground, be it one pixel (the published tolerance is 15
                             pixels of a photograph; here it is the patch, because a map points no finer); a patch taken
                             at random has 'pointing_by_chance'
    'localisation'           the box around the largest part of the 60 % map overlaps the mask's by at least half
    'localisation_best_cut'  the same at the threshold of a map scaled to 0..1 that is best over all images, 'best_cut':
                             MaxBoxAcc
    '..._whole_image'        the same score of the whole image, for comparison

    Sources: Caron et al., DINO (ICCV 2021); Naseer et al., Intriguing properties of vision transformers (NeurIPS 2021),
    for PASCAL VOC; Zhang et al. (ECCV 2016), for the pointing game; Choe et al., Evaluating weakly-supervised object
    localization methods right (CVPR 2020), for MaxBoxAcc. 'own_over_other' and 'explained_by_position' are our own.

    Raises:
        DataError: The data has no masks, or none with foreground in view.
        AttentionError: The model's attention cannot be read.
    """
    masks = open_masks(data)
    AttentionReader(evaluator.model).detach()  # raises if it cannot
    return _measure(evaluator, data, masks)


def _measure(evaluator: Evaluator, data: ImageData, masks: Masks) -> Iterator[tuple[str, float | list | str]]:
    scores = _score_all(evaluator, data, masks)
    images = len(scores["index"])
    if images == 0:
        raise DataError(f"{data.name}: no validation image has foreground inside the evaluation crop")
    maps, foreground = scores.pop("maps"), scores.pop("foreground")
    means = {name: values.mean(0).tolist() for name, values in scores.items() if name != "index"}
    heads, boxes, known = means.pop("jaccard_heads"), means.pop("boxes"), means.pop("heads_known") == 1
    yield "images", images
    yield "left_out", len(data.val) - images
    yield from means.items()
    yield "explained_by_position", explained_by_position(maps)
    if images > 1:
        yield "own_over_other", own_over_other(maps, foreground)
    yield "localisation_best_cut", max(boxes)
    yield "best_cut", CUTS[boxes.index(max(boxes))]
    if heads and known:
        yield "jaccard_heads", heads
        yield "jaccard_best_head", max(heads)
        yield "jaccard_best_head_of_each_image", float(scores["jaccard_heads"].amax(1).mean())


def _score_all(evaluator: Evaluator, data: ImageData, masks: Masks) -> dict[str, Tensor]:
    """Score all images that have foreground, in the order of their 'index', from all processes."""
    parts, crop = [], evaluator.preprocessing.crop
    with AttentionReader(evaluator.model, training=False, eval=True) as reader:
        for pixels, _, index in evaluator.batches(data.val, "attention-quality"):
            cropped = torch.stack([crop_mask(masks(int(one)), crop) for one in index])
            counts = (cropped == FOREGROUND).flatten(1).any(1)
            if counts.any():
                attention, heads, grid = read_attention(evaluator, reader, pixels[counts.to(pixels.device)])
                known = {"index": index[counts], "heads_known": heads_of(attention, heads)}
                parts.append(known | image_scores(attention, heads, grid, cropped[counts]))
    mine = {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
    everyone = [theirs for theirs in gather(mine, evaluator.world) if theirs]
    if not everyone:
        return {"index": torch.empty(0)}
    together = {name: torch.cat([theirs[name] for theirs in everyone]) for name in everyone[0]}
    order = together["index"].argsort()
    return {name: values[order] for name, values in together.items()}
