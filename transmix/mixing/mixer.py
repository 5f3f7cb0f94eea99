"""The mixer: draws how a batch is to be mixed (Mixup, CutMix or neither) and applies the draw."""

import math
import random
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.data
from torch import Tensor

from transmix.mixing.box import Box, box_area, draw_box, draw_box_minmax
from transmix.mixing.mixed import Mixed, blend, box_mask, check_batch, paste, per_row
from transmix.warnings import TransMixWarning


@dataclass(frozen=True)
class Draw:
    """How one batch is mixed: plain numbers, so that any mix can be stored, compared and replayed.

    Attributes:
        height: H of the images it was drawn for.
        width: W.
        partner: for each of the B rows, the row whose image comes in.
        lam: weight of the row's own label, one for the batch or one per row.
        boxes: the box pasted from the partner, or None where the whole image is blended by `lam`;
            one for the batch or one per row, as `lam`. (lam 1 and None: the row stays as it is.)
    """

    height: int
    width: int
    partner: tuple[int, ...]
    lam: tuple[float, ...]
    boxes: tuple[Box | None, ...]

    def apply(self, images: Tensor, labels: Tensor) -> Mixed:
        """Mix a batch as drawn. Pure: the same draw on the same batch gives the same result.

        Args:
            images: (B, C, H, W), float or uint8; not modified.
            labels: (B,) integer classes or (B, K) float.

        Raises:
            ValueError: the batch is not of the size that was drawn for.
        """
        labels = check_batch(images, labels)
        if (len(images), *images.shape[-2:]) != (len(self.partner), self.height, self.width):
            raise ValueError(
                f"this draw is for {len(self.partner)} images of {self.height} x {self.width}, "
                f"not {len(images)} of {images.shape[-2]} x {images.shape[-1]}"
            )
        partner = torch.tensor(self.partner).to(images.device, non_blocking=True)
        lam = per_row(self.lam, images)
        mixed_images, mask = images, None
        blends = [1.0 if box else lam for lam, box in zip(self.lam, self.boxes, strict=True)]
        if any(weight < 1 for weight in blends):
            weight = blends[0] if len(blends) == 1 else per_row(blends, images)
            mixed_images = blend(images, weight, partner)
        if any(self.boxes):
            boxes = [box or (0, 0, 0, 0) for box in self.boxes]
            mask = box_mask(boxes, self.height, self.width, images.device)
            mixed_images = paste(mixed_images, images, boxes, mask, partner)
        if mixed_images is images:
            mixed_images = images.clone()
        return Mixed(mixed_images, labels, partner, lam, lam, mask)


