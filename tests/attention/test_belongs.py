"""A row of attention belongs to the images it was computed from: the label of a batch is its own, or there is an error.

Through the three lines alone. The oracle shares no code with the library: it takes the input of the last attention from
a hook, forms softmax(q k^T) by hand in float64, and loops over the mask's pixels.
"""

import copy
import pickle
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from transmix import AttentionError, TransMix, attention_labels, cutmix
from transmix.attention import with_class_attention

timm = pytest.importorskip("timm")

SIZE = (32, 48)
RELABEL = "call mixed = tm.relabel(mixed) right after the forward on mixed.images"


def a_vit(seed=0, size=SIZE, **changes):
    """A tiny ViT whose attention is far from uniform."""
    tiny = {"img_size": size, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 10}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", **{**tiny, **changes})
        with torch.no_grad():
            model.patch_embed.proj.weight.normal_(std=0.3)
            for block in model.blocks:
                block.attn.qkv.weight.normal_(std=0.25)
    return model.train()


def batch(seed=0, count=5, size=SIZE):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *size, generator=rng), torch.arange(count)


class Around(nn.Module):
    """A model with a ViT in it: forward(vit, *inputs)."""

    def __init__(self, forward, **changes):
        super().__init__()
        self.call, self.vit = forward, a_vit(**changes)

    def forward(self, *inputs):
        return self.call(self.vit, *inputs)


def around(forward, settings=None, **changes):
    """Such a model and what mixes for it."""
    model = Around(forward, **changes)
    return model, made(model, module="vit.blocks.1.attn", **(settings or {}))


def last_attention(model, images):
    """The last attention, of a copy that nobody reads, and its input."""
    model = copy.deepcopy(model)
    last, seen = getattr(model, "vit", model).blocks[-1].attn, []
    last.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().double()))
    with torch.no_grad():
        model(images)
    return last, seen[0]


def by_hand(model, images, boxes, grid=(4, 6), area=None, first=1):
    """lam of every row: the mean of area and attention, patch by patch, each by its top left pixel."""
    last, tokens = last_attention(model, images)
    tokens = tokens.numpy()
    weight, bias = last.qkv.weight.detach().double().numpy(), last.qkv.bias.detach().double().numpy()
    height, width = images.shape[-2:]
    size = area or (height, width)
    found = []
    for row in range(len(images)):
        top, left, bottom, right = boxes[row % len(boxes)]
        query_key_value = (tokens[row] @ weight.T + bias).reshape(len(tokens[row]), 3, last.num_heads, -1)
        attention = np.zeros(len(tokens[row]))
        for head in range(last.num_heads):
            query, keys = query_key_value[0, 0, head], query_key_value[:, 1, head]
            scores = np.exp(keys @ query * query.size**-0.5)
            attention += scores / scores.sum() / last.num_heads
        patches = attention[first : first + grid[0] * grid[1]].reshape(grid)
        own = 0.0
        for i in range(grid[0]):
            for j in range(grid[1]):
                y, x = i * size[0] // grid[0], j * size[1] // grid[1]
                own += 0 if top <= y < bottom and left <= x < right else patches[i, j]
        own /= patches.sum()
        lam_area = 1 - (bottom - top) * (right - left) / (height * width)
        found.append((own + lam_area) / 2)
    return torch.tensor(found, dtype=torch.float32)


def own_label(model, mixed, **about):
    return by_hand(model, mixed.images, box_of(mixed), **about)


def box_of(mixed):
    """The one box of a batch, read off its mask."""
    rows, columns = mixed.mask[0].any(1).nonzero().flatten(), mixed.mask[0].any(0).nonzero().flatten()
    return [(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)]


def made(model, seed=3, **settings):
    return TransMix(model, mixup_alpha=0, generator=torch.Generator().manual_seed(seed), **settings)


def close(one, other):
    return torch.allclose(one, other, rtol=0, atol=2e-6)


@pytest.fixture
def model():
    return a_vit()


@pytest.fixture
def tm(model):
    return made(model)


@pytest.fixture
def clean():
    return batch()[0]


@pytest.fixture
def mixed(tm, clean):
    return tm.mix(clean, torch.arange(5))


def refusal(call):
    with pytest.raises(AttentionError) as error:
        call()
    return str(error.value)


# ------------------------------------------------------------------------------------- forwards between mix and loss


