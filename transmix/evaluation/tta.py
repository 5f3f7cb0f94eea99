"""Test-time augmentation: the mean answer of a model to an image and its mirror."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

TTA = Literal["none", "flip"]
"""What is averaged: nothing, or an image and its mirror."""


class FlipMean(nn.Module):
    """Return logits of the mean of the softmax probabilities of an image and its mirror (left and right swapped).

        logits = log((softmax(f(x)) + softmax(f(mirror of x))) / 2)

    Their softmax is that mean, so every score of logits is one of the mean. Costs two forwards; the image itself comes
    last.

    Args:
        model: f, images (B, 3, H, W) to logits (B, K).

    Source: Simonyan and Zisserman, Very Deep Convolutional Networks (ICLR 2015, arXiv 1409.1556), section 3.2.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, K) float32 for normalised images (B, 3, H, W)."""
        both = torch.stack([self.model(one).float().log_softmax(dim=1) for one in (pixels.flip(-1), pixels)])
        return both.logsumexp(dim=0) - math.log(2)
