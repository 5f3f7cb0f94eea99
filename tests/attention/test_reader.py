"""What the reader hands over is what the class token saw, for every family, with fused attention left on."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from transmix import AttentionError, AttentionReader

PATCHES = {False: 24, True: 16}  # 32 x 48 and 32 x 32 pixels in patches of 8


def close(row, expected):
    return torch.allclose(row, expected, rtol=0, atol=1e-5)


def read(family, explicit_row, take=lambda reader: reader.take().row):
    """One forward: what the reader hands over, and what the oracle says."""
    model, images = family.model(), family.images()
    expected = explicit_row(model, images, family.name, PATCHES[family.square])
    reader = AttentionReader(model, family.module)
    model(images)
    return take(reader), expected


def test_the_row_equals_the_explicit_softmax(family, explicit_row):
    row, expected = read(family, explicit_row)
    assert (expected.amax(1) / expected.amin(1)).min() > 5  # far from uniform: the test can tell columns apart
    assert (expected - expected.roll(1, 0)).abs().max() > 1e-3  # and rows
    assert row.dtype == torch.float32
    assert not row.requires_grad
    assert row.shape == (3, PATCHES[family.square])
    assert (row.sum(1) <= 1 + 1e-6).all()
    assert close(row, expected)


WRONG = {
    "a prefix column left in": lambda reader: torch.cat(
        [torch.full_like(reader.attention[:, :1], 0.1), reader.attention[:, :-1]], 1
    ),
    "renormalised": lambda reader: reader.attention / reader.attention.sum(1, keepdim=True),
    "rows moved": lambda reader: reader.attention.roll(1, 0),
    "uniform": lambda reader: reader.attention.mean(1, keepdim=True).expand_as(reader.attention),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_row_is_rejected(family, explicit_row, wrong):
    row, expected = read(family, explicit_row, wrong)
    assert row.shape == expected.shape
    assert not close(row, expected)


def test_the_row_of_another_block_is_rejected(read_vit, explicit_row):
    model, images, reader = read_vit
    model(images)
    assert not close(reader.attention, explicit_row(model, images, "blocks.0.attn", 24))


@pytest.mark.parametrize("point", ["blocks.0.attn", "module itself"])
def test_another_block_can_be_pointed_at(vit, explicit_row, point):
    model, images = vit.model(), vit.images()
    reader = AttentionReader(model, model.blocks[0].attn if point == "module itself" else point)
    model(images)
    assert close(reader.attention, explicit_row(model, images, "blocks.0.attn", 24))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_any_batch_size_is_read(vit, explicit_row, size):
    model, images = vit.model(), vit.images(size)
    expected = explicit_row(model, images, vit.name, 24)
    reader = AttentionReader(model)
    model(images)
    assert close(reader.attention, expected)


# ------------------------------------------------------------------------------------ fused attention stays on


def assert_nothing_is_formed(log_without, log_with, tokens):
    """Reading adds operations, none of which makes a tokens x tokens tensor, and one softmax: of a single row."""
    left = list(log_without)
    added = []
    for entry in log_with:
        if entry in left:
            left.remove(entry)
        else:
            added.append(entry)
    assert not left  # all that ran before still runs
    softmax = [shapes for name, shapes in added if "softmax" in name]
    assert len(softmax) == 1
    assert softmax[0][0][-2:] == (1, tokens)
    for name, shapes in added:
        assert all(shape[-2:] != (tokens, tokens) for shape in shapes), name


def logs(family, operations, unfused=False):
    model, images = family.model(), family.images()
    with operations() as without:
        model(images)
    reader = AttentionReader(model, family.module)
    if unfused:
        reader.detach()
        model.get_submodule(family.name).fused_attn = False
    with operations() as reading:
        model(images)
    return without.log, reading.log


@pytest.mark.parametrize("name", ["vit", "registers", "dinov3", "own"])
def test_reading_forms_no_attention_matrix(families, operations, name):
    tokens = {"vit": 25, "registers": 29, "dinov3": 29, "own": 25}[name]
    without, reading = logs(families[name], operations)
    assert any("scaled_dot_product" in operation for operation, _ in without)
    assert_nothing_is_formed(without, reading, tokens)


def test_turning_fused_attention_off_is_rejected(vit, operations):
    without, slow = logs(vit, operations, unfused=True)
    with pytest.raises(AssertionError):
        assert_nothing_is_formed(without, slow, 25)


def test_fused_attention_is_called_as_often_as_without_a_reader(family, fused_calls):
    model, images = family.model(), family.images()
    counts = []
    for reading in (False, True):
        if reading:
            AttentionReader(model, family.module)
        with fused_calls() as calls:
            model(images)
        counts.append(len(calls))
    assert counts == [family.blocks] * 2
    if not isinstance(model.get_submodule(family.name), nn.MultiheadAttention):
        model.get_submodule(family.name).fused_attn = False
        with fused_calls() as calls:
            model(images)
        assert len(calls) == family.blocks - 1  # the count tells


def test_attention_that_is_not_fused_is_read_from_its_softmax(family):
    model, images = family.model(), family.images()
    if isinstance(model.get_submodule(family.name), nn.MultiheadAttention):
        pytest.skip("nn.MultiheadAttention has no switch")
    reader = AttentionReader(model, family.module)
    rows = []
    for fused in (True, False):
        model.get_submodule(family.name).fused_attn = fused
        model(images)
        rows.append(reader.take().row)
    assert torch.allclose(*rows, rtol=0, atol=1e-6)
    assert rows[1].dtype == torch.float32
    assert not rows[1].requires_grad


# ------------------------------------------------------------------------------------------------ precision


def in_float64(query, key):
    scores = query[:, :, :1].double() @ key.double().transpose(-2, -1) / query.shape[-1] ** 0.5
    return scores.softmax(-1)[:, :, 0].mean(1)


@pytest.mark.parametrize("name", ["vit", "registers", "dinov3", "cait", "xcit"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_under_autocast_the_row_is_float32_of_the_models_own_query_and_key(families, fused_calls, name, kind):
    family = families[name]
    model, images = family.model(), family.images()
    reader = AttentionReader(model)
    with fused_calls() as calls, torch.autocast("cpu", dtype=kind):
        model(images)
    query, key, kwargs = calls[-1]
    assert query.dtype == kind
    assert kwargs.get("scale") is None
    row = reader.take().row
    assert row.dtype == torch.float32
    expected = in_float64(query, key)
    if name == "cait":  # timm scales the query itself and lets fused attention scale no more than usual
        assert query.shape[-2] == 1
    assert np.allclose(row, expected[:, -24:], atol=1e-6)
    in_low = (query[:, :, :1] @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1)[:, :, 0].mean(1)
    assert not np.allclose(in_low[:, -24:].float(), expected[:, -24:], atol=1e-6)  # the tolerance tells


def test_a_model_in_bfloat16_is_read_in_float32(vit, fused_calls):
    model, images = vit.model().bfloat16(), vit.images().bfloat16()
    reader = AttentionReader(model)
    with fused_calls() as calls:
        model(images)
    assert reader.attention.dtype == torch.float32
    assert np.allclose(reader.attention, in_float64(*calls[-1][:2])[:, -24:], atol=1e-6)


# ----------------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (16, 64), (8, 8)])
@pytest.mark.parametrize("name", ["vit", "registers", "dinov3"])
def test_the_grid_is_rows_by_columns(families, name, size):
    family = families[name]
    model = family.model(size)
    reader = AttentionReader(model)
    model(family.images(size=size))
    assert reader.grid == (size[0] // 8, size[1] // 8)
    assert reader.attention.shape == (3, reader.grid[0] * reader.grid[1])


def test_patches_need_not_be_square(make_timm):
    model = make_timm("deit_tiny_patch16_224", patch_size=(4, 16)).train()
    reader = AttentionReader(model)
    model(torch.randn(3, 3, 32, 48))
    assert reader.grid == (8, 3)


@pytest.mark.parametrize("pad", [False, True])
def test_the_grid_follows_images_of_any_size(make_timm, pad):
    model = make_timm("deit_tiny_patch16_224", 32, dynamic_img_size=True, dynamic_img_pad=pad).train()
    reader = AttentionReader(model)
    sizes = [(32, 48), (48, 16), (8, 24), *([(33, 50), (17, 41)] if pad else [])]
    for height, width in sizes:
        model(torch.randn(2, 3, height, width))
        assert reader.grid == (-(-height // 8), -(-width // 8))
        assert reader.take().row.shape == (2, reader.grid[0] * reader.grid[1])


def test_a_patch_of_the_row_is_where_it_says(make_timm):
    """Another picture in one patch: in one head, all other columns make room alike, and only its own moves."""
    model, images = make_timm("deit_tiny_patch16_224", num_heads=1).train(), torch.rand(1, 3, 32, 48)
    reader = AttentionReader(model, "blocks.0.attn")
    model(images)
    before = reader.take().row
    images[:, :, 8:16, 40:48] += 3  # row 1, column 5
    model(images)
    changed = (reader.take().row / before).unflatten(1, reader.grid)[0]
    others = torch.cat([changed.flatten()[:11], changed.flatten()[12:]])
    assert (others - others.mean()).abs().max() < 1e-5
    assert abs(changed[1, 5] - others.mean()) > 1e-4


def test_the_convolution_that_cuts_patches_tells_the_grid(families):
    for name in ("own", "torchvision"):
        model = families[name].model()
        reader = AttentionReader(model, families[name].module)
        assert reader.grid is None  # before a forward
        model(families[name].images())
        assert reader.grid == ((4, 4) if families[name].square else (4, 6))


# ------------------------------------------------------------------------------------- one row, taken once


def test_a_row_can_be_looked_at_twice_and_taken_once(read_vit):
    model, images, reader = read_vit
    model(images)
    looked = [reader.attention, reader.attention]
    assert torch.equal(*looked)
    assert looked[0] is not looked[1]
    looked[0].zero_()
    assert torch.equal(reader.take().row, looked[1])  # what is handed out is a copy
    assert_no_row(reader)


NEVER_RAN = (
    "it has not run since. Call the model that is read, not a copy such as its EMA, on these images first: "
    "logits = model(mixed.images)"
)
IN_EVAL_MODE = (
    "it ran in eval mode, in which it is not read. Call model.train() first; if this part is meant to stay in eval "
    "mode (frozen), set tm.reader.eval = True"
)


def assert_no_row(reader, why=NEVER_RAN):
    text = f"no attention was recorded in 'blocks.1.attn': {why}"
    for ask in (lambda: reader.attention, reader.take):
        with pytest.raises(AttentionError) as error:
            ask()
        assert str(error.value) == text


def test_without_a_forward_there_is_no_row(read_vit):
    assert_no_row(read_vit[2])


def test_a_forward_in_eval_mode_leaves_no_row(read_vit):
    model, images, reader = read_vit
    model.eval()(images)
    assert_no_row(reader, IN_EVAL_MODE)
    reader.eval = True  # what the message says
    model(images)
    assert reader.take().row.shape == (3, 24)


def test_a_cleared_row_is_gone(read_vit):
    model, images, reader = read_vit
    model(images)
    reader.clear()
    assert_no_row(reader)


def test_the_last_forward_counts(vit, read_vit, explicit_row):
    model, _, reader = read_vit
    model(vit.images(3, seed=1))
    model(vit.images(2, seed=2))
    assert close(reader.take().row, explicit_row(model.train(), vit.images(2, seed=2), vit.name, 24))


@pytest.mark.parametrize("name", ["vit", "torchvision", "cait"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_eval_mode_is_read_when_asked(families, explicit_row, name, context):
    family = families[name]
    model, images = family.model().eval(), family.images()
    expected = explicit_row(model, images, family.name, PATCHES[family.square])
    reader = AttentionReader(model, family.module, training=False, eval=True)
    assert (reader.training, reader.eval) == (False, True)
    with context():
        model(images)
        assert close(reader.take().row, expected)
    model.train()(images)
    with pytest.raises(
        AttentionError, match=r"it ran in training mode, in which it is not read. Call model.eval\(\) first"
    ):
        reader.take()
    reader.training, reader.eval = True, False
    model(images)
    assert close(reader.take().row, expected)


# ------------------------------------------------------------------------------------ gradient checkpointing


@pytest.mark.parametrize("name", ["vit", "registers", "cait", "xcit", "dinov3"])
def test_a_row_recorded_again_in_backward_is_dropped(families, explicit_row, name):
    family = families[name]
    model, images = family.model(), family.images()
    expected = explicit_row(model, images, family.name, 24)
    model.set_grad_checkpointing(True)
    reader = AttentionReader(model)
    runs = []
    model.get_submodule(family.name).register_forward_pre_hook(lambda *_: runs.append(1))
    loss = model(images).square().sum()
    assert close(reader.take().row, expected)
    loss.backward()
    assert len(runs) == 2 or name in ("cait", "xcit")  # timm checkpoints not all of these
    with pytest.raises(AttentionError, match="no attention was recorded"):
        reader.attention  # noqa: B018


def test_gradients_are_those_without_a_reader(vit):
    images, gradients = vit.images(), []
    for reading, checkpointing in ((False, False), (True, False), (True, True)):
        model = vit.model()
        model.set_grad_checkpointing(checkpointing)
        if reading:
            AttentionReader(model)
        model(images).square().sum().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for other in gradients[1:]:
        assert all(torch.equal(one, two) for one, two in zip(gradients[0], other, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_around_the_whole_model_is_read(vit, explicit_row, reentrant):
    model, images = vit.model(), vit.images().requires_grad_()
    expected = explicit_row(model, images.detach(), vit.name, 24)
    reader = AttentionReader(model)
    loss = checkpoint(model, images, use_reentrant=reentrant).square().sum()
    assert close(reader.take().row, expected)
    loss.backward()
    with pytest.raises(AttentionError, match="no attention was recorded"):
        reader.take()