def test_the_oracle_tells_images_apart(model, clean, mixed):
    right, other = (by_hand(model, images, box_of(mixed)) for images in (mixed.images, clean))
    assert (right - mixed.lam_area).abs().max() > 0.02
    assert (right - other).abs().max() > 0.005


BETWEEN = {
    "a clean view after": lambda model, mixed, clean: (model(mixed.images), model(clean)),
    "a clean view before": lambda model, mixed, clean: (model(clean), model(mixed.images)),
    "two views after": lambda model, mixed, clean: (model(mixed.images), model(clean), model(mixed.images.flip(3))),
    "no gradient after": lambda model, mixed, clean: (model(mixed.images), torch.no_grad()(model)(clean)),
    "twice on the same": lambda model, mixed, clean: (model(mixed.images), model(mixed.images)),
    "of another batch size": lambda model, mixed, clean: (model(mixed.images), model(clean[:2])),
    "through a view": lambda model, mixed, clean: (model(mixed.images.view_as(mixed.images)), model(clean)),
    "under autocast": lambda model, mixed, clean: (
        torch.autocast("cpu", torch.bfloat16, enabled=False)(model)(mixed.images),
        torch.autocast("cpu", torch.bfloat16)(model)(clean),
    ),
}


@pytest.mark.parametrize("forwards", BETWEEN.values(), ids=BETWEEN)
def test_other_forwards_do_not_change_the_label(model, tm, clean, mixed, forwards):
    forwards(model, mixed, clean)
    assert close(tm.relabel(mixed).lam, own_label(model, mixed))


def test_the_last_row_would_be_another_label(model, tm, clean, mixed):
    """How it was: whatever the model saw last."""
    model(mixed.images), model(clean)
    last = tm.reader.take()
    wrong = attention_labels(mixed, last.row, grid=last.grid).lam
    assert not close(wrong, own_label(model, mixed))


def test_a_smaller_second_crop_does_not_change_the_label():
    model = a_vit(dynamic_img_size=True)
    tm = made(model)
    mixed = tm.mix(*batch())
    model(mixed.images), model(batch()[0][..., :16, :16])
    assert close(tm.relabel(mixed).lam, own_label(model, mixed))


def test_a_batch_mixed_by_hand_is_known_too(model, tm, clean):
    mixed = cutmix(clean, torch.arange(5), (0, 0, 16, 24))
    model(mixed.images), model(clean)
    assert close(tm.relabel(mixed).lam, own_label(model, mixed))


def test_mix_mix_forward_forward_loss_loss(model, tm):
    first, second = tm.mix(*batch(0)), tm.mix(*batch(1))
    model(first.images), model(second.images)
    for mixed in (first, second):
        assert close(tm.relabel(mixed).lam, own_label(model, mixed))


def test_two_forwards_on_the_same_images_serve_two_losses(model, tm, mixed):
    expected = own_label(model, mixed)
    outputs = [model(mixed.images), model(mixed.images)]
    for logits in outputs:
        assert torch.isfinite(tm.loss(logits, mixed))
    model(mixed.images)  # as SAM does: forward, loss, forward, loss
    assert close(tm.relabel(mixed).lam, expected)
    model(mixed.images)
    assert close(tm.relabel(mixed).lam, expected)


def test_the_first_batch_is_refused_after_the_next_was_mixed(model, tm):
    first = tm.mix(*batch(0))
    logits = model(first.images)
    tm.mix(*batch(1))
    assert refusal(lambda: tm.loss(logits, first)) == (
        "no attention was recorded in 'blocks.1.attn': another batch was mixed since the forward on this one, and "
        "mixing drops what came before. Call mixed = tm.relabel(mixed) right after model(mixed.images)"
    )
    first = tm.mix(*batch(0))  # the remedy
    logits = model(first.images)
    first = tm.relabel(first)
    tm.mix(*batch(1))
    assert torch.isfinite(tm.loss(logits, first))


def test_a_forward_on_the_images_before_mixing_alone_is_refused(model, tm, clean, mixed):
    logits = model(clean)
    assert refusal(lambda: tm.loss(logits, mixed)) == (
        f"the model ran on the images as they were before mixing, not on mixed.images: {RELABEL} (a forward on other "
        f"images does no harm)"
    )


