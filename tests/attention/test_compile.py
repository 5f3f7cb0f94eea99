"""Reading under torch.compile(fullgraph=True), alone and with checkpointing, autocast and DistributedDataParallel."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from transmix import AttentionError, AttentionReader

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def compiled(model, backend="eager", **settings):
    return torch.compile(model, backend=backend, fullgraph=True, **settings)


def close(row, expected):
    return torch.allclose(row, expected, rtol=0, atol=1e-5)


def assert_reads(model, reader, family, explicit_row, seed=0, batch=3):
    """One compiled forward leaves the row that the oracle says, for these images and not for others."""
    images = family.images(batch, seed=seed)
    bare = reader_free(model)
    expected = explicit_row(bare, images, family.name, 16 if family.square else 24)
    model(images)
    assert close(reader.take().row, expected)
    with pytest.raises(AttentionError, match="no attention was recorded"):
        reader.take()


def reader_free(model):
    while hasattr(model, "_orig_mod") or isinstance(model, DistributedDataParallel):
        model = getattr(model, "_orig_mod", None) or model.module
    return model


def before(model, module):
    reader = AttentionReader(model, module)
    return compiled(model), reader


def after(model, module):
    model = compiled(model)
    return model, AttentionReader(model, module)


def in_place(model, module):
    reader = AttentionReader(model, module)
    model.compile(backend="eager", fullgraph=True)
    return model, reader


def in_place_after(model, module):
    model.compile(backend="eager", fullgraph=True)
    return model, AttentionReader(model, module)


def test_every_family_is_read_when_compiled(family, explicit_row):
    model, reader = before(family.model(), family.module)
    for seed in (1, 2):
        assert_reads(model, reader, family, explicit_row, seed)


@pytest.mark.parametrize("attach", [after, in_place, in_place_after])
@pytest.mark.parametrize("name", ["vit", "torchvision"])
def test_it_does_not_matter_when_the_reader_comes(families, explicit_row, name, attach):
    family = families[name]
    model, reader = attach(family.model(), family.module)
    for seed in (1, 2):
        assert_reads(model, reader, family, explicit_row, seed)


def test_it_may_come_after_the_first_call_and_go_and_come_again(vit, explicit_row):
    model, images = compiled(vit.model()), vit.images()
    expected = model(images)
    for _ in range(2):
        reader = AttentionReader(model)
        assert_reads(model, reader, vit, explicit_row)
        assert torch.equal(model(images), expected)
        reader.detach()
        assert torch.equal(model(images), expected)
        with pytest.raises(AttentionError, match="no attention was recorded"):
            reader.take()


def hooked(model, rows):
    """How not to read a compiled model: hooks put on after the first call are silently ignored."""
    model._orig_mod.blocks[-1].attn.register_forward_hook(lambda *_: rows.append(1))


def test_a_hook_that_comes_after_the_first_call_would_see_nothing(vit):
    model, rows = compiled(vit.model()), []
    model(vit.images())
    hooked(model, rows)
    model(vit.images())
    assert rows == []


def test_the_switches_work_when_compiled(vit, explicit_row):
    model, reader = before(vit.model(), None)
    assert_reads(model, reader, vit, explicit_row)
    reader.training = False
    model(vit.images())
    with pytest.raises(AttentionError, match="no attention was recorded"):
        reader.take()
    model.eval()
    reader.eval = True
    assert_reads(model, reader, vit, explicit_row)
    model.train()
    reader.training = True
    assert_reads(model, reader, vit, explicit_row)


def test_the_batch_size_may_change(vit, explicit_row):
    model, reader = before(vit.model(), None)
    for batch in (4, 3, 1, 5):
        assert_reads(model, reader, vit, explicit_row, batch=batch)


@pytest.mark.parametrize("dynamic", [None, True])
def test_the_image_size_may_change(make_timm, dynamic):
    bare = make_timm("deit_tiny_patch16_224", 32, dynamic_img_size=True).train()
    reader = AttentionReader(bare)
    model = compiled(bare, dynamic=dynamic)
    for size in [(32, 48), (48, 32), (64, 16)]:
        images = torch.randn(2, 3, *size)
        model(images)
        row, grid, _ = reader.take()
        assert grid == (size[0] // 8, size[1] // 8)
        assert all(type(side) is int for side in grid)
        bare(images)
        assert close(row, reader.take().row)


def test_outputs_and_gradients_are_those_without_a_reader(vit):
    results = []
    for reading in (False, True):
        torch._dynamo.reset()
        model = vit.model()
        if reading:
            AttentionReader(model)
        output = compiled(model, "aot_eager")(vit.images())
        output.square().sum().backward()
        results.append([output, *(weight.grad for weight in model.parameters())])
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(*results, strict=True))


def test_under_autocast_the_row_is_float32(vit, fused_calls):
    images = vit.images()
    eager, (model, reader) = vit.model(), before(vit.model(), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with fused_calls() as calls:
            eager(images)
        model(images)
    query, key, _ = calls[-1]
    scores = query[:, :, :1].double() @ key.double().transpose(-2, -1) / query.shape[-1] ** 0.5
    row = reader.take().row
    assert row.dtype == torch.float32
    assert torch.allclose(row.double(), scores.softmax(-1)[:, :, 0, -24:].mean(1), atol=1e-6)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_checkpointing_under_compile_is_read_once(shallow_vit, explicit_row, backend):
    bare, images = shallow_vit.model(), shallow_vit.images()
    expected = explicit_row(bare, images, shallow_vit.name, 24)
    bare.set_grad_checkpointing(True)
    reader = AttentionReader(bare)
    model = compiled(bare, backend)
    loss = model(images).square().sum()
    assert close(reader.take().row, expected)
    loss.backward()
    with pytest.raises(AttentionError, match="no attention was recorded"):
        reader.take()
    plain = shallow_vit.model()
    plain(images).square().sum().backward()
    for one, two in zip(plain.parameters(), bare.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, atol=1e-4)


def test_the_compiler_makes_no_attention_matrix(vit):
    """Look into the graph: one fused attention a block, one softmax, of a single row."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model = vit.model()
    reader = AttentionReader(model)
    torch.compile(model, backend=backend, fullgraph=True)(vit.images())
    reader.take()
    (graph,) = graphs
    names = [str(node.target) for node in graph.graph.nodes]
    assert sum("scaled_dot_product" in name for name in names) == 2
    softmax = [node for node in graph.graph.nodes if "softmax" in str(node.target)]
    assert [tuple(node.meta["example_value"].shape) for node in softmax] == [(3, 2, 1, 25)]


