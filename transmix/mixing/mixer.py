"""The mixer: draws how each batch is mixed, by which method, and applies the draw."""

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
import torch.utils.data
from torch import Tensor

from transmix.mixing.cutmix import CutMix
from transmix.mixing.draw import Draw, Row
from transmix.mixing.maps import CleanMaps
from transmix.mixing.mixed import Mixed, check_batch
from transmix.mixing.mixup import Mixup
from transmix.mixing.saliency import spectral_residual
from transmix.warnings import TransMixWarning


class Method(Protocol):
    """A way to mix: a frozen dataclass, whose fields are its settings. `METHODS` lists those that have a name.

    A method that looks at maps of the clean images first has `looks_at` and `place` in the place of `draw`; see
    `Guided`. One with `per_sample` draws each row apart in mode "batch" too: `draw_shared(rng)` once, and then
    `draw_with(shared, rng, height, width)` for each row.
    """

    def draw(self, rng: random.Random, height: int, width: int) -> Row:
        """Draw how a row of `height` x `width` pixels is mixed, from nothing but `rng`."""
        ...


class Guided(Protocol):
    """A method that looks at maps of the clean images before it mixes."""

    looks_at: ClassVar[str]
    """The kind of map: one of `transmix.attention.guide.KINDS`, or "saliency"."""

    def place(self, rngs: Mapping[int, random.Random], clean: CleanMaps) -> dict[int, Row]:
        """Place the partner's pixels in some rows of a batch.

        Args:
            rngs: for each row that this method mixes, a generator; in mode "batch" all start alike.
            clean: the maps.
        """
        ...


Maps = tuple[Tensor, tuple[int, int], tuple[int, int]]
"""Maps (B, P), their grid (h, w), and the pixels (height, width) that it covers."""


class Look(Protocol):
    """Maps of a batch of clean images: `transmix.attention.guide.Look`."""

    def maps(self, kind: str) -> Maps:
        """Return the maps of a kind."""
        ...


UNMIXED = Row(1.0)


