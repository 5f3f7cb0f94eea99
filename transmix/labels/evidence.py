"""What a label rule may look at. A rule states what it needs; `TransMix` gets it for the rule."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from transmix.attention.reader import Attention
from transmix.mixing.mixed import Mixed

KINDS = {
    "attention": "the class token's attention in the mixed images",
    "logits": "what the model said of the mixed images",
    "maps": "every block's whole attention in the mixed images, of a second forward without gradient",
    "clean": "the class token's attention in the images before mixing, of a forward without gradient in eval mode",
    "foreground": "masks of the objects in the images before mixing, which the caller hands to `mix`",
}
"""Name -> what it is: what a rule can name in `needs`, and then finds in `Evidence` under this name."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a rule asked for; the rest is None.

    Attributes:
        attention: row (B, P) float32, grid (h, w), extent (height, width).
        logits: (B, K), without gradient.
        maps: (B, blocks, G, N, N) float32, softmax over the last axis.
        clean: as `attention`, of the rows' own images.
        foreground: (B, H, W) bool or float, of the rows' own images.
    """

    attention: Attention | None = None
    logits: Tensor | None = None
    maps: Tensor | None = None
    clean: Attention | None = None
    foreground: Tensor | None = None


class Rule(Protocol):
    """A label rule: a frozen dataclass, whose fields are its settings. `RULES` lists those that have a name.

    It computes from `lam_area` and the mask, never from `lam`, so that applying it twice changes nothing, and leaves
    rows with an empty mask untouched.
    """

    needs: ClassVar[tuple[str, ...]]
    """Which of `KINDS` it looks at; () for none."""

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Return the batch with other weights of the labels."""
        ...