class Mixer:
    """Mixup, CutMix, or a switch between both, with timm's parameters and meanings.

    What timm's `Mixup` lacks and this has: odd batches, a random partner, float labels, non-square images,
    a generator that the caller owns (global random states stay untouched), inputs that are never modified.

    Args:
        mixup_alpha: Mixup's lam comes from Beta(alpha, alpha); 0 turns Mixup off.
        cutmix_alpha: likewise for CutMix.
        cutmix_minmax: draw each side of the box uniformly between these fractions of the image's side
            instead of from `cutmix_alpha`.
        prob: chance that a batch (row in mode "elem", pair in mode "pair") is mixed at all.
        switch_prob: chance of CutMix where both are on.
        mode: "batch" one draw for the batch; "pair" one for each row and its partner; "elem" one per row.
        correct_lam: take lam from the box that is left inside the image rather than from the Beta draw.
        partner: "flip" pairs row i with row B - 1 - i; "random" with a random permutation.
        generator: where randomness comes from. None: an own one, seeded with `torch.initial_seed()`. In a worker of a
            DataLoader a draw also depends on the worker's own seed, which is new for every worker and epoch and
            follows from the loader's generator: no two workers or epochs draw alike, and the same loader does again.

    Raises:
        ValueError: a parameter out of its range, both methods off.

    Example:
        >>> mixer = Mixer(generator=torch.Generator().manual_seed(0))
        >>> mixed = mixer(torch.rand(5, 3, 32, 48), torch.arange(5))
    """

    def __init__(
        self,
        mixup_alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        cutmix_minmax: tuple[float, float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: str = "batch",
        correct_lam: bool = True,
        partner: str = "flip",
        generator: torch.Generator | None = None,
    ):
        if not (mixup_alpha >= 0 and cutmix_alpha >= 0):
            raise ValueError(f"alpha must not be negative: mixup {mixup_alpha}, cutmix {cutmix_alpha}")
        if cutmix_minmax is not None and not (
            len(cutmix_minmax) == 2 and 0 <= cutmix_minmax[0] <= cutmix_minmax[1] <= 1
        ):
            raise ValueError(f"cutmix_minmax must be two rising fractions in [0, 1], not {cutmix_minmax}")
        if mixup_alpha == 0 and cutmix_alpha == 0 and cutmix_minmax is None:
            raise ValueError("nothing to mix with: mixup_alpha and cutmix_alpha are both 0")
        for name, value in {"prob": prob, "switch_prob": switch_prob}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability, not {value}")
        if mode not in ("batch", "pair", "elem"):
            raise ValueError(f"mode must be 'batch', 'pair' or 'elem', not {mode!r}")
        if partner not in ("flip", "random"):
            raise ValueError(f"partner must be 'flip' or 'random', not {partner!r}")
        if mode == "pair" and partner == "random":
            raise ValueError("mode 'pair' mixes two rows into each other: it needs partner='flip'")
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.cutmix_minmax = cutmix_minmax
        self.prob = prob
        self.switch_prob = switch_prob
        self.mode = mode
        self.correct_lam = correct_lam
        self.partner = partner
        self.generator = generator or torch.Generator().manual_seed(torch.initial_seed())
        self._worker_seed: int | None = None
        self.enabled = True
        self._told_of_single = False

    def __call__(self, images: Tensor, labels: Tensor) -> Mixed:
        """Draw and apply. Shapes as in `Draw.apply`."""
        check_batch(images, labels)
        return self.draw(len(images), *images.shape[-2:]).apply(images, labels)

    def draw(self, batch_size: int, height: int, width: int) -> Draw:
        """Draw how a batch of `batch_size` images of `height` x `width` pixels is mixed."""
        rng = self._random()
        partner = list(range(batch_size - 1, -1, -1))
        if self.partner == "random":
            rng.shuffle(partner)
        if batch_size == 1 and self.enabled and not self._told_of_single:
            self._told_of_single = True
            warnings.warn("a batch of one image has no partner and stays unmixed", TransMixWarning, stacklevel=2)
        if batch_size == 1 or not self.enabled:
            return Draw(height, width, tuple(partner), (1.0,), (None,))
        if self.mode == "batch":
            rows = [self._draw_row(rng, height, width)]
        elif self.mode == "elem":
            rows = [self._draw_row(rng, height, width) for _ in range(batch_size)]
        else:
            half = [self._draw_row(rng, height, width) for _ in range(batch_size // 2)]
            middle = [(1.0, None)] * (batch_size % 2)  # its own partner: mixing would change nothing
            rows = half + middle + half[::-1]
        lam, boxes = zip(*rows, strict=True)
        return Draw(height, width, tuple(partner), lam, boxes)

    def _draw_row(self, rng: random.Random, height: int, width: int) -> tuple[float, Box | None]:
        if rng.random() >= self.prob:
            return 1.0, None
        can_cut = self.cutmix_alpha > 0 or self.cutmix_minmax is not None
        says_cut = rng.random() < self.switch_prob  # drawn always: then CutMix alone pastes the boxes that both paste
        cut = can_cut and (self.mixup_alpha == 0 or says_cut)
        if not cut:
            return draw_beta(rng, self.mixup_alpha), None
        if self.cutmix_minmax is not None:
            box = draw_box_minmax(rng, self.cutmix_minmax, height, width)
        else:
            lam = draw_beta(rng, self.cutmix_alpha)
            box = draw_box(rng, lam, height, width)
            if not self.correct_lam:
                return lam, box
        return 1 - box_area(box) / (height * width), box

    def _random(self) -> random.Random:
        worker = torch.utils.data.get_worker_info()
        if worker is not None and worker.seed != self._worker_seed:
            # Every worker has a copy of the same generator, and a new one each epoch.
            self._worker_seed = worker.seed
            self.generator.manual_seed((self._whole_number() + worker.seed) % 2**63)
        # One whole number from torch's generator seeds Python's: torch offers no Beta draw from a generator.
        return random.Random(self._whole_number())

    def _whole_number(self) -> int:
        return int(torch.randint(2**62, (), generator=self.generator, device=self.generator.device))

    def __getstate__(self) -> dict[str, Any]:
        # torch's generators do not reach a spawned process.
        state = bytes(self.generator.get_state().tolist())
        return {**self.__dict__, "generator": (str(self.generator.device), state)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        device, generator = state["generator"]
        self.__dict__.update(state)
        self.generator = torch.Generator(device)
        self.generator.set_state(torch.tensor(list(generator), dtype=torch.uint8))


def draw_beta(rng: random.Random, alpha: float) -> float:
    """Draw from Beta(alpha, alpha); of an infinite alpha its limit, 0.5."""
    if math.isinf(alpha):
        return 0.5
    if alpha >= 0.05:
        return rng.betavariate(alpha, alpha)
    # Python divides Gamma draws, which both come out as 0 for a small alpha. Their logarithms do not:
    # Gamma(alpha) is distributed as Gamma(alpha + 1) * U^(1 / alpha).
    one, other = (math.log(rng.gammavariate(alpha + 1, 1)) + math.log(1 - rng.random()) / alpha for _ in range(2))
    return 1 / (1 + math.exp(min(other - one, 700.0)))
