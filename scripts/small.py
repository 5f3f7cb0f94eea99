"""Small versions of models whose sizes timm's or torchvision's own functions fix: a few blocks, narrow, same code."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

CLASSES = 5
"""What every small version tells apart."""


def volo(size: tuple[int, int]) -> nn.Module:
    """Return VOLO with one block a stage and its two class-attention layers."""
    from timm.models.volo import VOLO

    widths: Any = [24, 48, 48, 48]
    return VOLO([1, 1, 1, 1], size, num_classes=CLASSES, embed_dims=widths, num_heads=[2] * 4)  # type: ignore[arg-type]


def nest(size: tuple[int, int]) -> nn.Module:
    """Return NesT with one block a level; square images."""
    from timm.models.nest import Nest

    widths = {"embed_dims": (16, 32, 48), "num_heads": (1, 2, 2), "depths": (1, 1, 1)}
    return Nest(size, num_classes=CLASSES, **widths)  # type: ignore[arg-type]


def mvit(size: tuple[int, int], cls_token: bool = False) -> nn.Module:
    """Return MViTv2 with one block a stage; square images."""
    from timm.models.mvitv2 import MultiScaleVit, model_cfgs

    config = model_cfgs["mvitv2_small_cls" if cls_token else "mvitv2_tiny"]
    config = replace(config, depths=(1, 1, 1, 1), embed_dim=(12, 24, 48, 48), num_heads=(1, 2, 2, 2))
    return MultiScaleVit(config, size, num_classes=CLASSES)


mvit_cls = partial(mvit, cls_token=True)
"""MViTv2 with a class token."""


def clip_resnet(size: tuple[int, int]) -> nn.Module:
    """Return CLIP's ResNet with one block a stage and its attention pool of two heads."""
    from timm.models.byobnet import ByobNet, model_cfgs

    config = model_cfgs["resnet50_clip"]
    blocks: Any = config.blocks
    narrow = tuple(replace(block, d=1, c=block.c // 16) for block in blocks)
    return ByobNet(replace(config, blocks=narrow, stem_chs=(8, 8, 16)), CLASSES, img_size=size)


def torchvision_vit(size: tuple[int, int]) -> nn.Module:
    """Return torchvision's ViT with two blocks; square images."""
    from torchvision.models import VisionTransformer

    return VisionTransformer(size[0], 8, 2, 2, 24, 48, num_classes=CLASSES)


def torchvision_vit_base(size: tuple[int, int], patch: int = 16) -> nn.Module:
    """Return torchvision's ViT-B with four of its twelve blocks."""
    from torchvision.models import VisionTransformer

    return VisionTransformer(size[0], patch, 4, 12, 768, 3072)


torchvision_vit_base_32 = partial(torchvision_vit_base, patch=32)
"""ViT-B/32 with four of its twelve blocks."""


def torchvision_swin(size: tuple[int, int], v2: bool = False) -> nn.Module:
    """Return torchvision's Swin with two stages of one block."""
    from torchvision.models import swin_transformer as swin

    block, merge = swin.SwinTransformerBlock, swin.PatchMerging
    if v2:
        block, merge = swin.SwinTransformerBlockV2, swin.PatchMergingV2
    parts: Any = {"stochastic_depth_prob": 0.0, "num_classes": CLASSES, "block": block, "downsample_layer": merge}
    return swin.SwinTransformer([4, 4], 24, [1, 1], [1, 2], [4, 4], **parts)


torchvision_swin_v2 = partial(torchvision_swin, v2=True)
"""Swin v2 with two stages of one block."""


def torchvision_convnext(size: tuple[int, int]) -> nn.Module:
    """Return torchvision's ConvNeXt with two stages of one block."""
    from torchvision.models import ConvNeXt
    from torchvision.models.convnext import CNBlockConfig

    return ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=CLASSES)


def torchvision_resnet(size: tuple[int, int]) -> nn.Module:
    """Return torchvision's ResNet with one block a stage."""
    from torchvision.models import ResNet
    from torchvision.models.resnet import BasicBlock

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)
