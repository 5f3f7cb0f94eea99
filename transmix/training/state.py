"""The state of a run, shared by the loop, checkpoints, dumps and pictures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from transmix.attention import AttentionReader
from transmix.data.dataset import ImageData
from transmix.data.sampler import EpochSampler
from transmix.distributed import World
from transmix.recipes import Recipe
from transmix.runs.log import RunLog
from transmix.training.batches import Batches
from transmix.training.ema import WeightAverage
from transmix.training.step import TrainingStep


@dataclass(eq=False)
class RunState:
    """The parts of a run, and its progress.

    Attributes:
        recipe: settings.
        folder: run folder.
        world: rank and device of this process.
        data: the full data set.
        batches: this process's batches.
        bare: the model, neither wrapped nor compiled.
        average: EMA of its weights, if there is one.
        step: the training step with optimizer, scaler and meter.
        reader: attention reader, for labels or only for pictures; None if attention cannot be read.
        introduction: lines to print at the start.
        say: prints a line above the progress bar.
        log: log; only in the main process.
        step_number: number of finished optimizer steps.
        best: score, step, epoch and weights of the best evaluation.
        scores: scores of the last evaluation.
        reliability: reliability bins of the last evaluation, for "model" and "ema".
        reads: meter reads of this epoch.
        random_states: step number -> random state before it, for each step since the last read.
        pending_random_state: random state from a checkpoint, until the first step uses it.
        failed_saves: number of consecutive checkpoints that could not be written.
        log_rows: number of log rows at the checkpoint.
    """

    recipe: Recipe
    folder: Path
    world: World
    data: ImageData
    batches: Batches
    bare: nn.Module
    average: WeightAverage | None
    step: TrainingStep
    reader: AttentionReader | None
    introduction: list[str] = field(default_factory=list)
    say: Callable[[str], None] = print
    log: RunLog | None = None
    step_number: int = 0
    best: dict[str, Any] | None = None
    scores: dict[str, Any] | None = None
    reliability: dict[str, Any] = field(default_factory=dict)
    reads: list[dict[str, Any]] = field(default_factory=list)
    random_states: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    pending_random_state: dict[str, Tensor] | None = None
    failed_saves: int = 0
    log_rows: int | None = None

    @property
    def order(self) -> EpochSampler:
        """The sampler of the training images."""
        return self.batches.order

    @property
    def sharded(self) -> bool:
        """Whether weights are sharded over the processes."""
        return self.recipe.run.shard and self.world.size > 1

    @property
    def epochs(self) -> int:
        """Epochs of the whole run, cool-down included."""
        return self.recipe.optimization.epochs + self.recipe.optimization.cooldown_epochs

    @property
    def last_step(self) -> int:
        """Number of the step at which this run stops."""
        steps = self.epochs * self.order.steps_per_epoch
        return min(steps, self.recipe.run.max_steps or steps)
