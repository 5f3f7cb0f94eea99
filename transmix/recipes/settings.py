"""A recipe: every setting of a training run, as frozen dataclasses; files and command line fill the same fields.

Field names are unique over all sections, so that the command line can leave the section out (`--lr 1e-3`).
"""

from dataclasses import dataclass, field
from typing import Literal

from transmix.recipes.cadence import parse_cadence

Scalar = bool | int | float | str
Option = Scalar | tuple[Scalar, ...]


class RecipeError(Exception):
    """A recipe that cannot be run as it stands: which setting, what is wrong, what to do."""


@dataclass(frozen=True)
class Data:
    """Where the images come from."""

    data: str | None = None
    """'digits' (built in), or a folder: train/<class>/*.jpg with val/, CIFAR's files (binary or python), idx files as
    MNIST's, Oxford-IIIT Pet, Parquet shards, tar shards; with --download, a name."""
    image_size: int = 224
    """Side of the square images that the model gets, in pixels."""
    train_images: int | None = None
    """Train on only so many images, equally many of each class as far as they go; the same ones whatever the seed."""
    workers: int | None = None
    """Processes that load images; None: 0 for small images in memory, else what the cores allow."""
    cache_gb: float = 4.0
    """Decode a split once and keep it if it takes at most this much memory (per process)."""
    on_device: bool = False
    """Keep all images decoded on the device, and crop, flip, jitter and erase there, a batch at once: for small images,
    with rand_augment None. Other draws of the same distribution than without. On a GPU --compile compiles this too."""
    download: str | None = None
    """A folder to fetch the published data set that `data` names into, once, and to read it from: cifar10, cifar100,
    mnist, fashion-mnist, emnist-balanced (-letters, -digits, -byclass, -bymerge, -mnist), oxford-pets."""
    held_out: str | None = None
    """The part to validate on and to choose the best weights by: the name of its folder, or how its files' names begin;
    None: the first there is of val, valid, validation, validate, dev, eval, evaluation, test, testing."""
    image_column: str | None = None
    """The column with the images in Parquet files; None: image or img, else the only one that is typed so."""
    label_column: str | None = None
    """The column with the labels in Parquet files; None: label, labels or fine_label, else the only ClassLabel."""
    grey_range: tuple[float, float] | None = None
    """The values that become black and white in grey images of more than 8 bits (16-bit PNG, float TIFF); None: the
    least and the greatest of all training images. The run keeps it, and evaluation, export and app use the same."""
    on_bad_image: Literal["error", "skip"] = "error"
    """'skip': go on without images that cannot be read. In training another one stands in, which follows from seed,
    epoch and index; in evaluation they do not count. RUN/bad_images.txt lists them."""
    max_bad_images: int = 100
    """How many different images a run may skip, training and validation together; more are an error."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, sample by sample, and how evaluation crops."""

    crop: Literal["none", "pad", "random-resized"] = "random-resized"
    """'pad': shift by up to `pad` pixels (small images); 'random-resized': Inception's crop."""
    pad: int = 4
    """Largest shift of crop 'pad', in pixels; what comes in is mirrored."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random resized crop as a fraction of the image, from and to."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    """Aspect ratio (width / height) of the random resized crop, from and to."""
    flip: float = 0.5
    """Chance of a left-right flip."""
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's policy string, or None."""
    color_jitter: float = 0.0
    """Strength of brightness, contrast and saturation jitter; used where rand_augment is None."""
    random_erasing: float = 0.25
    """Chance of replacing a rectangle by noise (timm's mode 'pixel')."""
    repeats: int = 1
    """Repeated augmentation: how often an image appears in an epoch, differently augmented (DeiT: 3)."""
    eval_crop: float = 0.875
    """Evaluation resizes the shorter side to image_size / eval_crop and crops the centre."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from each colour channel in 0..1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides each colour channel."""


