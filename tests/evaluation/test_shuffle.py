import pytest
import torch

from transmix.evaluation.patches import random_order, shuffle, shuffled
from transmix.evaluation.suites import Settings
from transmix.recipes import RecipeError


@pytest.mark.parametrize("grid", [1, 2, 3, 6])
def test_patches_change_places_and_nothing_else(grid):
    pixels, order = torch.rand(4, 3, 12, 12), random_order(torch.arange(4), grid * grid, 0, "shuffle", grid)
    ours, size = shuffled(pixels, order, grid), 12 // grid
    for image in range(4):
        for place in range(grid * grid):
            (y, x), (v, u) = divmod(place, grid), divmod(int(order[image, place]), grid)
            now = ours[image, :, y * size : (y + 1) * size, x * size : (x + 1) * size]
            assert torch.equal(now, pixels[image, :, v * size : (v + 1) * size, u * size : (u + 1) * size])
    back = shuffled(ours, order.argsort(1), grid)
    assert torch.equal(back, pixels)


def test_the_whole_image_as_one_patch_gives_plain_accuracy(opened, noise, logits_of):
    one, data = opened(), noise(23)
    logits, labels = logits_of(one, data.val)
    found = dict(shuffle(one, data, Settings()))
    assert found["grids"] == [1, 2, 4, 8, 16]  # 14 does not divide 16 pixels
    assert found["images"] == 23
    assert found["top1"][0] == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_batch_size_does_not_matter_and_the_seed_does(opened, noise):
    some = [dict(shuffle(opened(batch_size=size), noise(23), Settings())) for size in (2, 23)]
    assert some[0] == some[1]
    index = torch.arange(3)
    assert not torch.equal(random_order(index, 16, 0), random_order(index, 16, 1))
    assert torch.equal(random_order(index, 16, 0)[1:], random_order(index[1:], 16, 0))


def test_a_model_without_places_does_not_notice_when_its_patches_move(opened, noise, small_vit):
    """A ViT without position embedding sees a set of patches: moving them by whole patches changes nothing."""
    blind, sighted = (opened(small_vit(pos_embed=kind)) for kind in ("none", "learn"))
    torch.nn.init.normal_(sighted.model.pos_embed)
    data = noise(40)
    for one, notices in ((blind, False), (sighted, True)):
        pixels = next(one.batches(data.val))[0]
        moved = shuffled(pixels, random_order(torch.arange(5), 16, 0), 4)
        assert torch.allclose(one.logits(moved), one.logits(pixels), atol=1e-5) is not notices


@pytest.mark.parametrize("grids", [(3,), (2, 5), (0,), (-2,)])
def test_a_grid_that_does_not_divide_the_image_is_refused(opened, noise, grids):
    with pytest.raises(RecipeError, match=r"do not divide the image of 16 pixels; these do: \[2, 4, 8\]"):
        shuffle(opened(), noise(3), Settings(shuffle_grids=grids))
