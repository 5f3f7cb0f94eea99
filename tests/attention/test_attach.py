"""A reader leaves no trace: not in weights, hooks, outputs, copies or pickles, and none at all once detached."""

import copy
import pickle

import pytest
import torch
from torch import nn

from transmix import AttentionError, AttentionReader


def snapshot(model):
    """All that could tell that somebody was here."""
    return {
        name: (sorted(module.__dict__), {key: len(held) for key, held in module.__dict__.items() if "hooks" in key})
        for name, module in model.named_modules()
    }


def hooks(model):
    return {name: counts for name, (_, counts) in snapshot(model).items()}


def test_attach_and_detach_leave_the_model_as_it_was(family):
    model, images = family.model(), family.images()
    before, weights = snapshot(model), {key: value.clone() for key, value in model.state_dict().items()}
    expected = model.eval()(images)
    reader = AttentionReader(model.train(), family.module)
    assert hooks(model) == {name: counts for name, (_, counts) in before.items()}
    assert list(model.state_dict()) == list(weights)
    assert snapshot(model) != before  # the snapshot sees a reader
    reader.detach()
    assert snapshot(model) == before
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.eval()(images), expected)


def test_outputs_are_the_same_to_the_bit(family):
    images = family.images()
    plain, read = family.model(), family.model()
    reader = AttentionReader(read, family.module, eval=True)
    for training in (True, False):
        assert torch.equal(plain.train(training)(images), read.train(training)(images))
        reader.take()


def test_outputs_are_the_same_under_dropout(make_timm):
    model, images = (
        make_timm("deit_tiny_patch16_224", drop_rate=0.1, attn_drop_rate=0.2).train(),
        torch.rand(3, 3, 32, 48),
    )
    outputs = []
    for reading in (False, True):
        if reading:
            AttentionReader(model)
        torch.manual_seed(0)
        outputs.append(model(images))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("mode", ["eval", "training turned off"])
def test_not_reading_costs_no_operation(family, operations, mode):
    model, images = family.model(), family.images()
    model.train(mode != "eval")
    with operations() as without:
        model(images)
    reader = AttentionReader(model, family.module, training=mode == "eval")
    with operations() as attached:
        model(images)
    assert attached.log == without.log
    reader.training = reader.eval = True
    with operations() as reading:
        model(images)
    assert len(reading.log) > len(without.log)  # the log would tell


# ------------------------------------------------------------------------------------------ copies and pickles


def closure_patched(model):
    """How not to attach: a closure over the module. A deep copy keeps calling the original."""
    module = model.blocks[-1].attn
    forward = module.forward
    module.forward = lambda *args, **kwargs: forward(*args, **kwargs)


def assert_a_copy_uses_its_own_weights(vit, attach):
    model, images = vit.model(), vit.images()
    attach(model)
    double = copy.deepcopy(model)
    with torch.no_grad():
        double.blocks[-1].attn.qkv.weight.zero_()
    expected = vit.model()
    with torch.no_grad():
        expected.blocks[-1].attn.qkv.weight.zero_()
    assert torch.equal(double(images), expected(images))


def test_a_deep_copy_computes_with_its_own_weights(vit):
    assert_a_copy_uses_its_own_weights(vit, AttentionReader)


def test_a_closure_would_compute_with_the_originals_weights(vit):
    with pytest.raises(AssertionError):
        assert_a_copy_uses_its_own_weights(vit, closure_patched)


def test_a_deep_copy_does_not_disturb_the_originals_row(family):
    model = family.model()
    reader = AttentionReader(model, family.module)
    model(family.images(seed=1))
    row, grid = reader.attention, reader.grid
    double = copy.deepcopy(model)
    double(family.images(5, seed=2))
    assert torch.equal(reader.attention, row)
    assert reader.grid == grid
    model(family.images(5, seed=2))
    assert len(reader.take().row) == 5


def test_a_deep_copy_taken_in_training_can_be_averaged_and_loaded(vit, read_vit):
    model = read_vit[0]
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)
    average.module.load_state_dict(vit.model(seed=1).state_dict())
    assert torch.equal(average(vit.images()), vit.model(seed=1)(vit.images()))


@pytest.mark.parametrize("name", ["vit", "xcit", "torchvision"])
def test_a_copy_can_have_a_reader_of_its_own(families, explicit_row, name):
    family = families[name]
    model, images = family.model(), family.images()
    first = AttentionReader(model, family.module)
    double = copy.deepcopy(model)
    with torch.no_grad():
        for weight in double.parameters():
            weight.mul_(1.1)
    second = AttentionReader(double, family.module)
    double(images)
    with pytest.raises(AttentionError, match="no attention was recorded"):
        first.take()
    row = second.take().row
    model(images)
    assert not torch.allclose(first.take().row, row, atol=1e-4)
    second.detach()
    assert torch.allclose(row, explicit_row(double, images, family.name, row.shape[1]), atol=1e-5)
    assert snapshot(double) == snapshot(family.model())