@dataclass(frozen=True)
class Model:
    """The network, from timm, and how it runs."""

    model: str = "deit_small_patch16_224"
    """Name of a timm model."""
    model_options: dict[str, Option] = field(default_factory=dict)
    """More arguments for timm.create_model: patch_size, embed_dim, depth, depths=[2,2], ...
    On the command line they add to the recipe's; NAME= takes one of the recipe's away."""
    class_attention: bool = False
    """Put a class-attention head in place of the average pooling, in models without a class token (Swin, PVT, ...)."""
    drop_path: float = 0.0
    """Stochastic depth: chance of leaving out a block, rising linearly to this at the last block."""
    pretrained: bool = False
    """Start from the model's own published weights."""
    init: str | None = None
    """Start from the weights of another timm model (by name), of a file (.safetensors, or .pth and the like, read with
    weights_only) or of a run's folder. The head is made anew if the classes differ, position embeddings are resized;
    what was loaded is printed and kept in start.json, and weights that do not fit are an error."""
    linear_init: Literal["timm", "xavier"] = "timm"
    """What the weights of linear layers start from: 'timm', as the model draws them, most with a standard deviation of
    0.02 whatever their width; 'xavier', by width, without which models of 64 channels stay at chance for epochs.
    Weights that pretrained or init bring stay as they are."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    """Autocast type."""
    compile: bool = False
    """torch.compile the model."""
    channels_last: bool = False
    """Keep images in channels-last memory format."""
    grad_checkpointing: bool = False
    """Trade compute for memory."""


@dataclass(frozen=True)
class Mixing:
    """How images and labels are mixed, and the loss on them."""

    mix: Literal["none", "mixup", "cutmix", "mixup+cutmix", "transmix"] = "transmix"
    """'transmix': the switch of Mixup and CutMix, the boxes' labels by attention."""
    mixup_alpha: float = 0.8
    """Mixup's ratio comes from Beta(alpha, alpha); 0 turns Mixup off."""
    cutmix_alpha: float = 1.0
    """CutMix's likewise."""
    mix_prob: float = 1.0
    """Chance that a batch is mixed at all."""
    switch_prob: float = 0.5
    """Chance of CutMix rather than Mixup where both are on."""
    mix_mode: Literal["batch", "pair", "elem"] = "batch"
    """One draw for a batch, for each pair, or for each image."""
    mix_epochs: int | None = None
    """Mix in the first so many epochs only; None: in all."""
    attention_weight: float = 0.5
    """Share of attention against area in the label; 0.5 is the paper's."""
    downsample: Literal["nearest", "fraction"] = "nearest"
    """How the box comes down to patches: the patch's top left pixel (the paper), or its covered fraction."""
    loss: Literal["cross-entropy", "bce"] = "cross-entropy"
    """Softmax cross-entropy, or binary cross-entropy of every class."""
    smoothing: float = 0.1
    """Label smoothing."""
    bce_threshold: float | None = None
    """With loss bce: turn targets above this into 1, others into 0 (DeiT III: 0)."""


@dataclass(frozen=True)
class Optimization:
    """AdamW, its schedule, and the running average of the weights."""

    epochs: int = 300
    """Epochs over which the learning rate falls along a cosine."""
    cooldown_epochs: int = 0
    """More epochs at min_lr."""
    batch_size: int = 1024
    """Images per optimizer step, over all processes and accumulated micro-batches."""
    accumulate: int = 1
    """Micro-batches per optimizer step and process."""
    lr: float = 1e-3
    """Peak learning rate for a batch of `lr_batch`."""
    lr_batch: int | None = None
    """The learning rate is scaled by batch_size / lr_batch; None: taken as it is."""
    min_lr: float = 1e-5
    """Learning rate at the end of the cosine."""
    warmup_lr: float = 1e-6
    """Learning rate at the first step."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up, part of `epochs`."""
    weight_decay: float = 0.05
    """Not applied to biases, norms and what the model exempts (class token, position embedding)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's."""
    eps: float = 1e-8
    """AdamW's."""
    clip_grad: float | None = None
    """Scale gradients down to this global norm."""
    layer_decay: float | None = None
    """Multiply the learning rate by this per layer from the head down (fine-tuning)."""
    ema_decay: float | None = None
    """Keep an average of the weights with this decay per step, and evaluate it as well."""
    ema_warmup: bool = True
    """Use min(ema_decay, (1 + t) / (10 + t)) as the decay of update t: else a short run's average is mostly its random
    start. A run that was started without goes on without when it is resumed."""


