"""Uses of a listed model under which its last row of attention may not be the mixed batch's, or lie elsewhere.

Every use runs with TransMix and without it, and compares each label with a loop over the patches of a softmax that the
model formed in full (`scripts/explicit.py`): nothing of the reader, and not the library's rule.
"""

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from explicit import explicit_attention, sharpen
from readable import Readable, build
from torch import Tensor, nn
from torch.nn import functional as F

from transmix import AttentionReader, Mixed, Mixer, TransMix

STRIDES = {
    "vit_tiny_r_s16_p8_224": 32, "xcit_nano_12_p16_224": 16, "resnet50_clip": 32, "pit_ti_224": 32,
    "pit_ti_distilled_224": 32, "volo_d1_224": 16, "tnt_s_patch16_224": 16, "tnt_s_legacy_patch16_224": 16,
    "crossvit_9_240": 12, "crossvit_9_dagger_240": 12, "mvitv2_small_cls": 16, "mvitv2_tiny": 32, "pvt_v2_b0": 32,
    "twins_svt_small": 32, "twins_pcpvt_small": 32, "davit_tiny": 32, "coatnet_0_rw_224": 32, "nest_tiny": 16,
    "hiera_tiny_224": 32, "levit_128s": 64, "convnext_atto": 32, "resnet18": 32,
}  # fmt: skip
"""Pixels from one patch to the next in the small versions, by their architecture; 8 where it is not named."""
CLOSE, CLOSE_BF16 = 1e-5, 3e-2
"""How far a label may be from the one by hand: float32, and a softmax that the model itself forms in bfloat16."""

Change = Callable[[Tensor], Tensor]


class WrongError(Exception):
    """A label that is not the batch's own."""


class Case:
    """A small version of a listed model, in one use.

    Args:
        entry: the model.
        reads: whether TransMix is there; without it the use must run too.
        size: height and width of the images that the model is built for.
        options: more of the model's own.
    """

    def __init__(self, entry: Readable, reads: bool, size: tuple[int, int] | None = None, **options: Any):
        self.entry, self.reads = entry, reads
        self.size = size or entry.small_size
        self.stride = STRIDES.get(entry.name, 8)
        self.grid = (self.size[0] // self.stride, self.size[1] // self.stride)
        self.fresh, self.name = made(entry, self.size, options)
        self.model = copy.deepcopy(self.fresh)
        self.changes: list[Callable[[nn.Module], None]] = []
        self.images = self.noise(self.size)
        self.mixer = Mixer(mixup_alpha=0, cutmix_minmax=(0.4, 0.7), generator=torch.Generator().manual_seed(1))
        self.tm: TransMix | None = None

    def noise(self, size: tuple[int, int], seed: int = 0) -> Tensor:
        """Return images (3, 3, H, W)."""
        return torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(seed))

    def change(self, change: Callable[[nn.Module], None]) -> None:
        """Change the model, and its twin alike."""
        change(self.model)
        self.changes.append(change)

    @property
    def twin(self) -> nn.Module:
        """Another copy of the model, changed alike, which nobody reads."""
        twin = copy.deepcopy(self.fresh)
        for change in self.changes:
            change(twin)
        return twin

    def read(self, model: nn.Module | None = None, module: str | None = None, **options: Any) -> None:
        """Give the model to TransMix, or one that holds it, with the name of what is read."""
        if self.reads:
            self.tm = TransMix(model or self.model, module=module, mixup_alpha=0, **options)
            self.tm.mixer = self.mixer

    def mix(self, images: Tensor | None = None) -> Mixed:
        """Mix the images."""
        images = self.images if images is None else images
        return (self.tm.mix if self.tm else self.mixer)(images, torch.arange(len(images)))

    def run(self, images: Tensor) -> Tensor:
        """Return the model's logits."""
        return logits_of(self.model(images))

    def check(
        self,
        mixed: Mixed,
        seen: Tensor | None = None,
        rows: slice | None = None,
        says_rows: bool = False,
        behind: int = 0,
        extent: tuple[int, int] | None = None,
        close: float = CLOSE,
    ) -> Mixed:
        """Relabel a batch and compare.

        Args:
            mixed: the batch.
            seen: what the bare model was given, if not its images.
            rows: which of these are the batch.
            says_rows: tell TransMix.
            behind: tokens behind the patches.
            extent: height and width that the patches cover, if not the images'.
            close: what the label may differ by.

        Raises:
            WrongError: another label.
        """
        if self.tm is None:
            return mixed
        found = self.tm.relabel(mixed, rows=rows if says_rows else None)
        seen = mixed.images if seen is None else seen
        weights = explicit_attention(self.twin, self.name, seen)[:, :, 0].mean(1)[rows or slice(None)]
        patches = self.grid[0] * self.grid[1]
        first = weights.shape[1] - behind - patches
        assert mixed.mask is not None
        expected = label_by_hand(mixed.mask, weights[:, first : first + patches], self.grid, extent)
        if (worst := (found.lam - expected).abs().max().item()) > close:
            raise WrongError(f"lam is {found.lam.tolist()} instead of {expected.tolist()}, {worst:.1e} away")
        return found

    def must_refuse(self, mixed: Mixed) -> None:
        """Relabel a batch of which no row tells anything.

        Raises:
            WrongError: it was given a label.
        """
        if self.tm is not None:
            raise WrongError(f"taken, and gave lam = {self.tm.relabel(mixed).lam.tolist()}")


