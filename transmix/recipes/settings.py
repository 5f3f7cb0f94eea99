"""A recipe: every setting of a training run, as frozen dataclasses, filled from files and the command line.

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
    """The timm model, and how it runs."""

    model: str = "deit_small_patch16_224"
    """Name of a timm model; `transmix models` lists those that were measured."""
    model_options: dict[str, Option] = field(default_factory=dict)
    """More arguments for timm.create_model: patch_size, embed_dim, depth, depths=[2,2], ...
    On the command line they are added to the recipe's; NAME= removes one of the recipe's."""
    class_attention: bool = False
    """Replace the average pooling by a class-attention head, in models without a class token (Swin, PVT, ...)."""
    drop_path: float = 0.0
    """Stochastic depth: probability of dropping a block, rising linearly to this at the last block."""
    pretrained: bool = False
    """Start from the model's own published weights."""
    init: str | None = None
    """Start from the weights of another timm model (by name), of a file (.safetensors, or .pth and similar, read with
    weights_only) or of a run folder. The head is re-initialised if the classes differ; position embeddings are
    resized. A report is printed and saved in start.json. Weights that do not fit are an error. On the command line it
    replaces the recipe's pretrained; None: random weights."""
    linear_init: Literal["timm", "xavier"] = "timm"
    """Initialisation of linear layers: 'timm': the model's own, usually a standard deviation of 0.02 for any width;
    'xavier': scaled by width; models with only 64 channels need it, else they stay at chance for epochs.
    Weights loaded by pretrained or init are not changed."""
    amp: Literal["none", "bf16", "fp16", "auto"] = "none"
    """Autocast type. auto: bf16 on a GPU that computes in it, else none; the run records which."""
    compile: bool = False
    """torch.compile the model."""
    channels_last: bool = False
    """Keep images in channels-last memory format."""
    grad_checkpointing: bool = False
    """Gradient checkpointing: use less memory and more compute."""


@dataclass(frozen=True)
class Mixing:
    """How images and labels are mixed, and the loss on them."""

    mix: str = "transmix"
    """'none'; a mixing method that `transmix methods` lists; or several, such as mixup+cutmix: one is drawn per batch.
    'transmix' is mixup+cutmix with labels 'attention'; the names of other papers bring their labels too."""
    labels: str | None = None
    """Rule for the label weights that `transmix methods` lists. None: the rule of the paper named in `mix`, else
    area."""
    mix_options: dict[str, Option] = field(default_factory=dict)
    """Settings of a mixing method, NAME=VALUE, or METHOD.NAME=VALUE for several methods."""
    mix_weights: dict[str, Option] = field(default_factory=dict)
    """Relative probability of each of several methods, METHOD=WEIGHT; default: equal. For mixup+cutmix see
    switch_prob."""
    labels_options: dict[str, Option] = field(default_factory=dict)
    """Settings of the label rule, NAME=VALUE. attention: weight=0.5, the weight of attention against area, and
    downsample=nearest or fraction, how the box mask is downsampled to patches. With fraction, and of source: shift, how
    many pixels above and left of its patch a token looks; shift=model finds it. source: weight. line: slope. centre:
    weight, sigma."""
    mixup_alpha: float = 0.8
    """Beta(alpha, alpha) of Mixup; 0 disables it."""
    cutmix_alpha: float = 1.0
    """Beta(alpha, alpha) of CutMix; 0 disables it."""
    cutmix_minmax: tuple[float, float] | None = None
    """Side of CutMix's box as a fraction of the image side, minimum and maximum; replaces Beta."""
    correct_lam: bool = True
    """Recompute CutMix's lam from the box after clipping to the image, instead of the Beta draw."""
    prob: float = 1.0
    """Probability that a batch is mixed."""
    switch_prob: float = 0.5
    """Probability of CutMix instead of Mixup if both are on."""
    mode: Literal["batch", "pair", "elem"] = "batch"
    """Draw lam and box once per batch, per pair, or per image."""
    partner: Literal["flip", "random"] = "flip"
    """Mix row i with row B - 1 - i, or rows in random order."""
    mix_start: int = 0
    """Start mixing after N epochs."""
    mix_epochs: int | None = None
    """Mix only in the first N epochs; None: in all."""
    guide: Literal["model", "ema"] = "model"
    """Model that computes maps of the clean images, for methods and rules that need them: the trained model or its
    EMA."""
    module: str | None = None
    """Dotted name of the module whose attention is read; None: detected."""
    prefix_tokens: int | None = None
    """Number of tokens before the patches; None: detected."""
    grid: tuple[int, int] | None = None
    """Height and width of the grid of patches; None: detected."""
    loss: Literal["cross-entropy", "bce"] = "cross-entropy"
    """Softmax cross-entropy, or binary cross-entropy of every class."""
    smoothing: float = 0.1
    """Label smoothing, in [0, 1)."""
    bce_threshold: float | None = None
    """With loss bce: set targets above this to 1, others to 0 (DeiT III: 0)."""


