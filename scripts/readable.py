"""Models whose class attention is read, and models that are refused: the list behind `transmix models`.

What is measured of each is in `transmix/models/readable.csv`, which `make models` writes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import small
import torch
from torch import Tensor, nn

from transmix.attention import with_class_attention
from transmix.models.build import takes_image_size

Sizes = dict[str, Any] | Callable[[tuple[int, int]], nn.Module]
"""Options that change a model's sizes, or a function that makes the changed model for an image size (height, width)."""

COLUMNS = (
    "family",  # to options: as in the list
    "library",
    "model",
    "options",
    "read",  # what asks: class token, class attention, attention pool, class-attention head; or refused
    "module",
    "size",  # side of the images in pixels
    "grid",  # patches, h x w
    "difference",  # largest difference from an explicit softmax
    "compiled",  # yes, or no
    "overhead",  # median ratio of step times with reading and without
    "timed",  # where the overhead was measured, and on what
    "made_with",  # versions
    "refusal",  # the error
)
"""Columns of readable.csv, all text; empty where there is nothing to say, or nothing measured yet."""


@dataclass(frozen=True)
class Readable:
    """One model of the list.

    Attributes:
        family: what people call the architecture.
        library: "timm", "torchvision" or "transformers".
        name: as `timm.create_model` and `torchvision.models.get_model` take it; in transformers, the class.
        options: what makes it readable, or unreadable; in transformers, of its configuration.
        head: whether a class-attention head takes the place of its pooling.
        size: side of the square images it is read at, where it is not 224.
        small: the sizes of a version that tests can afford.
        small_size: height and width of the images for that version, not square where the model can do without.
        short: the sizes of a version that costs less but is as wide, to time; empty: the model itself.
        packed: whether its small version is given the patches of images of many sizes, and not images.
    """

    family: str
    library: Literal["timm", "torchvision", "transformers"]
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    head: bool = False
    size: int = 224
    small: Sizes = field(default_factory=dict)
    small_size: tuple[int, int] = (32, 48)
    short: Sizes = field(default_factory=dict)
    packed: bool = False

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells its row from others: library, name, options, and the head if it has one."""
        return self.library, self.name, self.options_text, "class-attention head" if self.head else ""

    @property
    def options_text(self) -> str:
        """The options as they are written in a call."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


def build(entry: Readable, image_size: tuple[int, int], sizes: Literal["full", "small", "short"] = "full") -> nn.Module:
    """Create a listed model for images of (height, width) pixels, with random weights, in training mode.

    Args:
        entry: the model.
        image_size: height and width.
        sizes: "full": as published; "small": narrow, a few blocks, 5 classes; "short": as wide as published, fewer
            blocks.
    """
    changes: Sizes = {} if sizes == "full" else getattr(entry, sizes)
    if callable(changes):
        model = changes(image_size)
    else:
        classes = {"num_labels" if entry.library == "transformers" else "num_classes": small.CLASSES}
        options = {**entry.options, **(classes if sizes == "small" else {}), **changes}
        model = _BUILD[entry.library](entry.name, image_size, options)
    if entry.head:
        model = with_class_attention(model, heads=2 if sizes == "small" else None)
    return model.train()


def example(entry: Readable, image_size: tuple[int, int], batch: int = 2) -> Tensor | dict[str, Tensor]:
    """Return noise that the model takes: images (B, 3, H, W), or for a `packed` entry their patches of 8 pixels."""
    if not entry.packed:
        return torch.randn(batch, 3, *image_size)
    h, w = (side // 8 for side in image_size)
    coordinates = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).flatten(0, 1)
    return {
        "patches": torch.randn(batch, h * w, 8 * 8 * 3),
        "patch_coord": coordinates.expand(batch, -1, -1),
        "patch_valid": torch.ones(batch, h * w, dtype=torch.bool),
    }