def test_a_batch_in_a_larger_one_is_refused_until_its_rows_are_named(model, tm, clean, mixed):
    for parts, rows in (([mixed.images, clean], slice(0, 5)), ([clean, mixed.images], slice(5, 10))):
        logits = model(torch.cat(parts))
        assert refusal(lambda logits=logits: tm.loss(logits[:5], mixed)) == (
            "the model saw 10 images, of which 5 are this batch: say which, with mixed = "
            "tm.relabel(mixed, rows=slice(0, 5)) if they come first"
        )
        relabelled = tm.relabel(mixed, rows=rows)
        assert close(relabelled.lam, own_label(model, mixed))
        assert torch.isfinite(tm.loss(logits[rows], relabelled))


def test_the_wrong_rows_of_a_larger_batch_are_refused(model, tm, clean, mixed):
    model(torch.cat([clean, mixed.images]))
    assert "is shifted, changed a lot or another batch" in refusal(lambda: tm.relabel(mixed, rows=slice(0, 5)))
    assert refusal(lambda: tm.relabel(mixed, rows=slice(0, 4))) == (
        f"the model saw 10 images, this batch has 5; rows={slice(0, 4)} are not 5 of them: {RELABEL}"
    )
    assert close(tm.relabel(mixed, rows=slice(5, 10)).lam, own_label(model, mixed))


# -------------------------------------------------------------------------------------- images changed on the way

CHANGED = {
    "normalised": lambda images: (images - 0.4) / 0.2,
    "cast": lambda images: images.double().float(),
    "half and back": lambda images: images.half().float(),
    "channels last": lambda images: images.contiguous(memory_format=torch.channels_last),
    "copied": lambda images: images.clone(),
    "brighter": lambda images: images * torch.linspace(0.8, 1.2, len(images))[:, None, None, None],
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_images_changed_in_value_on_the_way_are_known_if_they_alone_ran(model, tm, change):
    for seed in range(2):
        mixed = tm.mix(*batch(seed))
        model(change(mixed.images))
        expected = by_hand(model, change(mixed.images), box_of(mixed))
        assert close(tm.relabel(mixed).lam, expected)


MOVED = {
    "is shifted, changed a lot or another batch": lambda images: torch.randn(
        images.shape, generator=torch.Generator().manual_seed(9)
    ),
    "is in another order": lambda images: images.flip(0).clone(),
    "is flipped left to right": lambda images: images.flip(3),
    "is flipped upside down": lambda images: images.flip(2),
}


@pytest.mark.parametrize(("reason", "change"), MOVED.items(), ids=MOVED)
def test_images_moved_on_the_way_are_refused(model, tm, mixed, reason, change):
    model(change(mixed.images))
    assert reason in refusal(lambda: tm.relabel(mixed))


def test_a_transposed_view_of_the_very_memory_is_refused_at_every_step():
    model = a_vit(size=(32, 32))
    tm = made(model)
    for seed in range(3):
        mixed = tm.mix(*batch(seed, size=(32, 32)))
        model(mixed.images.clone())
        tm.relabel(mixed)  # a first check that passes
        mixed = tm.mix(*batch(seed, size=(32, 32)))
        model(mixed.images.transpose(2, 3))
        assert "is transposed" in refusal(lambda mixed=mixed: tm.relabel(mixed))


def test_two_forwards_of_which_none_is_on_mixed_images_itself_are_refused(model, tm, clean, mixed):
    model(clean * 2), model(mixed.images * 2)
    assert refusal(lambda: tm.relabel(mixed)) == (
        "2 forwards of the model could be the one on this batch, and none was given mixed.images itself: run the "
        f"others before mixing or after relabelling, or {RELABEL}, without a copy of them"
    )


def test_pixels_are_compared_the_first_time_alone(model, tm, monkeypatch):
    reads = []
    item = torch.Tensor.__float__
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: (reads.append(1), item(tensor))[1])
    for step in range(4):
        mixed = tm.mix(*batch(step))
        tm.loss(model(mixed.images * 2), mixed)
        if step == 0:
            first = len(reads)
    assert first > 0
    assert len(reads) == first