@pytest.mark.parametrize("name", ["vit", "xcit", "torchvision"])
def test_a_pickled_model_computes_the_same_and_can_be_read(families, name):
    family = families[name]
    model, images = family.model(), family.images()
    reader = AttentionReader(model, family.module)
    loaded = pickle.loads(pickle.dumps(model))
    assert torch.equal(loaded.train()(images), model(images))
    row = reader.take().row
    second = AttentionReader(loaded, family.module)
    loaded(images)
    assert torch.equal(second.take().row, row)
    second.detach()
    assert snapshot(loaded) == snapshot(family.model())


# ------------------------------------------------------------------------------------- one reader at a time


def test_a_second_reader_is_refused_until_the_first_is_detached(family):
    model = family.model()
    first = AttentionReader(model, family.module)
    with pytest.raises(AttentionError) as error:
        AttentionReader(model, family.module)
    assert str(error.value) == (
        f"{family.name!r} is being read by another AttentionReader: use that one, or detach it first"
    )
    model(family.images())
    first.take()  # the first reads on
    first.detach()
    second = AttentionReader(model, family.module)
    first.detach()  # detaching twice does no harm, to others neither
    model(family.images())
    second.take()
    with pytest.raises(AttentionError, match="no attention was recorded"):
        first.take()


def test_a_refused_second_reader_leaves_the_model_as_it_was(read_vit):
    model, images, first = read_vit
    before = snapshot(model)
    with pytest.raises(AttentionError, match="is being read by another AttentionReader"):
        AttentionReader(model, "blocks.0.attn")  # another module, but the patch embedding is taken
    assert snapshot(model) == before
    model(images)
    first.take()


def test_a_reader_is_a_context_which_ends_on_an_error_too(vit):
    model = vit.model()
    before = snapshot(model)
    with AttentionReader(model) as reader:
        model(vit.images())
        assert reader.attention.shape == (3, 24)
    assert snapshot(model) == before
    model(vit.images())
    with pytest.raises(AttentionError, match="no attention was recorded"):
        reader.take()
    with pytest.raises(ZeroDivisionError), AttentionReader(model):
        raise ZeroDivisionError
    assert snapshot(model) == before


def test_somebodys_own_forward_is_kept(vit):
    model, images = vit.model(), vit.images()
    module, seen = model.blocks[-1].attn, []

    def own(*args, **kwargs):
        seen.append(1)
        return type(module).forward(module, *args, **kwargs)

    module.forward = own
    reader = AttentionReader(model)
    model(images)
    assert seen == [1]
    reader.take()
    reader.detach()
    assert module.__dict__["forward"] is own


def test_hooks_see_the_module_as_before(vit):
    model, seen = vit.model(), []
    model.blocks[-1].attn.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    reader = AttentionReader(model)
    model(vit.images())
    reader.take()
    assert seen == [(3, 25, 48)]


def test_a_model_that_fails_halfway_leaves_no_row(read_vit):
    model, _, reader = read_vit
    with pytest.raises(AssertionError):
        model(torch.rand(2, 3, 32, 32))  # not the size that it was made for
    with pytest.raises(AttentionError, match="no attention was recorded"):
        reader.take()


def test_a_reader_of_a_plain_module_holds_no_patch_embedding():
    model = nn.Sequential(nn.TransformerEncoderLayer(12, 2, 24, batch_first=True))
    reader = AttentionReader(model, "0.self_attn")
    model(torch.rand(3, 7, 12))
    with pytest.raises(AttentionError) as error:
        reader.take()
    assert str(error.value) == (
        "'0.self_attn' attends over 6 patches, but no known module got images that give their grid: pass grid=(h, w)"
    )
    reader.detach()
    reader = AttentionReader(model, "0.self_attn", grid=(2, 3))
    model(torch.rand(3, 7, 12))
    row, grid, _ = reader.take()
    assert row.shape == (3, 6)
    assert grid == (2, 3)


def test_a_read_model_can_be_exported_and_traced(vit):
    model, images = vit.model().eval(), vit.images()
    expected = model(images)
    AttentionReader(model)
    assert torch.equal(torch.export.export(model, (images,)).module()(images), expected)
    assert torch.equal(torch.jit.trace(model, images)(images), expected)
    assert torch.equal(torch.func.functional_call(model, dict(model.named_parameters()), (images,)), expected)
