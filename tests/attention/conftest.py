"""Tiny models of every family, an oracle that forms their attention in full, and spies."""

import copy
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import explicit
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from transmix import AttentionReader

timm = pytest.importorskip("timm")

CLASSES = 5
TINY = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": CLASSES}


def sharpen(model, seed=0):
    """Give a model weights under which attention is far from uniform and every block matters."""
    return explicit.sharpen(model, seed).train()


class OwnAttention(nn.Module):
    """Somebody's attention: fused, or with the whole matrix."""

    def __init__(self, width=24, heads=2):
        super().__init__()
        self.heads, self.fused_attn = heads, True
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens):
        q, k, v = (
            layer(tokens).reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if self.fused_attn:
            mixed = F.scaled_dot_product_attention(q, k, v, scale=0.3)
        else:
            mixed = (q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ v
        return mixed.transpose(1, 2).flatten(2)


class OwnModel(nn.Module):
    """Somebody's model, which does not say how many prefix tokens it has: the class token and the patches."""

    def __init__(self, width=24):
        super().__init__()
        self.cut = nn.Conv2d(3, width, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.looking = OwnAttention(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images):
        patches = self.cut(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)
        return self.head((tokens + self.looking(tokens))[:, 0])


@dataclass(frozen=True)
class Family:
    """How to make a tiny model of one family and where its class attention is."""

    make: Callable[[tuple[int, int]], nn.Module]
    name: str
    blocks: int = 2
    point: bool = False
    square: bool = False

    def model(self, size=(32, 48), seed=0):
        return sharpen(self.make((32, 32) if self.square else size), seed)

    def images(self, batch=3, size=(32, 48), seed=0):
        height, width = (32, 32) if self.square else size
        return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))

    @property
    def module(self):
        return self.name if self.point else None


def from_timm(architecture, **changes):
    settings = {**TINY, **changes}
    settings = {name: value for name, value in settings.items() if value is not None}
    return lambda size: timm.create_model(architecture, img_size=size, **settings)


def from_torchvision(size):
    from torchvision.models import VisionTransformer

    return VisionTransformer(size[0], 8, 2, 2, 24, 48, num_classes=CLASSES)


FAMILIES = {
    "vit": Family(from_timm("deit_tiny_patch16_224"), "blocks.1.attn"),
    "distilled": Family(from_timm("deit_tiny_distilled_patch16_224"), "blocks.1.attn"),
    "registers": Family(from_timm("vit_small_patch14_reg4_dinov2"), "blocks.1.attn"),
    "eva02": Family(from_timm("eva02_tiny_patch14_224", global_pool="token"), "blocks.1.attn"),
    "dinov3": Family(from_timm("vit_small_patch16_dinov3", global_pool="token"), "blocks.1.attn"),
    "cait": Family(from_timm("cait_xxs24_224"), "blocks_token_only.1.attn"),
    "xcit": Family(from_timm("xcit_nano_12_p8_224", patch_size=None, embed_dim=32), "cls_attn_blocks.1.attn", blocks=2),
    "own": Family(lambda size: OwnModel(), "looking", blocks=1, point=True),
    "torchvision": Family(from_torchvision, "encoder.layers.encoder_layer_1.self_attention", point=True, square=True),
}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request):
    """Every family in turn."""
    return request.param


@pytest.fixture
def vit():
    """The plain ViT."""
    return FAMILIES["vit"]


@pytest.fixture
def read_vit(vit):
    """The plain ViT, images for it and its reader."""
    model = vit.model()
    return model, vit.images(), AttentionReader(model)


@pytest.fixture
def shallow_vit():
    """The plain ViT of one block, for what is slow to compile."""
    return Family(from_timm("deit_tiny_patch16_224", depth=1), "blocks.0.attn", blocks=1)


@pytest.fixture
def make_timm():
    """Give a maker of tiny timm models: an architecture and what differs from the tiny settings."""

    def make(architecture, size=(32, 48), **changes):
        return from_timm(architecture, **changes)(size)

    return make


@pytest.fixture
def families():
    """All families by name."""
    return FAMILIES


@pytest.fixture
def explicit_row():
    """Give the oracle: the row of a copy of the model that forms its attention in full, nothing of our code."""

    def row(model, images, name, patches):
        slow = copy.deepcopy(model)
        module = slow.get_submodule(name)
        if isinstance(module, nn.MultiheadAttention):
            return _weights_of(slow, module, images)[:, 0, -patches:]
        module.fused_attn = False
        matrices, softmax = [], torch.Tensor.softmax

        def spy(scores, *args, **kwargs):
            matrices.append(softmax(scores, *args, **kwargs))
            return matrices[-1]

        with pytest.MonkeyPatch.context() as patch:
            module.register_forward_pre_hook(lambda *_: patch.setattr(torch.Tensor, "softmax", spy))
            module.register_forward_hook(lambda *_: patch.undo())
            slow(images)
        assert len(matrices) == 1
        return matrices[0].detach()[:, :, 0, -patches:].mean(1)

    return row


def _weights_of(model, module, images):
    """(B, L, S): what nn.MultiheadAttention hands out itself when asked for weights."""
    inputs = []
    hook = module.register_forward_pre_hook(lambda _, args: inputs.append(args))
    model(images)
    hook.remove()
    return module(*inputs[0], need_weights=True)[1].detach()


@contextmanager
def counting_fused():
    """Count the calls of fused attention, and keep their queries and keys."""
    calls, fused = [], F.scaled_dot_product_attention

    def spy(*args, **kwargs):
        calls.append((args[0].detach(), args[1].detach(), kwargs))
        return fused(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", spy)
        yield calls


@pytest.fixture
def fused_calls():
    """Give a context that counts the calls of fused attention."""
    return counting_fused


class Operations(TorchDispatchMode):
    """Writes down every operation that reaches the device: its name and the shapes it made."""

    def __init__(self):
        super().__init__()
        self.log = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        outputs = made if isinstance(made, tuple | list) else [made]
        shapes = tuple(tuple(output.shape) for output in outputs if isinstance(output, torch.Tensor))
        self.log.append((func.overloadpacket.__name__, shapes))
        return made


@pytest.fixture
def operations():
    """Give the mode that writes down operations."""
    return Operations


@pytest.fixture
def fresh_compiler():
    """Forget what earlier tests compiled, before and after."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone."""
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()