@pytest.mark.parametrize("resize", [(64, 96), (16, 24)])
def test_images_resized_on_the_way_keep_their_grid(resize):
    model = a_vit(size=resize, dynamic_img_size=True)
    tm = made(model)
    small = nn.functional.interpolate(torch.rand(5, 3, 8, 12), size=SIZE, mode="bilinear")
    mixed = tm.mix(small, torch.arange(5))
    seen = nn.functional.interpolate(mixed.images, size=resize, mode="bilinear", antialias=True)
    model(seen)
    found = tm.relabel(mixed).lam
    grid = (resize[0] // 8, resize[1] // 8)
    box = box_of(mixed)
    lam_area = mixed.lam_area
    expected = by_hand(model, seen, [tuple(np.multiply(box[0], resize[0] / SIZE[0]))], grid, area=resize)
    assert torch.allclose(found, expected, atol=2e-2)
    assert not torch.allclose(found, lam_area, atol=1e-3)


def test_a_model_that_normalises_inside_is_read():
    model, tm = around(lambda vit, images: vit((images - 1) / 3))
    mixed = tm.mix(*batch())
    model(mixed.images), model(batch()[0])
    assert close(tm.relabel(mixed).lam, own_label(model, mixed))


def noise(seed, size=SIZE):
    return batch(seed, size=size)[0]


def square(seed):
    return noise(seed, (32, 32))


def smooth(seed):
    """As photographs are: with a narrow border they are alike by more than 0.9 after resizing."""
    return nn.functional.interpolate(noise(seed, (5, 7)), size=(34, 50), mode="bicubic")


CROPPED, SHIFTED = "is cropped, shifted or another batch", "is shifted, changed a lot or another batch"
INSIDE = {
    "transposed": (noise, lambda images: images.transpose(2, 3), (48, 32), "is transposed"),
    "square, transposed": (square, lambda images: images.transpose(2, 3), (32, 32), "is transposed"),
    "cropped in the middle": (noise, lambda images: images[..., 8:24, 8:40], (16, 32), CROPPED),
    "cropped at a corner": (noise, lambda images: images[..., :16, :32], (16, 32), CROPPED),
    "padded on all sides": (noise, lambda images: nn.functional.pad(images, (8, 8, 8, 8)), (48, 64), CROPPED),
    "flipped": (noise, lambda images: images.flip(3), SIZE, "is flipped left to right"),
    "rolled": (noise, lambda images: images.roll(8, 3), SIZE, SHIFTED),
    "a pixel cut off on all sides": (smooth, lambda images: images[..., 1:-1, 1:-1], (32, 48), CROPPED),
    "a pixel cut off at the top and left": (smooth, lambda images: images[..., 2:, 2:], (32, 48), CROPPED),
    "a pixel put around": (smooth, lambda images: nn.functional.pad(images, (3, 3, 3, 3)), (40, 56), CROPPED),
}


@pytest.mark.parametrize(("images_of", "change", "size", "reason"), INSIDE.values(), ids=INSIDE)
def test_a_model_that_moves_its_images_inside_is_refused(images_of, change, size, reason):
    model, tm = around(lambda vit, images: vit(change(images)), size=size)
    for step in range(2):
        mixed = tm.mix(images_of(step), torch.arange(5))
        logits = model(mixed.images)
        assert reason in refusal(lambda logits=logits, mixed=mixed: tm.loss(logits, mixed))


def test_flat_images_are_taken_for_themselves_and_for_nothing_else(model, tm):
    mixed = tm.mix(torch.zeros(5, 3, *SIZE), torch.arange(5))
    model(mixed.images * 2)
    assert tm.relabel(mixed).rule == "attention"
    mixed = tm.mix(torch.zeros(5, 3, *SIZE), torch.arange(5))
    model(batch()[0])
    assert SHIFTED in refusal(lambda: tm.relabel(mixed))


def test_a_model_that_pads_at_the_right_and_bottom_inside_is_read_over_what_it_pads():
    """Patches by the top left pixel, area of the image as it was."""
    model, tm = around(lambda vit, images: vit(nn.functional.pad(images, (0, 4, 0, 4))))
    images, labels = batch(size=(28, 44))
    mixed = cutmix(images, labels, (0, 0, 20, 22))
    model(mixed.images)
    expected = by_hand(model.vit, nn.functional.pad(mixed.images, (0, 4, 0, 4)), [(0, 0, 20, 22)])
    padded, right = (1 - 20 * 22 / (height * width) for height, width in (SIZE, (28, 44)))
    assert close(tm.relabel(mixed).lam, expected + (right - padded) / 2)


# ------------------------------------------------------------------------------------- grids, padding, prefix tokens


def share_of_pixels(box, size, patch=8):
    """(h, w): of the pixels that a patch has of the image, the share in the box, by a loop over the mask's pixels."""
    h, w = -(-size[0] // patch), -(-size[1] // patch)
    inside, count = np.zeros((h, w)), np.zeros((h, w))
    for y in range(size[0]):
        for x in range(size[1]):
            inside[y // patch, x // patch] += box[0] <= y < box[2] and box[1] <= x < box[3]
            count[y // patch, x // patch] += 1
    return inside / count


def row_by_hand(model, images, patches):
    """(B, P): what the class token attends to."""
    attn, tokens = last_attention(model, images)
    qkv = tokens @ attn.qkv.weight.detach().double().T + attn.qkv.bias.detach().double()
    query, key, _ = qkv.unflatten(-1, (3, attn.num_heads, -1)).unbind(2)
    scores = torch.einsum("bgd,bngd->bgn", query[:, 0], key) * query.shape[-1] ** -0.5
    return scores.softmax(-1).mean(1)[:, -patches:].float()


@pytest.mark.parametrize("box", [(0, 0, 28, 16), (0, 0, 28, 44), (20, 30, 28, 44)])
def test_a_padding_embedding_has_its_mask_padded_alike(box):
    model = a_vit(dynamic_img_pad=True, dynamic_img_size=True)
    tm = made(model, downsample="fraction")
    images, labels = batch(size=(28, 44))
    mixed = cutmix(images, labels, box)
    model(mixed.images)
    lam = tm.relabel(mixed).lam
    row, share = row_by_hand(model, mixed.images, 24), torch.tensor(share_of_pixels(box, (28, 44))).float()
    by_attention = (row * (1 - share.flatten())).sum(1) / row.sum(1)
    assert close(lam, (by_attention + mixed.lam_area) / 2)
    if box == (0, 0, 28, 44):
        assert close(lam, torch.zeros(5))  # a full box is the partner's


def floored(vit, images):
    """Leave out what does not fill a patch."""
    return vit.forward_head(vit.norm(vit.blocks(vit._pos_embed(vit.patch_embed.proj(images).flatten(2).mT))))


def test_an_embedding_that_leaves_a_remainder_out_has_its_mask_cut_alike():
    model, tm = around(floored, {"prefix_tokens": 1}, size=(24, 40))
    images, labels = batch(size=(30, 44))
    mixed = cutmix(images, labels, (0, 0, 9, 20))
    model(mixed.images)
    expected = by_hand(model, mixed.images[..., :24, :40], [(0, 0, 9, 20)], grid=(3, 5))
    expected += (180 / (24 * 40) - 180 / (30 * 44)) / 2  # the area is that of the whole image
    assert close(tm.relabel(mixed).lam, expected)


def overlapping():
    """An embedding with patches of 8 that overlap by 4: 7 x 11 tokens."""
    model = a_vit()
    model.patch_embed.proj = nn.Conv2d(3, 48, 8, 4)
    with torch.no_grad():
        model.patch_embed.proj.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
        model.pos_embed = nn.Parameter(torch.randn(1, 78, 48, generator=torch.Generator().manual_seed(1)) * 0.02)
    return model


def test_overlapping_patches_have_the_grid_that_their_convolution_made():
    model = overlapping()
    tm = made(model)
    mixed = tm.mix(*batch())
    model(mixed.images)
    found = tm.relabel(mixed).lam
    assert tm.reader.grid == (7, 11)
    assert close(found, own_label(model, mixed, grid=(7, 11)))


def with_prompts(front, behind):
    """A forward with prompts among its tokens: in front of the patches, or behind them."""
    prompts = torch.randn(1, front + behind, 48)

    def forward(vit, images):
        tokens = vit._pos_embed(vit.patch_embed(images))
        before, after = prompts.expand(len(tokens), -1, -1).split([front, behind], 1)
        tokens = torch.cat([tokens[:, :1], before, tokens[:, 1:], after], 1)
        return vit.forward_head(vit.norm(vit.blocks(tokens)))

    return forward


@pytest.mark.parametrize(("front", "behind", "prefix"), [(3, 0, 4), (0, 3, 1), (2, 1, 3)])
def test_tokens_that_do_not_add_up_are_refused_until_their_place_is_named(front, behind, prefix):
    model, _ = around(with_prompts(front, behind))
    mixed = cutmix(*batch(), (0, 0, 16, 24))
    assert refusal(lambda: model(mixed.images)) == (
        "'vit.blocks.1.attn' (Attention) attends over 28 tokens, but 1 before (4, 6) = 24 patches make 25: 3 are "
        "unknown. Pass prefix_tokens=4 if they come before the patches, prefix_tokens=1 if after them"
    )
    model, tm = around(with_prompts(front, behind), {"prefix_tokens": prefix})
    model(mixed.images)
    assert close(tm.relabel(mixed).lam, own_label(model, mixed, first=prefix))


def unfolded(vit, images):
    """Cut patches without a convolution."""
    patches = nn.functional.unfold(images, 8, stride=8).mT
    tokens = patches @ vit.patch_embed.proj.weight.flatten(1).T + vit.patch_embed.proj.bias
    return vit.forward_head(vit.norm(vit.blocks(vit._pos_embed(tokens))))


def test_a_grid_can_be_given_where_no_module_tells_it():
    model, tm = around(unfolded, {"grid": (4, 6)})
    mixed = tm.mix(*batch())
    model(mixed.images)
    assert close(tm.relabel(mixed).lam, own_label(model.vit, mixed))


# ---------------------------------------------------------------------------------------------- other uses of a model


class DroppingBlock(nn.Module):
    """A block as DINOv2's own with drop_path: attends over a random part of the batch, and adds that in."""

    def __init__(self, block, keep=3):
        super().__init__()
        self.attn, self.norm1, self.keep = block.attn, block.norm1, keep

    def forward(self, tokens):
        chosen = torch.randperm(len(tokens))[: self.keep]
        scale = len(tokens) / self.keep
        return tokens.index_add(0, chosen, self.attn(self.norm1(tokens[chosen])), alpha=scale)


def test_a_block_that_drops_samples_is_refused(model):
    model.blocks[-1] = DroppingBlock(model.blocks[-1])
    made(model)
    assert refusal(lambda: model(batch()[0])) == (
        "'blocks.1.attn' (Attention) attended over 3 rows where the model was given 5 images. Its block drops whole "
        "samples (stochastic depth over a part of the batch): set drop_path of this block to 0"
    )
    model.blocks[-1].keep = 5
    model(batch()[0])


def siamese(vit, one, two):
    return vit(one) - vit(two)


def test_a_siamese_model_is_read_for_the_images_of_each_branch():
    model, tm = around(siamese)
    mixed, (clean, _) = tm.mix(*batch()), batch(1)
    for pair in ((mixed.images, clean), (clean, mixed.images)):
        model(*pair)
        assert close(tm.relabel(mixed).lam, own_label(model.vit, mixed))
        tm.reader.clear()


def test_video_is_refused():
    model, _ = around(lambda vit, clips: vit(clips.transpose(1, 2).flatten(0, 1)))
    assert refusal(lambda: model(torch.rand(2, 3, 4, *SIZE))) == (
        "Around was given (2, 3, 4, 32, 48): patches of several frames do not form one 2-D grid. Mix and read single "
        "frames (B, C, H, W)"
    )


def test_a_frozen_backbone_in_eval_mode_is_read_when_asked(model):
    tm = made(model)
    model.blocks.eval()
    mixed = tm.mix(*batch())
    logits = model(mixed.images)
    assert "it ran in eval mode" in refusal(lambda: tm.loss(logits, mixed))
    tm.reader.eval = True
    model(mixed.images)
    assert close(tm.relabel(mixed).lam, own_label(model, mixed))


# ------------------------------------------------------------------------------------------------------------- copies

COPIES = {
    "deepcopy, model first": lambda model, tm: copy.deepcopy((model, tm)),
    "deepcopy, model last": lambda model, tm: copy.deepcopy((tm, model))[::-1],
    "pickle, model first": lambda model, tm: pickle.loads(pickle.dumps((model, tm))),
    "pickle, model last": lambda model, tm: pickle.loads(pickle.dumps((tm, model)))[::-1],
    "copy of a copy": lambda model, tm: copy.deepcopy(copy.deepcopy((model, tm))),
}


@pytest.mark.parametrize("copies", COPIES.values(), ids=COPIES)
def test_a_copy_taken_with_its_model_reads_the_copied_model(model, tm, copies):
    model(tm.mix(*batch()).images)  # a row that must not travel
    other, its = copies(model, tm)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.3)
    mixed = its.mix(*batch(1))
    model(mixed.images)  # the original's forward is not the copy's
    assert "it has not run since" in refusal(lambda: its.relabel(mixed))
    other(mixed.images)
    expected = own_label(other, mixed)
    assert close(its.relabel(mixed).lam, expected)
    assert not close(expected, own_label(model, mixed))
    tm.reader.clear()
    mixed = tm.mix(*batch(2))  # and the original reads on
    model(mixed.images)
    assert close(tm.relabel(mixed).lam, own_label(model, mixed))


ALONE = (
    "no attention was recorded: the model that is read is gone, or this is a copy that was made without it. Copy both "
    "in one call, copy.deepcopy((model, tm)), or make a new one for the model in training"
)


@pytest.mark.parametrize("alone", [copy.deepcopy, lambda tm: pickle.loads(pickle.dumps(tm))])
def test_a_copy_without_its_model_says_what_to_do(model, tm, alone):
    other = alone(tm)
    mixed = other.mix(*batch())  # mixing needs no model
    logits = model(mixed.images)
    assert refusal(lambda: other.loss(logits, mixed)) == ALONE
    assert len(pickle.dumps(tm)) < 10_000  # no weights travel with it


ELSEWHERE = """
import pickle, sys, torch
with open(sys.argv[1], "rb") as file:
    model, tm = pickle.load(file)
mixed = tm.mix(torch.randn(5, 3, 32, 48), torch.arange(5))
model(mixed.images)
torch.save({"lam": tm.relabel(mixed).lam, "images": mixed.images, "mask": mixed.mask}, sys.argv[2])
"""


def test_another_process_reads_its_own_model(model, tm, warm_python, tmp_path):
    (tmp_path / "both.pkl").write_bytes(pickle.dumps((model, tm)))
    subprocess.run([warm_python, "-c", ELSEWHERE, tmp_path / "both.pkl", tmp_path / "there.pt"], check=True)
    there = SimpleNamespace(**torch.load(tmp_path / "there.pt"))
    assert close(there.lam, own_label(model, there))


# ------------------------------------------------------------------------ compiled, checkpointed, wrapped, in one piece


def whole(model):
    return torch.compile(model, backend="eager", fullgraph=True)


def block_by_block(model):
    for index, block in enumerate(model.blocks):
        model.blocks[index] = torch.compile(block, backend="eager", fullgraph=True)
    return model


def checkpointed(model):
    model.set_grad_checkpointing(True)
    return model


def checkpointed_block_by_block(model):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    for index, block in enumerate(model.blocks):
        model.blocks[index] = checkpoint_wrapper(block)
    return model


def compiled_and_checkpointed(model):
    return torch.compile(checkpointed(model), backend="aot_eager", fullgraph=True)


WRAPPED = {
    "compiled": whole,
    "blocks compiled": block_by_block,
    "checkpointed": checkpointed,
    "blocks checkpointed": checkpointed_block_by_block,
    "compiled, checkpointed": compiled_and_checkpointed,
    "DDP": DistributedDataParallel,
    "DDP of compiled": lambda model: DistributedDataParallel(whole(model)),
}


@pytest.mark.usefixtures("fresh_compiler", "one_process")
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("first", ["wrapped", "attached"])
def test_a_clean_view_between_is_no_matter_however_the_model_runs(wrap, first):
    plain, bare = a_vit(), a_vit()
    if first == "attached":
        tm = made(bare)
        model = wrap(bare)
    else:
        model = wrap(bare)
        tm = made(model)
    for step in range(3):
        images, labels = batch(step)
        mixed = tm.mix(images, labels)
        logits = model(mixed.images)
        model(images)
        relabelled = tm.relabel(mixed)
        assert close(relabelled.lam, own_label(plain, mixed))
        tm.loss(logits, relabelled).backward()
    first = tm.mix(images, labels)
    logits = model(first.images)
    tm.mix(images, labels)
    assert "another batch was mixed since" in refusal(lambda: tm.loss(logits, first))


@pytest.mark.usefixtures("fresh_compiler")
def test_the_step_in_one_graph_takes_the_row_of_its_own_images(model):
    tm = made(model, smoothing=0.1)

    @torch.compile(backend="eager", fullgraph=True)
    def loss_of(mixed, clean):
        logits = model(mixed.images)
        model(clean)
        return tm.loss(logits, mixed)

    for step in range(3):
        images, labels = batch(step)
        mixed = tm.mix(images, labels)
        loss = loss_of(mixed, images)
        tm.reader.clear()
        logits = model(mixed.images)
        assert torch.allclose(loss, tm.loss(logits, mixed), atol=1e-6)


@pytest.mark.usefixtures("fresh_compiler")
def test_two_forwards_a_step_do_not_compile_again_and_again(model):
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    tm = made(model)
    counts = []
    for step in range(6):
        images, labels = batch(step)
        mixed = tm.mix(images, labels)
        compiled(mixed.images), compiled(images)
        tm.relabel(mixed)
        counts.append(counter.frame_count)
    assert counts[0] <= 2
    assert counts[-1] == counts[0]


@pytest.mark.usefixtures("one_process")
def test_a_sharded_model_is_read_for_its_own_images():
    from torch.distributed.fsdp import fully_shard

    plain, bare = a_vit(), a_vit()
    mesh = distributed.init_device_mesh("cpu", (1,))
    for block in bare.blocks:
        fully_shard(block, mesh=mesh)
    tm = made(fully_shard(bare, mesh=mesh))
    for step in range(2):
        images, labels = batch(step)
        mixed = tm.mix(images, labels)
        logits = bare(mixed.images)
        bare(images)
        relabelled = tm.relabel(mixed)
        assert close(relabelled.lam, own_label(plain, mixed))
        tm.loss(logits, relabelled).backward()


# ------------------------------------------------------------- models within models, heads, and grids that are not told

PLACES = {"registers": {"reg_tokens": 4}, "one class token": {}}


@pytest.mark.parametrize("changes", PLACES.values(), ids=PLACES)
def test_a_known_model_within_another_is_read_as_it_is_alone(changes):
    model, tm = around(siamese, **changes)  # without saying how many tokens come before the patches
    mixed, (clean, _) = tm.mix(*batch()), batch(1)
    model(clean, mixed.images)
    first = 1 + changes.get("reg_tokens", 0)
    assert close(tm.relabel(mixed).lam, own_label(model.vit, mixed, first=first))


def test_views_stacked_within_the_model_are_refused_until_the_rows_are_named():
    model, tm = around(lambda vit, images: vit(torch.cat([images.flip(3), images]))[len(images) :])
    mixed = tm.mix(*batch())
    model(mixed.images)
    assert refusal(lambda: tm.relabel(mixed)) == (
        "the model saw 10 images, of which 5 are this batch: say which, with mixed = "
        "tm.relabel(mixed, rows=slice(0, 5)) if they come first"
    )
    assert "is flipped left to right" in refusal(lambda: tm.relabel(mixed, rows=slice(0, 5)))
    assert close(tm.relabel(mixed, rows=slice(5, 10)).lam, own_label(model.vit, mixed))


@pytest.mark.parametrize("second", [(64, 64), (96, 64)])
def test_a_head_is_given_the_grid_of_its_own_forward_and_not_of_the_one_before(second):
    model = with_class_attention(timm.create_model("resnet18", num_classes=10)).train()
    tm = made(model)
    for size in ((64, 96), second):  # 2 x 3 patches, then 2 x 2 or, as many, 3 x 2
        mixed = tm.mix(*batch(size=size))
        model(mixed.images)
        tm.relabel(mixed)
        assert tm.reader.grid == (size[0] // 32, size[1] // 32)


@pytest.mark.parametrize("left", [6, 12, 15])
def test_patches_dropped_before_a_head_are_refused_though_they_would_make_another_grid(left):
    sizes = {"img_size": SIZE, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 10}
    model = with_class_attention(timm.create_model("vit_base_patch16_siglip_gap_224", **sizes)).train()
    tm = made(model)
    model.class_attention.register_forward_pre_hook(lambda _, args: (args[0][:, :left],))
    mixed = tm.mix(*batch())
    model(mixed.images)
    with pytest.raises(ValueError, match=rf"{left} patches do not make one grid over a 32 x 48 image at a stride of 8"):
        tm.relabel(mixed)


def test_a_token_behind_the_patches_of_a_pool_is_not_taken_for_a_class_token():
    sizes = {"img_size": SIZE, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 10}
    model = timm.create_model("vit_base_patch16_siglip_224", **sizes).train()
    made(model)
    model.attn_pool.register_forward_pre_hook(lambda _, args: (torch.cat([args[0], args[0][:, :1]], 1),))
    assert refusal(lambda: model(batch()[0])) == (
        "'attn_pool' (AttentionPoolLatent) attends over 25 tokens, but 0 before (4, 6) = 24 patches make 24: 1 are "
        "unknown. Pass prefix_tokens=1 if they come before the patches, prefix_tokens=0 if after them"
    )