MADE: dict[str, tuple[nn.Module, str]] = {}
"""Models as they were made, and the name of the module that is read of each."""


def made(entry: Readable, size: tuple[int, int], options: dict[str, Any]) -> tuple[nn.Module, str]:
    """Return the small version for images of a size, with options on top, and what is read of it."""
    key = repr((entry.key, size, options))
    if key in MADE:
        return MADE[key]
    if options and (callable(entry.small) or entry.library != "timm"):
        raise NotImplementedError
    if not callable(entry.small):
        sized = {"img_size": size} if "img_size" in entry.small else {}
        entry = replace(entry, small={**entry.small, **sized, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = sharpen(build(entry, size, "small"))
    with AttentionReader(copy.deepcopy(model)) as reader:
        MADE[key] = model, reader.name
    return MADE[key]


def logits_of(output: Any) -> Tensor:
    """Return logits (B, K) out of what a model returned."""
    return getattr(output, "logits", output)


def label_by_hand(mask: Tensor, row: Tensor, grid: tuple[int, int], extent: tuple[int, int] | None = None) -> Tensor:
    """Return lam (B,): the mean of the area that is left, and of the attention that is.

    A patch is the partner's if the pixel at its top left is; mask (B or 1, H, W), row (B, P).
    """
    height, width = extent or tuple(mask.shape[-2:])
    masks, labels = mask.tolist(), []
    for sample in range(len(row)):
        box = masks[sample % len(masks)]
        patches, own = row[sample].tolist(), 0.0
        for i in range(grid[0]):
            for j in range(grid[1]):
                y, x = i * height // grid[0], j * width // grid[1]
                own += 0.0 if box[y][x] else patches[i * grid[1] + j]
        area = 1 - sum(map(sum, box)) / (len(box) * len(box[0]))
        labels.append((own / sum(patches) + area) / 2)
    return torch.tensor(labels)


# ----------------------------------------------------------------------------------------- other forwards of the model


def clean_after(make: Callable[..., Case], told: str) -> None:
    """Run the images before mixing through the model after the mixed ones."""
    case = make()
    case.read()
    mixed = case.mix()
    case.run(mixed.images)
    case.run(case.images)
    case.check(mixed)


def clean_before(make: Callable[..., Case], told: str) -> None:
    """Run them before, without a gradient, as a teacher does."""
    case = make()
    case.read()
    mixed = case.mix()
    torch.no_grad()(case.run)(case.images)
    case.run(mixed.images)
    case.check(mixed)


def clean_alone(make: Callable[..., Case], told: str) -> None:
    """Forget to run the mixed images."""
    case = make()
    case.read()
    mixed = case.mix()
    case.run(case.images)
    if told:
        case.run(mixed.images)
    (case.check if told else case.must_refuse)(mixed)


def two_views(make: Callable[..., Case], told: str) -> None:
    """Run a flipped view of the mixed images too."""
    case = make()
    case.read()
    mixed = case.mix()
    case.run(mixed.images)
    case.run(mixed.images.flip(3))
    case.check(mixed)


def two_batches(make: Callable[..., Case], told: str) -> None:
    """Mix, mix, run, run, and the two labels, the first batch's first."""
    case = make()
    case.read()
    batches = [case.mix(), case.mix(case.noise(case.size, 1))]
    for mixed in batches:
        case.run(mixed.images)
    for mixed in batches:
        case.check(mixed)


def after_the_next(make: Callable[..., Case], told: str) -> None:
    """Ask for the label of a batch after the next was mixed."""
    case = make()
    case.read()
    mixed = case.mix()
    case.run(mixed.images)
    if told:
        case.check(mixed)
    else:
        case.mix(case.noise(case.size, 1))
        case.must_refuse(mixed)


def concatenated(make: Callable[..., Case], told: str, first: bool = True) -> None:
    """Run the mixed images and those before mixing in one batch."""
    case = make()
    case.read()
    mixed = case.mix()
    seen = torch.cat([mixed.images, case.images] if first else [case.images, mixed.images])
    case.run(seen)
    case.check(mixed, seen, slice(0, 3) if first else slice(3, 6), says_rows=bool(told))


def smaller_crop(make: Callable[..., Case], told: str) -> None:
    """Run a crop of half the height and width too."""
    try:
        case = make(dynamic_img_size=True)
    except (TypeError, NotImplementedError):
        case = make()
    case.read()
    mixed = case.mix()
    case.run(mixed.images)
    others = {"interpolate_pos_encoding": True} if case.entry.library == "transformers" else {}
    case.model(case.images[..., : case.size[0] // 2, : case.size[1] // 2], **others)
    case.check(mixed)


class Siamese(nn.Module):
    """Runs one model on two batches."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Return the difference of the logits."""
        return logits_of(self.inner(one)) - logits_of(self.inner(two))


def siamese(make: Callable[..., Case], told: str, whole: bool = False) -> None:
    """Run the mixed images in either branch; TransMix reads the model in both branches, or the whole."""
    case = make()
    pair = Siamese(case.model)
    case.read(pair if whole else None, f"inner.{case.name}" if whole else None)
    for turn in (1, -1):
        mixed = case.mix()
        pair(*(mixed.images, case.images)[::turn])
        case.check(mixed)


def as_told(case: Case, told: str, where: str = "before") -> dict[str, Any]:
    """Return the arguments that refusals name, if the unknown tokens come before or after the patches."""
    asked: dict[str, Any] = {"grid": case.grid} if "grid=(h, w)" in told else {}
    if found := re.search(rf"prefix_tokens=(\d+) if (?:they come )?{where}", told):
        asked["prefix_tokens"] = int(found[1])
    return asked


# ---------------------------------------------------------------------------------------------------- modes and copies


def frozen(make: Callable[..., Case], told: str) -> None:
    """Leave the attention that is read in eval mode."""
    case = make()
    case.change(lambda model: model.get_submodule(case.name).eval() and None)
    case.read()
    if told and case.tm:
        case.tm.reader.eval = True
    mixed = case.mix()
    case.run(mixed.images)
    case.check(mixed)


def in_eval(make: Callable[..., Case], told: str) -> None:
    """Leave the whole model in eval mode."""
    case = make()
    case.read()
    case.model.train(bool(told))
    mixed = case.mix()
    case.run(mixed.images)
    case.check(mixed)


def copied(make: Callable[..., Case], told: str, how: Callable[[Any], Any] = copy.deepcopy) -> None:
    """Copy model and TransMix in one, change the copy's weights, and go on with the copy."""
    case = make()
    case.read()
    mixed = case.mix()
    case.run(mixed.images)  # a row that must not travel
    case.model, case.tm = how((case.model, case.tm))
    case.change(drift)
    mixed = case.mix()
    case.run(mixed.images)
    case.check(mixed)


def pickled(pair: Any) -> Any:
    """Return what a pickle brings to another process."""
    return pickle.loads(pickle.dumps(pair))


def ema_between(make: Callable[..., Case], told: str) -> None:
    """Run a copy of the model, its EMA, on the mixed images between forward and loss."""
    case = make()
    case.read()
    ema = copy.deepcopy(case.model)
    drift(ema)
    mixed = case.mix()
    case.run(mixed.images)
    ema(mixed.images)
    case.check(mixed)


def ema_alone(make: Callable[..., Case], told: str) -> None:
    """Run its EMA in the model's place."""
    case = make()
    case.read()
    ema = copy.deepcopy(case.model)
    mixed = case.mix()
    ema(mixed.images)
    if told:
        case.run(mixed.images)
    (case.check if told else case.must_refuse)(mixed)


@torch.no_grad()
def drift(model: nn.Module) -> None:
    """Change a model's weights."""
    for weight in model.parameters():
        weight.mul_(1.2)


# ----------------------------------------------------------------------------------------- tokens, samples and strides


def block_of(model: nn.Module, name: str) -> nn.Module:
    """Return the block of the attention that is read; itself where it is in none."""
    return model.get_submodule(name.rpartition(".")[0] or name)


def change_tokens(case: Case, change: Callable[[Tensor, int], Tensor]) -> None:
    """Change the tokens (B, N, C) that come into the last block; `change` is told how many come before the patches."""
    patches = case.grid[0] * case.grid[1]

    def hook(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        tokens = args[0] if args else kwargs["hidden_states"]
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[1] < patches:
            raise NotImplementedError("no tokens come in here")
        changed = change(tokens, tokens.shape[1] - patches)
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    case.change(lambda model: block_of(model, case.name).register_forward_pre_hook(hook, with_kwargs=True) and None)


def extra_tokens(make: Callable[..., Case], told: str, where: str = "before", another_grid: bool = False) -> None:
    """Put prompts among the tokens, before the patches or after them; as many as patches of a larger grid would be."""
    case = make()
    h, w = case.grid
    count = (h + 1) * (w + 1) - h * w if another_grid else 1

    def more(tokens: Tensor, prefix: int) -> Tensor:
        prompts = torch.randn(1, count, tokens.shape[2], generator=torch.Generator().manual_seed(2))
        place = prefix if where == "before" else tokens.shape[1]
        return torch.cat([tokens[:, :place], prompts.expand(len(tokens), -1, -1), tokens[:, place:]], 1)

    change_tokens(case, more)
    case.read(**as_told(case, told, where))
    mixed = case.mix()
    case.run(mixed.images)
    case.check(mixed, behind=count if where == "after" else 0)


def patch_dropout(make: Callable[..., Case], told: str) -> None:
    """Let the model drop half of its patches."""
    case = make(patch_drop_rate=0.5)
    case.read()
    mixed = case.mix()
    case.run(mixed.images)
    case.must_refuse(mixed)


def dropped_tokens(make: Callable[..., Case], told: str, another_grid: bool = False) -> None:
    """Drop patches before the last block: half of them, or all but as many as a smaller grid has."""
    case = make()
    h, w = case.grid
    left = (h - 1) * (w - 1) if another_grid else h * w // 2
    change_tokens(case, lambda tokens, prefix: tokens[:, : prefix + left])
    case.read()
    mixed = case.mix()
    case.run(mixed.images)
    case.must_refuse(mixed)


def dropped_samples(make: Callable[..., Case], told: str) -> None:
    """Let the last block attend over all samples but one."""
    case = make()
    block = block_of(case.model, case.name)
    whole = block.forward

    def partly(*args: Any, **kwargs: Any) -> Any:
        fewer = [value[:-1] if isinstance(value, Tensor) and len(value) == 3 else value for value in args]
        named = {name: value[:-1] if isinstance(value, Tensor) else value for name, value in kwargs.items()}
        output = whole(*fewer, **named)
        output, *rest = output if isinstance(output, tuple) else (output,)
        output = torch.cat([output, output[:1]])
        return (output, *rest) if rest else output

    block.forward = partly
    case.read()
    mixed = case.mix()
    case.run(mixed.images)
    case.must_refuse(mixed)


def smaller_stride(make: Callable[..., Case], told: str) -> None:
    """Halve the stride of the convolution that cuts patches, and give the model position embeddings for them."""
    case = make()
    old, patch = case.grid, case.stride
    case.grid = tuple((side - patch) // (patch // 2) + 1 for side in case.size)  # type: ignore[assignment]

    def overlap(model: nn.Module) -> None:
        cutters = [
            module
            for module in model.modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride == (patch, patch)
        ]
        if len(cutters) != 1:
            raise NotImplementedError("no convolution that cuts the patches")
        cutters[0].stride = (patch // 2, patch // 2)
        for name, weight in list(model.named_parameters()):
            if "pos" in name and weight.ndim == 3 and 0 <= (prefix := weight.shape[1] - old[0] * old[1]) < 6:
                shape = (1, prefix + case.grid[0] * case.grid[1], weight.shape[2])
                values = torch.randn(shape, generator=torch.Generator().manual_seed(3))
                owner, _, last = name.rpartition(".")
                setattr(model.get_submodule(owner), last, nn.Parameter(values))

    case.change(overlap)
    case.read(**as_told(case, told))
    mixed = case.mix()
    case.run(mixed.images)
    case.check(mixed)


# ---------------------------------------------------------------------------------------------------------- the images


def other_size(make: Callable[..., Case], told: str, tall: bool) -> None:
    """Build the model for images that are taller than wide, or wider than tall."""
    stride = STRIDES.get(make().entry.name, 8)
    sides = sorted({*make().size, max(make().size) + stride})[:2]
    case = make(size=(sides[1], sides[0]) if tall else (sides[0], sides[1]))
    case.read()
    mixed = case.mix()
    case.run(mixed.images)
    case.run(case.images)
    case.check(mixed)


class Inside(nn.Module):
    """Does something to the images before a model sees them."""

    def __init__(self, inner: nn.Module, change: Change):
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the changed images."""
        return logits_of(self.inner(self.change(images)))


def moved(height: int, width: int, stride: int) -> dict[str, tuple[Change, tuple[int, int]]]:
    """Return what a model may do to its images, and the size (height, width) from which the model's own comes out."""
    half = stride // 2
    return {
        "normalised": (lambda images: images * 2 - 0.3, (height, width)),
        "transposed": (lambda images: images.transpose(2, 3), (width, height)),
        "flipped": (lambda images: images.flip(3), (height, width)),
        "cropped": (lambda images: images[..., half:-half, half:-half], (height + stride, width + stride)),
        "padded": (lambda images: F.pad(images, (0, half, 0, half)), (height - half, width - half)),
        "padded on all sides": (lambda images: F.pad(images, (half,) * 4), (height - stride, width - stride)),
        "resized": (lambda images: F.interpolate(images, size=(height, width)), (2 * height, 2 * width)),
        "run twice": (lambda images: torch.cat([images, images.flip(3)]), (height, width)),
    }


def inside(make: Callable[..., Case], told: str, how: str, whole: bool = False) -> None:
    """Do it inside; TransMix is given the inner model, or the whole."""
    case = make()
    change, size = moved(*case.size, case.stride)[how]
    model = Inside(case.model, change)
    case.read(model if whole else None, f"inner.{case.name}" if whole else None)
    images = case.noise(size)
    if how == "resized":  # what a filter leaves of noise would be another batch
        images = F.interpolate(images[..., ::4, ::4], size=size)
    mixed = case.mix(images)
    model(mixed.images)
    if how in ("normalised", "padded"):
        case.check(mixed, change(mixed.images), extent=case.size)
    elif how == "resized":
        case.check(mixed, change(mixed.images))
    elif how == "run twice":
        case.check(mixed, change(mixed.images), slice(0, 3), says_rows=bool(told))
    else:
        case.must_refuse(mixed)


def on_the_way(make: Callable[..., Case], told: str, change: Change, keeps: bool) -> None:
    """Change the mixed images between mixing and the model, which is seen the first time."""
    case = make()
    case.read()
    mixed = case.mix()
    seen = change(mixed.images)
    case.run(seen)
    if keeps:
        case.check(mixed, seen)
    else:
        case.must_refuse(mixed)


def channels_last(make: Callable[..., Case], told: str) -> None:
    """Have images and model in channels_last."""
    case = make()
    case.change(lambda model: model.to(memory_format=torch.channels_last) and None)  # type: ignore[call-overload]
    case.read()
    mixed = case.mix(case.images.contiguous(memory_format=torch.channels_last))
    case.run(mixed.images)
    case.run(case.images)
    case.check(mixed)


# --------------------------------------------------------------------------------------------------------- how it runs


def autocast(make: Callable[..., Case], told: str) -> None:
    """Run in bfloat16, the images before mixing in float32."""
    case = make()
    case.read()
    mixed = case.mix()
    with torch.autocast("cpu", torch.bfloat16):
        case.run(mixed.images)
    case.run(case.images)
    with torch.autocast("cpu", torch.bfloat16):
        case.check(mixed, close=CLOSE_BF16)


def checkpointed(make: Callable[..., Case], told: str) -> None:
    """Compute activations anew in backward, over two steps with a clean view each."""
    case = make()
    case.read()
    if case.entry.library == "transformers":
        case.model.gradient_checkpointing_enable()  # type: ignore[operator]
    elif hasattr(case.model, "set_grad_checkpointing"):
        case.model.set_grad_checkpointing(True)  # type: ignore[operator]
    else:
        raise NotImplementedError("no switch for gradient checkpointing")
    for seed in range(2):
        mixed = case.mix(case.noise(case.size, seed))
        logits = case.run(mixed.images)
        case.run(case.images)
        F.cross_entropy(logits, case.check(mixed).targets(logits.shape[1])).backward()


def compiled(make: Callable[..., Case], told: str) -> None:
    """Compile the model in one graph; a clean view after each batch."""
    case = make()
    case.read()
    torch.compiler.reset()
    whole = torch.compile(case.model, backend="eager", fullgraph=True)
    try:
        for seed in range(2):
            mixed = case.mix(case.noise(case.size, seed))
            whole(mixed.images)
            whole(case.images)
            case.check(mixed)
    finally:
        torch.compiler.reset()


@dataclass(frozen=True)
class Bend:
    """One use: a row of the table, or part of one.

    Attributes:
        words: what is done.
        use: (make, told) -> None: makes a `Case` and does it; `told` is the text of a refusal, whose remedy is to be
            applied, or "".
        says: what a refusal says to do: words that must be in it, of several kinds of refusal separated by "|".
        remedied: whether `use` applies the remedy, after which the label must be right.
    """

    words: str
    use: Callable[[Callable[..., Case], str], None]
    says: str = ""
    remedied: bool = False


HAND_OVER = "Pass mixed.images unchanged"
TOKENS = "prefix_tokens=|grid=(h, w)"
DROPPED = "patch dropout|grid=(h, w)"
BENDS = (
    Bend("clean forward after", clean_after),
    Bend("clean forward before, without gradient", clean_before),
    Bend("clean forward alone", clean_alone, "right after the forward on mixed.images", True),
    Bend("a flipped view after", two_views),
    Bend("mix, mix, forward, forward", two_batches),
    Bend("loss after the next mix", after_the_next, "right after model(mixed.images)", True),
    Bend("mixed and clean in one batch, either first", concatenated, "rows=slice(", True),
    Bend("mixed and clean in one batch, either first", partial(concatenated, first=False), "rows=slice(", True),
    Bend("a smaller second crop", smaller_crop),
    Bend("siamese", siamese),
    Bend("siamese", partial(siamese, whole=True)),
    Bend("frozen: the attention in eval mode", frozen, "set tm.reader.eval = True", True),
    Bend("all in eval mode", in_eval, "model.train()", True),
    Bend("model and TransMix copied in one deepcopy, or one pickle", copied),
    Bend("model and TransMix copied in one deepcopy, or one pickle", partial(copied, how=pickled)),
    Bend("an EMA copy run between", ema_between),
    Bend("an EMA copy run instead", ema_alone, "Call the model that is read", True),
    Bend("the model's own patch dropout", patch_dropout, f"{DROPPED}|{HAND_OVER}"),
    Bend("patches dropped late", dropped_tokens, DROPPED),
    Bend("patches dropped late", partial(dropped_tokens, another_grid=True), DROPPED),
    Bend("a sample dropped by the last block", dropped_samples, "set drop_path of this block to 0"),
    Bend("prompts before the patches", extra_tokens, TOKENS, True),
    Bend("prompts before the patches", partial(extra_tokens, another_grid=True), TOKENS, True),
    Bend("prompts after the patches", partial(extra_tokens, where="after"), TOKENS, True),
    Bend("prompts after the patches", partial(extra_tokens, where="after", another_grid=True), TOKENS, True),
    Bend("overlapping patches: half the stride", smaller_stride, "grid=(h, w)", True),
    Bend("H > W, W > H", partial(other_size, tall=True)),
    Bend("H > W, W > H", partial(other_size, tall=False)),
    *(
        Bend(f"{how} inside", partial(inside, how=how, whole=whole),
             "rows=slice(" if how == "run twice" else HAND_OVER, how == "run twice")
        for how in moved(2, 2, 2) for whole in (False, True)
    ),
    Bend("normalised between mix and model", partial(on_the_way, change=lambda images: images * 2 - 0.3, keeps=True)),
    Bend("permuted, or flipped, between mix and model",
         partial(on_the_way, change=lambda images: images.roll(1, 0), keeps=False), HAND_OVER),
    Bend("permuted, or flipped, between mix and model",
         partial(on_the_way, change=lambda images: images.flip(2), keeps=False), HAND_OVER),
    Bend("channels_last", channels_last),
    Bend("bfloat16 autocast", autocast),
    Bend("gradient checkpointing", checkpointed),
    Bend("torch.compile, one graph", compiled),
)  # fmt: skip
"""Uses with the same words are one row of the table, in which the worst answer counts."""
