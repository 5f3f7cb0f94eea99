"""A recipe: every setting of a training run, as frozen dataclasses; files and command line fill the same fields.

Field names are unique over all sections, so that the command line can leave the section out (`--lr 1e-3`).
"""

import ast
import inspect
import re
import textwrap
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from transmix.data.settings import Augmentation, Data

Scalar = bool | int | float | str
Option = Scalar | tuple[Scalar, ...]
"""A value of settings that are not known beforehand: arguments of timm, of a mixing method, of a label rule."""


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

    mix: str = "transmix"
    """'none'; a mixing method that `transmix methods` lists; or several, as mixup+cutmix, of which each batch gets
    one. 'transmix' is mixup+cutmix with labels 'attention'; other papers' names bring their labels too."""
    labels: str | None = None
    """How labels are weighed: a rule that `transmix methods` lists. None: the one that the paper named in `mix` uses,
    else area."""
    mix_options: dict[str, Option] = field(default_factory=dict)
    """Settings of a mixing method, NAME=VALUE, or METHOD.NAME=VALUE where there are several methods."""
    mix_weights: dict[str, Option] = field(default_factory=dict)
    """How often each of several methods is drawn, METHOD=WEIGHT; else equally often. For Mixup and CutMix alone
    see switch_prob."""
    labels_options: dict[str, Option] = field(default_factory=dict)
    """Settings of the label rule, NAME=VALUE. attention: weight=0.5, the share of attention against area, and
    downsample=nearest or fraction, how the box comes down to patches. line: slope. centre: weight, sigma."""
    mixup_alpha: float = 0.8
    """Beta(alpha, alpha) of Mixup; 0 disables it."""
    cutmix_alpha: float = 1.0
    """Beta(alpha, alpha) of CutMix; 0 disables it."""
    cutmix_minmax: tuple[float, float] | None = None
    """Sides of CutMix's box as fractions of the image's, from and to, in place of Beta."""
    correct_lam: bool = True
    """Take CutMix's label from the box that is left inside the image, not from the Beta draw."""
    prob: float = 1.0
    """Probability that a batch is mixed."""
    switch_prob: float = 0.5
    """Probability of CutMix rather than Mixup where both are on."""
    mode: Literal["batch", "pair", "elem"] = "batch"
    """One draw for a batch, for each pair, or for each image."""
    partner: Literal["flip", "random"] = "flip"
    """Mix row i with row B - 1 - i, or rows in random order."""
    mix_start: int = 0
    """Epochs before mixing begins."""
    mix_epochs: int | None = None
    """Number of epochs, from the first, that may mix; None: all."""
    guide: Literal["model", "ema"] = "model"
    """What looks at the clean images, for methods and rules that need it: the model in training or its EMA."""
    module: str | None = None
    """Dotted name of the module whose attention is read; None: it is found in the model."""
    prefix_tokens: int | None = None
    """Number of tokens before the patches; None: as the model says."""
    grid: tuple[int, int] | None = None
    """Height and width of the grid of patches; None: as the model says."""
    loss: Literal["cross-entropy", "bce"] = "cross-entropy"
    """Softmax cross-entropy, or binary cross-entropy of every class."""
    smoothing: float = 0.1
    """Label smoothing, in [0, 1)."""
    bce_threshold: float | None = None
    """With loss bce: turn targets above this into 1, others into 0 (DeiT III: 0)."""


@dataclass(frozen=True)
class Optimization:
    """AdamW, its learning rate schedule, and the EMA of the weights."""

    epochs: int = 300
    """Epochs over which the learning rate falls along a cosine."""
    cooldown_epochs: int = 0
    """Epochs at min_lr after those of `epochs`."""
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
    """Weight decay; not applied to biases, norms and what the model exempts (class token, position embedding)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Betas of AdamW."""
    eps: float = 1e-8
    """Epsilon of AdamW."""
    clip_grad: float | None = None
    """Largest global norm of the gradients; larger ones are scaled down to it."""
    layer_decay: float | None = None
    """Multiply the learning rate by this per layer from the head down (fine-tuning)."""
    ema_decay: float | None = None
    """Decay per step of an EMA of the weights, which is evaluated too; None: no EMA."""
    ema_warmup: bool = True
    """Warm the EMA up: update t has the decay min(ema_decay, (1 + t) / (10 + t)). Without it the EMA of a short run is
    mostly its random start. A resumed run keeps what it was started with."""