class Mixer:
    """Mixup, CutMix, or a switch between both, with timm's parameters and meanings.

    What timm's `Mixup` lacks and this has: odd batches, a random partner, float labels, non-square images,
    a generator that the caller owns (global random states stay untouched), inputs that are never modified.

    Args:
        mixup_alpha: Mixup's lam comes from Beta(alpha, alpha); 0 turns Mixup off.
        cutmix_alpha: Beta(alpha, alpha) of CutMix; 0 turns CutMix off.
        cutmix_minmax: draw each side of the box uniformly between these fractions of the image's side
            instead of from `cutmix_alpha`.
        prob: chance that a batch (row in mode "elem", pair in mode "pair") is mixed at all.
        switch_prob: chance of CutMix where both are on.
        mode: "batch" one draw for the batch; "pair" one for each row and its partner; "elem" one per row.
        correct_lam: take lam from the box that is left inside the image rather than from the Beta draw.
        methods: other methods in place of the switch, each alone or with a weight, (method, weight): how often it is
            drawn, in proportion. The parameters of the switch (alphas, minmax, switch_prob, correct_lam) are then not
            used.
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
        methods: Sequence[Method | tuple[Method, float]] | None = None,
    ):
        if methods is None:
            methods = _switch(mixup_alpha, cutmix_alpha, cutmix_minmax, switch_prob, correct_lam)
        self.chances = _chances(methods)
        if not 0 <= prob <= 1:
            raise ValueError(f"prob is a probability, not {prob}")
        if mode not in ("batch", "pair", "elem"):
            raise ValueError(f"mode must be 'batch', 'pair' or 'elem', not {mode!r}")
        if partner not in ("flip", "random"):
            raise ValueError(f"partner must be 'flip' or 'random', not {partner!r}")
        if mode == "pair" and partner == "random":
            raise ValueError("mode 'pair' mixes two rows into each other: it needs partner='flip'")
        self.prob = prob
        self.mode = mode
        self.partner = partner
        self.generator = generator or torch.Generator().manual_seed(torch.initial_seed())
        self._worker_seed: int | None = None
        self.enabled = True
        self._told_of_single = False

    def __call__(self, images: Tensor, labels: Tensor, look: Look | None = None) -> Mixed:
        """Draw and apply. Shapes as in `Draw.apply`.

        Args:
            images: (B, C, H, W).
            labels: (B,) or (B, K).
            look: gives maps of these images, for methods that look first; `TransMix` hands it over.

        Raises:
            ValueError: shapes that do not fit, or a method that looks at the model where there is no `look`.
        """
        check_batch(images, labels)
        height, width = images.shape[-2:]
        return self.draw(len(images), height, width, look or _Saliency(images)).apply(images, labels)

    def draw(self, batch_size: int, height: int, width: int, look: Look | None = None) -> Draw:
        """Draw how a batch of `batch_size` images of `height` x `width` pixels is mixed; `look` as above."""
        rng = self._random()
        partner = list(range(batch_size - 1, -1, -1))
        if self.partner == "random":
            rng.shuffle(partner)
        if batch_size == 1 and self.enabled and not self._told_of_single:
            self._told_of_single = True
            warnings.warn("a batch of one image has no partner and stays unmixed", TransMixWarning, stacklevel=2)
        if batch_size == 1 or not self.enabled:
            return _as_draw(height, width, partner, [UNMIXED])
        if self.mode == "batch":
            rows = self._draw_alike(rng, batch_size, height, width)
        elif self.mode == "elem":
            rows = [self._draw_row(rng, height, width) for _ in range(batch_size)]
        else:
            half = [self._draw_row(rng, height, width) for _ in range(batch_size // 2)]
            middle = [UNMIXED] * (batch_size % 2)  # its own partner: mixing would change nothing
            rows = half + middle + half[::-1]
        return _as_draw(height, width, partner, _placed(rows, partner, height, width, look))

    def _draw_alike(self, rng: random.Random, batch_size: int, height: int, width: int) -> "list[Row | _Waiting]":
        """Return one row for the batch; of a method that draws each sample apart one per row, with what they share."""
        method = self._choose(rng)
        if method is None or not getattr(method, "per_sample", False):
            return [_draw(method, rng, height, width)]
        shared = method.draw_shared(rng)
        return [method.draw_with(shared, rng, height, width) for _ in range(batch_size)]

    def _draw_row(self, rng: random.Random, height: int, width: int) -> "Row | _Waiting":
        return _draw(self._choose(rng), rng, height, width)

    def _choose(self, rng: random.Random) -> Any:
        """Return the method of a batch or row; None if it stays unmixed."""
        if rng.random() >= self.prob:
            return None
        chosen = rng.random()  # drawn always: then CutMix alone pastes the boxes that CutMix and Mixup paste
        return next(method for method, upto in self.chances if chosen < upto)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that can be drawn."""
        before = [0.0, *(upto for _, upto in self.chances)]
        return tuple(method for (method, upto), low in zip(self.chances, before, strict=False) if upto > low)

    def _random(self) -> random.Random:
        worker = torch.utils.data.get_worker_info()
        if worker is not None and worker.seed != self._worker_seed:
            # Every worker gets a copy of the same generator, anew each epoch: without this, all would draw alike.
            self._worker_seed = worker.seed
            self.generator.manual_seed((self._whole_number() + worker.seed) % 2**63)
        # One whole number from torch's generator seeds Python's: torch offers no Beta draw from a generator.
        return random.Random(self._whole_number())

    def _whole_number(self) -> int:
        return int(torch.randint(2**62, (), generator=self.generator, device=self.generator.device))

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker gets the mixer by pickle, and torch cannot pickle generators.
        state = bytes(self.generator.get_state().tolist())
        return {**self.__dict__, "generator": (str(self.generator.device), state)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        device, generator = state["generator"]
        self.__dict__.update(state)
        self.generator = torch.Generator(device)
        self.generator.set_state(torch.tensor(list(generator), dtype=torch.uint8))


class _Waiting(NamedTuple):
    """A row of a guided method, before its maps are computed."""

    method: Guided
    seed: int


def _draw(method: Any, rng: random.Random, height: int, width: int) -> Row | _Waiting:
    if method is None:
        return UNMIXED
    return _Waiting(method, rng.getrandbits(64)) if looks_at(method) else method.draw(rng, height, width)


class _Saliency:
    """Saliency maps from the pixels, without a model."""

    def __init__(self, images: Tensor):
        self.images = images

    def maps(self, kind: str) -> Maps:
        if kind != "saliency":
            raise ValueError(
                "this method needs maps of the clean images from a model: use TransMix(model, mixer=...). A mixer "
                "alone has no model, nor has a worker of a DataLoader"
            )
        size = (self.images.shape[-2], self.images.shape[-1])
        return spectral_residual(self.images).flatten(1), size, size


def looks_at(method: Any) -> str | None:
    """Return the kind of map that a method looks at before it mixes; None if it looks at nothing."""
    return getattr(method, "looks_at", None)


def _placed(
    rows: "Sequence[Row | _Waiting]", partner: Sequence[int], height: int, width: int, look: Look | None
) -> Sequence[Row]:
    """Replace the waiting rows of guided methods by rows that are placed with their maps."""
    if not any(isinstance(row, _Waiting) for row in rows):
        return rows  # type: ignore[return-value]
    if look is None:
        raise ValueError("this method needs the images to draw: call the mixer on a batch")
    rows = list(rows) * (len(partner) if len(rows) == 1 else 1)
    for method in {row.method: None for row in rows if isinstance(row, _Waiting)}:
        waiting = {
            index: random.Random(row.seed)
            for index, row in enumerate(rows)
            if isinstance(row, _Waiting) and row.method == method
        }
        maps, grid, _ = look.maps(method.looks_at)
        placed = method.place(waiting, CleanMaps(maps.float().cpu(), grid, partner, (height, width)))
        rows = [placed.get(index, row) for index, row in enumerate(rows)]
    return rows  # type: ignore[return-value]


def _switch(
    mixup_alpha: float,
    cutmix_alpha: float,
    cutmix_minmax: tuple[float, float] | None,
    switch_prob: float,
    correct_lam: bool,
) -> list[tuple[Method, float]]:
    """Return the methods of timm's switch, each with its probability."""
    if not (mixup_alpha >= 0 and cutmix_alpha >= 0):
        raise ValueError(f"alpha must not be negative: mixup {mixup_alpha}, cutmix {cutmix_alpha}")
    if not 0 <= switch_prob <= 1:
        raise ValueError(f"switch_prob is a probability, not {switch_prob}")
    mixup = Mixup(mixup_alpha) if mixup_alpha > 0 else None
    can_cut = cutmix_alpha > 0 or cutmix_minmax is not None
    cutmix = CutMix(cutmix_alpha, cutmix_minmax, correct_lam) if can_cut else None
    if mixup is None and cutmix is None:
        raise ValueError("nothing to mix with: mixup_alpha and cutmix_alpha are both 0")
    if mixup is None or cutmix is None:
        return [(cutmix or mixup, 1.0)]  # type: ignore[list-item]
    return [(cutmix, switch_prob), (mixup, 1 - switch_prob)]


def _chances(methods: Sequence[Method | tuple[Method, float]]) -> list[tuple[Method, float]]:
    """Return each method with its cumulative probability: the first that exceeds a uniform draw is chosen."""
    pairs = [one if isinstance(one, tuple) else (one, 1.0) for one in methods]
    total = sum(weight for _, weight in pairs)
    if not pairs or not 0 < total < float("inf") or any(not weight >= 0 for _, weight in pairs):
        raise ValueError(f"methods need weights of at least 0 that do not sum to 0, not {[w for _, w in pairs]}")
    upto, found = 0.0, []
    for method, weight in pairs:
        if not callable(getattr(method, "place" if looks_at(method) else "draw", None)):
            raise TypeError(f"a method has draw(rng, height, width), and {type(method).__name__} has none")
        upto += weight / total
        found.append((method, upto))
    found[-1] = (found[-1][0], 1.0)  # rounding may have left the sum below 1, and a draw above it
    return found


def _as_draw(height: int, width: int, partner: Sequence[int], rows: Sequence[Row]) -> Draw:
    """Put rows together to the draw of a batch."""
    lam, boxes, sources, shapes, _ = zip(*rows, strict=True)
    ways = {row.interpolation for row in rows if row.source_box is not None}
    if len(ways) > 1:
        raise ValueError(f"one batch cannot be resized in several ways: {', '.join(sorted(ways))}; use mode 'batch'")
    return Draw(
        height,
        width,
        tuple(partner),
        lam,
        boxes,
        sources if any(sources) else (),
        shapes if any(shape is not None for shape in shapes) else (),
        *ways,
    )
