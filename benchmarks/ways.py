"""The ways to train that are compared: the same model, images, boxes and optimizer, and labels by area or attention.

none          no mixing
cutmix        fused attention, labels by area
transmix      this library: fused attention left on, one row read
last unfused  the last block alone unfused, its matrix kept: what a careful hand-written loop does
reference     every fused block unfused and its matrix cloned, as in the authors' repository

Where a model fuses its class attention alone (CaiT, XCiT), the last two unfuse little or nothing more than that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transmix import MixedCrossEntropy, Mixer, TransMix, attention_labels

WAYS = ("none", "cutmix", "transmix", "last unfused", "reference")
SMOOTHING = 0.1


class KeepAttention(nn.Module):
    """Stands in for an attention dropout of 0: keeps the softmax matrix that passes."""

    attention: Tensor | None = None

    def forward(self, attention: Tensor) -> Tensor:
        """Keep (B, G, N, N) detached and cloned, as the reference does; hand it on."""
        self.attention = attention.detach().clone()
        return attention


class Way:
    """One way to train a model: a step that mixes, predicts, weighs labels and descends.

    Args:
        name: one of WAYS.
        model: a timm model; changed where the way unfuses its attention.
        compiled: whether to torch.compile it.
        bf16: whether the forward runs under autocast.
        wrap: put around the model, after compiling (DistributedDataParallel).
    """

    def __init__(self, name: str, model: nn.Module, *, compiled: bool = False, bf16: bool = False, wrap: Any = None):
        self.name, self.bf16 = name, bf16
        self.device = next(model.parameters()).device.type
        self.mixer = Mixer(mixup_alpha=0, generator=torch.Generator().manual_seed(0))
        self.criterion = MixedCrossEntropy(SMOOTHING)
        self.transmix = None
        if name == "transmix":
            generator = torch.Generator().manual_seed(0)
            self.transmix = TransMix(model, smoothing=SMOOTHING, mixup_alpha=0, generator=generator)
        self.keeps: list[KeepAttention] = []
        self.prefix = getattr(model, "num_prefix_tokens", 1)
        fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
        for module in {"reference": fused, "last unfused": fused[-1:]}.get(name, []):
            module.fused_attn = False
            module.attn_drop = KeepAttention()
            self.keeps.append(module.attn_drop)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.model = torch.compile(model) if compiled else model
        self.model = wrap(self.model) if wrap else self.model

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Take one optimizer step."""
        self._loss(images, labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for keep in self.keeps:
            keep.attention = None  # what stays between steps would not be seen to be this step's

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.name == "none":
            return F.cross_entropy(self._logits(images).float(), labels, label_smoothing=SMOOTHING)
        if self.transmix is not None:
            mixed = self.transmix.mix(images, labels)
            return self.transmix.loss(self._logits(mixed.images), mixed)
        mixed = self.mixer(images, labels)
        logits = self._logits(mixed.images)
        if self.keeps:
            kept = self.keeps[-1].attention
            assert kept is not None
            row = kept[:, :, 0, self.prefix :].float().mean(1)
            mixed = attention_labels(mixed, row)
        return self.criterion(logits, mixed)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            return self.model(images)

    def state_bytes(self) -> int:
        """Return the bytes of weights, buffers and optimizer state, which are there between steps."""
        kept = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [*self.model.parameters(), *self.model.buffers(), *(v for v in kept if isinstance(v, Tensor))]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def ways(
    names: Sequence[str], model: str, device: str, options: Mapping[str, Any] | None = None, **settings: Any
) -> dict[str, Way]:
    """Return ways to train copies of a timm model that start alike; `none` and `cutmix` share one.

    Args:
        names: some of WAYS.
        model: timm's name.
        device: "cpu" or "cuda".
        options: for `timm.create_model`.
        settings: of `Way`.
    """
    made: dict[str, Way] = {}
    for name in names:
        torch.manual_seed(0)
        with torch.device(device):  # random weights of a large model take long on a CPU
            net = timm.create_model(model, **(options or {})).train()
        made[name] = Way(name, net, **settings)
    if "none" in made and "cutmix" in made:  # the same model, compiled once
        made["none"].model, made["none"].optimizer = made["cutmix"].model, made["cutmix"].optimizer
    return made


def batch_for(images: int, side: int, classes: int, device: str) -> tuple[Tensor, Tensor]:
    """Return images (B, 3, side, side) of noise and labels (B,)."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, side, side, generator=generator)
    return pixels.to(device), torch.randint(classes, (images,), generator=generator).to(device)