@dataclass(frozen=True)
class Run:
    """Seeds, logging and checkpoints."""

    seed: int = 0
    """Random seed of the whole run."""
    deterministic: bool = False
    """Use deterministic kernels only."""
    device: str = "auto"
    """Device to train on: cpu, cuda, ...; auto: cuda if there is a GPU, else cpu."""
    shard: bool = False
    """Shard weights, gradients, optimizer state and EMA over the processes (FSDP2), instead of a full copy in each
    (DDP). Results and checkpoints are the same; in one process it changes nothing."""
    wait_minutes: float = 10.0
    """Distributed timeout in minutes: a process that waits longer for the others fails."""
    threads: int | None = None
    """Number of CPU threads of torch; None: the cores that loader workers leave free."""
    log_every: int = 50
    """Steps between two log lines of the loss; a read makes the CPU wait for the GPU."""
    eval_every: int = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    checkpoint_every: int | str | None = None
    """Save every N steps (500), minutes (15min) or epochs (2epochs). With steps or minutes also at the end of every
    epoch; None: only then. A better score is always saved."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep, besides the best."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    on_nonfinite: Literal["abort", "skip"] = "abort"
    """What to do at a step whose loss or gradient has NaN or Inf; it is never applied. abort: stop, and write what
    transmix replay needs; skip: go on, unless it happens in more than max_nonfinite steps in a row."""
    max_nonfinite: int = 10
    """Steps in a row with NaN or Inf after which on_nonfinite 'skip' stops as well."""
    max_steps: int | None = None
    """Stop after this number of optimizer steps, to try a recipe out; None: at the end."""


@dataclass(frozen=True)
class Recipe:
    """All settings of a run."""

    data: Data = field(default_factory=Data)
    augmentation: Augmentation = field(default_factory=Augmentation)
    model: Model = field(default_factory=Model)
    mixing: Mixing = field(default_factory=Mixing)
    optimization: Optimization = field(default_factory=Optimization)
    run: Run = field(default_factory=Run)


@dataclass(frozen=True)
class Cadence:
    """How often to save: one of three is set; the others are None."""

    steps: int | None = None
    minutes: float | None = None
    epochs: int | None = None

    def at_step(self, step: int) -> bool:
        """Whether the end of this step, counted from 1, is a time to save."""
        return self.steps is not None and step % self.steps == 0

    def at_epoch(self, epoch: int) -> bool:
        """Whether the end of this epoch, counted from 1, is a time to save."""
        return self.epochs is None or epoch % self.epochs == 0


def parse_cadence(text: int | str | None) -> Cadence:
    """Understand 500, "500steps", "15min" or "2epochs"; None is every epoch.

    Raises:
        ValueError: anything else.
    """
    if text is None:
        return Cadence(epochs=1)
    match = re.fullmatch(r"\s*(\d+(\.\d+)?)\s*(|steps?|epochs?|min|minutes?)\s*", str(text))
    minutes = match is not None and match[3].startswith("min")
    if match is None or float(match[1]) <= 0 or (match[2] and not minutes):
        raise ValueError(f"must be a number of steps, or like 15min or 2epochs, not {text!r}")
    if minutes:
        return Cadence(minutes=float(match[1]))
    return Cadence(epochs=int(match[1])) if match[3].startswith("epoch") else Cadence(steps=int(match[1]))


def flat(recipe: Recipe) -> dict[str, Any]:
    """Return setting -> value, without the sections."""
    return {name: value for section in asdict(recipe).values() for name, value in section.items()}


def meanings(kind: type) -> dict[str, str]:
    """Return the text below each field of a dataclass, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    return {
        ast.unparse(before.target): " ".join(ast.literal_eval(after.value).split())
        for before, after in pairwise(body)
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr)
    }