# -------------------------------------------------------------------------------- DistributedDataParallel

ORDERS = {
    "read, wrapped": lambda model, read: (read(model), DistributedDataParallel(model)),
    "wrapped, read": lambda model, read: (read(wrapped := DistributedDataParallel(model)), wrapped),
    "read, compiled, wrapped": lambda model, read: (read(model), DistributedDataParallel(compiled(model))),
    "compiled, read, wrapped": lambda model, read: (
        read(model_compiled := compiled(model)),
        DistributedDataParallel(model_compiled),
    ),
    "compiled, wrapped, read": lambda model, read: (
        read(wrapped := DistributedDataParallel(compiled(model))),
        wrapped,
    ),
    "wrapped, read, compiled": lambda model, read: (
        read(wrapped := DistributedDataParallel(model)),
        torch.compile(wrapped, backend="eager"),
    ),
    "wrapped, compiled, read": lambda model, read: (
        read(wrapped := torch.compile(DistributedDataParallel(model), backend="eager")),
        wrapped,
    ),
}


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_reading_works_in_any_order_with_ddp_and_compile(vit, explicit_row, order):
    bare, images = vit.model(), vit.images()
    expected = explicit_row(bare, images, vit.name, 24)
    reader, model = order(bare, AttentionReader)
    for _ in range(2):
        loss = model(images).square().sum()
        assert close(reader.take().row, expected)
        loss.backward()
        with pytest.raises(AttentionError, match="no attention was recorded"):
            reader.take()
    assert all(weight.grad is not None for weight in bare.parameters())
    assert isinstance(bare, nn.Module)
    reader.detach()
    model(images)
    with pytest.raises(AttentionError, match="no attention was recorded"):
        reader.take()


@pytest.mark.usefixtures("one_process")
def test_checkpointing_under_ddp_is_read_once(vit, explicit_row):
    bare, images = vit.model(), vit.images()
    expected = explicit_row(bare, images, vit.name, 24)
    bare.set_grad_checkpointing(True)
    model = DistributedDataParallel(bare)
    reader = AttentionReader(model)
    loss = model(images).square().sum()
    assert close(reader.take().row, expected)
    loss.backward()
    with pytest.raises(AttentionError, match="no attention was recorded"):
        reader.take()