@dataclass(frozen=True)
class Run:
    """Seeds, logging and checkpoints."""

    seed: int = 0
    """Everything random follows from it."""
    deterministic: bool = False
    """Refuse kernels that do not give the same bits every time."""
    device: str = "auto"
    """'auto': cuda where there is one, else cpu."""
    shard: bool = False
    """Cut weights, gradients, optimizer state and average up over the processes (FSDP2) instead of keeping all of
    them in each (DDP). Results and checkpoints are the same; in one process it changes nothing."""
    wait_minutes: float = 10.0
    """How long a process waits for the others before it takes them for dead and fails."""
    threads: int | None = None
    """torch's CPU threads; None: the cores that the loader workers leave."""
    log_every: int = 50
    """Steps between two reads of the loss."""
    eval_every: int = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    checkpoint_every: int | str | None = None
    """Save every so many steps (500), minutes (15min) or epochs (2epochs). With steps and minutes also at the end of
    every epoch; None: then alone. A better score is always saved."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay, besides the best."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    on_nonfinite: Literal["abort", "skip"] = "abort"
    """A step whose loss or gradient is not finite is held back. 'abort': then stop, and keep what replays it;
    'skip': go on, unless it happens in more than max_nonfinite steps in a row."""
    max_nonfinite: int = 10
    """See on_nonfinite."""
    max_steps: int | None = None
    """Stop after so many optimizer steps (to try a recipe out)."""


@dataclass(frozen=True)
class Recipe:
    """All settings of a run."""

    data: Data = field(default_factory=Data)
    augmentation: Augmentation = field(default_factory=Augmentation)
    model: Model = field(default_factory=Model)
    mixing: Mixing = field(default_factory=Mixing)
    optimization: Optimization = field(default_factory=Optimization)
    run: Run = field(default_factory=Run)


def check_recipe(recipe: Recipe) -> None:
    """Refuse settings that contradict each other, before anything is loaded.

    Raises:
        RecipeError: the setting and what to do about it.
    """
    data, augmentation, mixing, optimization = recipe.data, recipe.augmentation, recipe.mixing, recipe.optimization
    if data.data is None:
        raise RecipeError("no data: give --data digits, or a folder of images, CIFAR files or Parquet shards")
    for name, value in {
        "image_size": data.image_size,
        "epochs": optimization.epochs,
        "batch_size": optimization.batch_size,
        "accumulate": optimization.accumulate,
        "repeats": augmentation.repeats,
        "log_every": recipe.run.log_every,
        "eval_every": recipe.run.eval_every,
        "keep_checkpoints": recipe.run.keep_checkpoints,
        "max_nonfinite": recipe.run.max_nonfinite,
    }.items():
        if value < 1:
            raise RecipeError(f"{name} must be at least 1, not {value}")
    try:
        parse_cadence(recipe.run.checkpoint_every)
    except ValueError as error:
        raise RecipeError(f"checkpoint_every {error}") from error
    if data.on_device and augmentation.rand_augment is not None:
        raise RecipeError(
            "on_device augments whole batches, which rand_augment cannot; give --rand-augment None, or leave "
            "--on-device out"
        )
    check_grey_range(data.grey_range)
    if data.max_bad_images < 0:
        raise RecipeError(f"max_bad_images must be at least 0, not {data.max_bad_images}")
    if optimization.warmup_epochs > optimization.epochs:
        raise RecipeError(f"warmup_epochs {optimization.warmup_epochs} exceeds epochs {optimization.epochs}")
    if not 0 <= mixing.smoothing < 1:
        raise RecipeError(f"smoothing must lie in [0, 1), not {mixing.smoothing}")
    for name, value in {
        "mix_prob": mixing.mix_prob,
        "switch_prob": mixing.switch_prob,
        "flip": augmentation.flip,
        "random_erasing": augmentation.random_erasing,
    }.items():
        if not 0 <= value <= 1:
            raise RecipeError(f"{name} is a probability, not {value}")
    if not 0 < recipe.run.wait_minutes < float("inf"):
        raise RecipeError(f"wait_minutes must be a number above 0, not {recipe.run.wait_minutes}")
    for name, value in {
        "lr": optimization.lr,
        "min_lr": optimization.min_lr,
        "warmup_lr": optimization.warmup_lr,
        "weight_decay": optimization.weight_decay,
        "mixup_alpha": mixing.mixup_alpha,
        "cutmix_alpha": mixing.cutmix_alpha,
        "cache_gb": data.cache_gb,
    }.items():
        if not 0 <= value < float("inf"):
            raise RecipeError(f"{name} must be a number of at least 0, not {value}")
    if optimization.ema_decay is not None and not 0 <= optimization.ema_decay < 1:
        raise RecipeError(f"ema_decay must lie in [0, 1), not {optimization.ema_decay}")
    if not 0 <= mixing.attention_weight <= 1:
        raise RecipeError(f"attention_weight is a share in [0, 1], not {mixing.attention_weight}")
    alphas = {"mixup": mixing.mixup_alpha, "cutmix": mixing.cutmix_alpha}
    if mixing.mix in alphas and alphas[mixing.mix] == 0:
        raise RecipeError(f"{mixing.mix}_alpha 0 turns off what --mix {mixing.mix} asks for")
    if mixing.mix == "mixup+cutmix" and not any(alphas.values()):
        raise RecipeError("mixup_alpha and cutmix_alpha are both 0: nothing to mix with; use --mix none")
    if not 0 < augmentation.eval_crop <= 1:
        raise RecipeError(f"eval_crop is a fraction in (0, 1], not {augmentation.eval_crop}")
    if mixing.bce_threshold is not None and mixing.loss != "bce":
        raise RecipeError(f"bce_threshold needs --loss bce, but the loss is {mixing.loss}")
    _check_ranges(recipe)
    if mixing.mix == "transmix":
        _check_transmix_does_something(mixing)


def _check_ranges(recipe: Recipe) -> None:
    """Refuse numbers that would only fail once the run has begun, or train something else without a word."""
    data, augmentation, optimization, run = recipe.data, recipe.augmentation, recipe.optimization, recipe.run
    for name, value, least in (
        ("train_images", data.train_images, 1),
        ("max_steps", run.max_steps, 1),
        ("threads", run.threads, 1),
        ("lr_batch", optimization.lr_batch, 1),
        ("workers", data.workers, 0),
        ("pad", augmentation.pad, 0),
        ("color_jitter", augmentation.color_jitter, 0),
        ("mix_epochs", recipe.mixing.mix_epochs, 0),
        ("cooldown_epochs", optimization.cooldown_epochs, 0),
        ("warmup_epochs", optimization.warmup_epochs, 0),
    ):
        if value is not None and not value >= least:
            raise RecipeError(f"{name} must be at least {least}, not {value}")
    for name, value in (
        ("eps", optimization.eps),
        ("clip_grad", optimization.clip_grad),
        ("layer_decay", optimization.layer_decay),
        *(("std", value) for value in augmentation.std),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise RecipeError(f"{name} must be a number above 0, not {value}")
    for name, value in (("drop_path", recipe.model.drop_path), *(("betas", value) for value in optimization.betas)):
        if not 0 <= value < 1:
            raise RecipeError(f"{name} must lie in [0, 1), not {value}")
    for name, (low, high), most in (
        ("crop_scale", augmentation.crop_scale, 1.0),
        ("crop_ratio", augmentation.crop_ratio, float("inf")),
    ):
        if not 0 < low <= high <= most:
            limit = " and at most 1" if most == 1 else ""
            raise RecipeError(f"{name} needs two numbers above 0{limit}, the lower first, not {low:g} {high:g}")


def check_grey_range(grey: tuple[float, float] | None) -> None:
    """Refuse a grey range that is none.

    Raises:
        RecipeError: black is not below white, or one is not finite.
    """
    if grey is not None and not -float("inf") < grey[0] < grey[1] < float("inf"):
        raise RecipeError(f"grey_range needs two numbers, black below white, not {grey[0]:g} {grey[1]:g}")


def _check_transmix_does_something(mixing: Mixing) -> None:
    reasons = {
        "cutmix_alpha 0 draws no box": mixing.cutmix_alpha == 0,
        "switch_prob 0 makes every mixed batch Mixup, which has no box": mixing.switch_prob == 0
        and mixing.mixup_alpha > 0,
        "mix_prob 0 mixes no batch": mixing.mix_prob == 0,
        "mix_epochs 0 mixes no batch": mixing.mix_epochs == 0,
        "attention_weight 0 leaves the label to the area": mixing.attention_weight == 0,
        "bce_threshold makes targets 0 or 1, so how much of a label each image gets is lost": mixing.bce_threshold
        is not None,
    }
    for reason, holds in reasons.items():
        if holds:
            raise RecipeError(f"TransMix would change nothing here: {reason}. Change that, or train with another --mix")
