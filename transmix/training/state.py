"""A run's state, in one place: what the loop, checkpoints, dumps and pictures share."""

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
    """What a run is made of, and how far it has come.

    Attributes:
        recipe: every setting.
        folder: run folder.
        world: this process among all.
        data: all of it.
        batches: this process's share of it.
        bare: the model, not wrapped, not compiled.
        average: EMA of its weights, if there is one.
        step: what an optimizer step changes: optimizer, scaler, meter.
        reader: of the model's attention, for labels or for pictures alone; None if it cannot be read.
        introduction: lines about what is trained, for the start.
        say: prints a line beside the progress bar.
        log: of the main process.
        step_number: optimizer steps that are done.
        best: score, step, epoch and weights of the best evaluation.
        scores: of the last evaluation.
        reliability: of the last evaluation, of "model" and "ema".
        reads: of the meter, in this epoch.
        random_states: generators before each step since the last read, by its number.
        pending_random_state: generators that a checkpoint held, until the first step takes them.
        failed_saves: checkpoints in a row that could not be written.
        log_rows: rows of the log that a checkpoint knew of.
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
        """In which the training images come."""
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