@dataclass(frozen=True)
class Optimization:
    """AdamW, its learning rate schedule, and the EMA of the weights."""

    epochs: int = 300
    """Epochs of the cosine schedule, warm-up included."""
    cooldown_epochs: int = 0
    """Extra epochs at min_lr after the cosine schedule."""
    batch_size: int | None = 1024
    """Images per optimizer step, over all processes and accumulated micro-batches. None: at most 32 per micro-batch on
    a CPU and 64 on a GPU, fewer where data or memory is small; the run records the number."""
    accumulate: int = 1
    """Micro-batches per optimizer step and process."""
    lr: float = 1e-3
    """Peak learning rate for a batch of `lr_batch`."""
    lr_batch: int | None = None
    """Scale the learning rate by batch_size / lr_batch; None: no scaling."""
    min_lr: float = 1e-5
    """Learning rate at the end of the cosine."""
    warmup_lr: float = 1e-6
    """Learning rate at the first step."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up, part of `epochs`."""
    weight_decay: float = 0.05
    """Weight decay; not applied to biases, norms and tensors that the model exempts (class token, position
    embedding)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Betas of AdamW."""
    eps: float = 1e-8
    """Epsilon of AdamW."""
    clip_grad: float | None = None
    """Largest global norm of the gradients; larger ones are scaled down to it."""
    layer_decay: float | None = None
    """Multiply the learning rate by this per layer from the head down (fine-tuning)."""
    ema_decay: float | None = None
    """EMA decay per step; the EMA weights are evaluated too; None: no EMA."""
    ema_warmup: bool = True
    """EMA warm-up: update t uses the decay min(ema_decay, (1 + t) / (10 + t)). Without it, the EMA of a short run is
    still close to the random initial weights. A resumed run keeps its original choice."""

    @property
    def images_per_step(self) -> int:
        """batch_size once a run has chosen it.

        Raises:
            ValueError: it is None still.
        """
        if self.batch_size is None:
            raise ValueError("batch_size is None: a run chooses it when data and model are there")
        return self.batch_size


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
    """Distributed timeout in minutes."""
    threads: int | None = None
    """Number of CPU threads of torch; None: the cores not used by loader workers."""
    log_every: int = 50
    """Steps between two log lines of the loss; each one synchronises with the GPU."""
    eval_every: int = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    patience: int | None = None
    """Stop when the validation score that chooses the best checkpoint has not improved for N evaluations; None: train
    all epochs. The learning rate keeps the schedule of all epochs, so a run that stops early has not trained with the
    low rates at its end, which often raise the score most."""
    checkpoint_every: int | str | None = None
    """Save every N steps (500), minutes (15min) or epochs (2epochs). Also saves at the end of every epoch
    with steps or minutes; None: only at the end of every epoch. A better score is always saved."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep, besides the best."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    on_nonfinite: Literal["abort", "skip"] = "abort"
    """Action at a step with a NaN/Inf loss or gradient, which is never applied. abort: stop, and write a dump for
    transmix replay; skip: continue, unless more than max_nonfinite steps in a row are affected."""
    max_nonfinite: int = 10
    """Maximum number of consecutive NaN/Inf steps with on_nonfinite 'skip'; more stop the run."""
    max_steps: int | None = None
    """Stop after this number of optimizer steps, to try a recipe; None: train to the end."""


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
    """Parse 500, "500steps", "15min" or "2epochs"; None means every epoch.

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