def _timm(name: str, image_size: tuple[int, int], options: dict) -> nn.Module:
    import timm

    sized: dict[str, Any] = {"img_size": image_size} if takes_image_size(name) else {}
    return timm.create_model(name, **{**sized, **options})


def _torchvision(name: str, image_size: tuple[int, int], options: dict) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, weights=None, **options)


def _transformers(name: str, image_size: tuple[int, int], options: dict) -> nn.Module:
    import transformers

    kind = getattr(transformers, name)
    return kind(kind.config_class(**{"image_size": image_size, **options}))


_BUILD = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}


TOKEN = {"global_pool": "token"}
VIT = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2}
STAGED = (64, 96)
PIT = {"base_dims": (24, 24, 24), "depth": (1, 1, 1), "heads": (1, 2, 2)}
XCIT = {"depth": 2, "embed_dim": 32, "num_heads": 2}
TNT = {"embed_dim": 48, "inner_dim": 8, "depth": 2, "num_heads_outer": 2, "num_heads_inner": 2}
CROSS = {"embed_dim": (24, 48), "depth": ((1, 1, 0),), "num_heads": (2, 2), "img_scale": (1.0, 2 / 3)}
SWIN = {"embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
STAGES = {"depths": (1, 1, 1, 1), "embed_dims": (16, 16, 32, 48), "num_heads": (1, 2, 2, 2)}
HF = {"patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
HF_SQUARE = {**HF, "image_size": 48}  # it stretches its square position embedding to other images
FOUR = {"depth": 4}
HF_FOUR = {"num_hidden_layers": 4}


def _both_kinds(family: str, name: str, sizes: dict = HF, **options: object) -> list[Readable]:
    kinds = [{"attn_implementation": kind, **options} for kind in ("sdpa", "eager")]
    return [Readable(family, "transformers", name, kind, small=sizes, short=HF_FOUR) for kind in kinds]


READABLE = (
    Readable("ViT", "timm", "vit_tiny_patch16_224", small=VIT),
    Readable("ViT, parallel", "timm", "vit_base_patch16_xp_224", small=VIT, short=FOUR),
    Readable("ViT, relative position", "timm", "vit_relpos_base_patch16_cls_224", small=VIT, short=FOUR),
    Readable(
        "ViT, hybrid", "timm", "vit_tiny_r_s16_p8_224",
        small={"embed_dim": 48, "depth": 2, "num_heads": 2, "img_size": STAGED}, small_size=STAGED,
    ),
    Readable("FlexiViT", "timm", "flexivit_small", small=VIT),
    Readable("NaFlexViT", "timm", "naflexvit_base_patch16_gap", {**TOKEN, "class_token": True}, small=VIT, short=FOUR),
    Readable("NaFlexViT", "timm", "naflexvit_base_patch16_map", small=VIT, short=FOUR),
    Readable("DeiT", "timm", "deit_tiny_patch16_224", small=VIT),
    Readable("DeiT, distilled", "timm", "deit_tiny_distilled_patch16_224", small=VIT),
    Readable("DeiT III", "timm", "deit3_small_patch16_224", small=VIT),
    Readable("CaiT", "timm", "cait_xxs24_224", small=VIT),
    Readable("XCiT", "timm", "xcit_nano_12_p8_224", small=XCIT),
    Readable("XCiT", "timm", "xcit_nano_12_p16_224", small=XCIT, small_size=STAGED),
    Readable("BEiT", "timm", "beit_base_patch16_224", TOKEN, small=VIT, short=FOUR),
    Readable("BEiT v2", "timm", "beitv2_base_patch16_224", TOKEN, small=VIT, short=FOUR),
    Readable("EVA", "timm", "eva_giant_patch14_224", TOKEN, small=VIT, short={"depth": 2}),
    Readable("EVA-02", "timm", "eva02_tiny_patch14_224", TOKEN, small=VIT),
    Readable("EVA-02, CLIP", "timm", "eva02_base_patch16_clip_224", small=VIT, short=FOUR),
    Readable("DINOv2", "timm", "vit_small_patch14_dinov2", small=VIT),
    Readable("DINOv2, registers", "timm", "vit_small_patch14_reg4_dinov2", small=VIT),
    Readable("DINOv3", "timm", "vit_small_patch16_dinov3", TOKEN, small=VIT),
    Readable("RoPE-ViT, axial", "timm", "vit_small_patch16_rope_224", small=VIT),
    Readable("RoPE-ViT, mixed", "timm", "vit_small_patch16_rope_mixed_224", small=VIT),
    Readable("RoPE-ViT, axial + APE", "timm", "vit_small_patch16_rope_ape_224", small=VIT),
    Readable("RoPE-ViT, mixed + APE", "timm", "vit_small_patch16_rope_mixed_ape_224", small=VIT),
    Readable("CLIP ViT", "timm", "vit_base_patch16_clip_224", small=VIT, short=FOUR),
    Readable("CLIP ResNet", "timm", "resnet50_clip", small=small.clip_resnet, small_size=STAGED),
    Readable("SigLIP", "timm", "vit_base_patch16_siglip_224", small=VIT, short=FOUR),
    Readable("SigLIP", "timm", "vit_so400m_patch14_siglip_224", small=VIT, short={"depth": 3}),
    Readable("PE core", "timm", "vit_pe_core_tiny_patch16_384", small=VIT),
    Readable("InternViT", "timm", "vit_intern300m_patch14_448", small=VIT, short={"depth": 3}),
    Readable("PiT", "timm", "pit_ti_224", small=PIT, small_size=STAGED),
    Readable("PiT, distilled", "timm", "pit_ti_distilled_224", small=PIT, small_size=STAGED),
    Readable("VOLO", "timm", "volo_d1_224", small=small.volo, small_size=STAGED),
    Readable("TNT", "timm", "tnt_s_patch16_224", small=TNT, small_size=STAGED),
    Readable("TNT, legacy", "timm", "tnt_s_legacy_patch16_224", small=TNT, small_size=STAGED),
    Readable(
        "ConViT", "timm", "convit_tiny", small_size=(48, 48),
        small={"embed_dim": 24, "depth": 3, "num_heads": 4, "local_up_to_layer": 1, "patch_size": 8},
    ),
    Readable("CrossViT", "timm", "crossvit_9_240", size=240, small=CROSS, small_size=(48, 72)),
    Readable("CrossViT, dagger", "timm", "crossvit_9_dagger_240", size=240, small=CROSS, small_size=(48, 72)),
    Readable("MViTv2", "timm", "mvitv2_small_cls", small=small.mvit_cls, small_size=(64, 64)),
    Readable("MViTv2", "timm", "mvitv2_tiny", head=True, small=small.mvit, small_size=(96, 96)),
    Readable("Swin", "timm", "swin_tiny_patch4_window7_224", head=True, small=SWIN),
    Readable("Swin v2", "timm", "swinv2_tiny_window8_256", head=True, size=256, small=SWIN),
    Readable("PVT v2", "timm", "pvt_v2_b0", head=True, small=STAGES, small_size=STAGED),
    Readable("Twins-SVT", "timm", "twins_svt_small", head=True, small=STAGES, small_size=STAGED),
    Readable("Twins-PCPVT", "timm", "twins_pcpvt_small", head=True, small=STAGES, small_size=STAGED),
    Readable("DaViT", "timm", "davit_tiny", head=True, small=STAGES, small_size=STAGED),
    Readable(
        "MaxViT", "timm", "maxvit_tiny_tf_224", head=True, small_size=STAGED,
        small={
            "embed_dim": (32, 64), "depths": (1, 1), "block_type": ("M", "M"), "stem_width": 16,
            "head_hidden_size": 64,
        },
    ),
    Readable(
        "CoAtNet", "timm", "coatnet_0_rw_224", head=True, small_size=STAGED,
        small={"embed_dim": (32, 32, 64, 64), "depths": (1, 1, 1, 1), "stem_width": (8, 16)},
    ),
    Readable("NesT", "timm", "nest_tiny", head=True, small=small.nest, small_size=(64, 64)),
    Readable(
        "Hiera", "timm", "hiera_tiny_224", head=True, small_size=STAGED,
        small={"embed_dim": 32, "stages": (1, 1, 1, 1)},
    ),
    Readable(
        "LeViT", "timm", "levit_128s", head=True, small_size=(128, 192),
        small={"embed_dim": (32, 48, 64), "key_dim": 8, "num_heads": (2, 2, 2), "depth": (1, 1, 1)},
    ),
    Readable("SigLIP, average pool", "timm", "vit_base_patch16_siglip_gap_224", head=True, small=VIT, short=FOUR),
    Readable("AIMv2", "timm", "aimv2_large_patch14_224", head=True, small=VIT, short={"depth": 3}),
    Readable(
        "ConvNeXt", "timm", "convnext_atto", head=True, small_size=STAGED,
        small={"depths": (1, 1, 1, 1), "dims": (16, 16, 32, 32)},
    ),
    Readable(
        "ResNet", "timm", "resnet18", head=True, small_size=STAGED,
        small={"layers": (1, 1, 1, 1), "channels": (16, 16, 32, 32), "stem_width": 16},
    ),
    Readable(
        "ViT", "torchvision", "vit_b_16",
        small=small.torchvision_vit, small_size=(32, 32), short=small.torchvision_vit_base,
    ),
    Readable(
        "ViT", "torchvision", "vit_b_32",
        small=small.torchvision_vit, small_size=(32, 32), short=small.torchvision_vit_base_32,
    ),
    Readable("Swin", "torchvision", "swin_t", head=True, small=small.torchvision_swin),
    Readable("Swin v2", "torchvision", "swin_v2_t", head=True, small=small.torchvision_swin_v2),
    Readable(
        "ConvNeXt", "torchvision", "convnext_tiny", head=True,
        small=small.torchvision_convnext, small_size=STAGED,
    ),
    Readable("ResNet", "torchvision", "resnet18", head=True, small=small.torchvision_resnet, small_size=STAGED),
    *_both_kinds("ViT", "ViTForImageClassification"),
    *_both_kinds("DeiT", "DeiTForImageClassification"),
    *_both_kinds("DINOv2", "Dinov2ForImageClassification", HF_SQUARE),
    *_both_kinds("DINOv2, registers", "Dinov2WithRegistersForImageClassification", HF_SQUARE),
    *_both_kinds("BEiT", "BeitForImageClassification", use_mean_pooling=False),
)  # fmt: skip
"""Every model that is known to be read; each row of the table is measured on it."""

REFUSED = (
    Readable("CoaT", "timm", "coat_tiny"),
    Readable("ViT, parallel things", "timm", "vit_small_patch16_18x2_224"),
    Readable("SAM ViT", "timm", "samvit_base_patch16_224"),
    Readable("BEiT", "timm", "beit_base_patch16_224"),
    Readable("EVA-02", "timm", "eva02_tiny_patch14_224"),
    Readable("DINOv3", "timm", "vit_small_patch16_dinov3"),
    Readable("SigLIP, average pool", "timm", "vit_base_patch16_siglip_gap_224"),
    Readable("Swin", "timm", "swin_tiny_patch4_window7_224"),
    Readable("LeViT", "timm", "levit_128s"),
    Readable("ConvNeXt", "timm", "convnext_atto"),
    Readable("NaFlexViT, images of many sizes", "timm", "naflexvit_base_patch16_map", packed=True, small=VIT),
    Readable("BEiT", "transformers", "BeitForImageClassification"),
    Readable("ViT", "transformers", "ViTForImageClassification", {"attn_implementation": "flex_attention"}),
)
"""Models that are refused, each to show an error and its remedy."""
