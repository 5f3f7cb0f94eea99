"""The training run: epochs of steps, evaluation, checkpoints, and going on where a run stopped."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transmix import distributed
from transmix.attention import AttentionError, AttentionReader
from transmix.data.bad_images import bad_images
from transmix.data.class_names import class_name
from transmix.data.dataset import ImageData, printable
from transmix.data.seeding import derive_seed
from transmix.data.source import in_classes, load_data
from transmix.distributed import World
from transmix.evaluation.evaluate import evaluate
from transmix.metrics import METRICS, added_metrics, in_log
from transmix.models.build import AMP, check_forward, normaliser, start_model
from transmix.recipes import Recipe, RecipeError, check_recipe, resolved
from transmix.recipes.cadence import parse_cadence
from transmix.recipes.mixing import mixes_in, title
from transmix.runs import folder as run_folder
from transmix.runs.checkpoint import load_checkpoint, random_state, set_random_state
from transmix.runs.log import RunLog
from transmix.runs.weights import better_weights, ema_is_far_below, gap, start_weights
from transmix.training.batches import Batches, prepare_batches
from transmix.training.checkpoint_state import choose_checkpoint, restore, save
from transmix.training.dump import write_dump
from transmix.training.ema import WeightAverage, a_copy
from transmix.training.nonfinite import NotFiniteError
from transmix.training.optimizer import build_optimizer, lr_at
from transmix.training.probe_images import draw_boxes, keep_examples
from transmix.training.progress import Progress
from transmix.training.sharding import shard
from transmix.training.state import RunState
from transmix.training.step import TrainingStep, build_transmix
from transmix.training.stopping import StoppedError, Watch


def train(
    recipe: Recipe,
    out: str | os.PathLike[str],
    resume: bool = False,
    at_end: Callable[[Path], object] | None = None,
) -> dict[str, Any]:
    """Train as a recipe says, and leave everything in the folder `out`.

    Args:
        recipe: every setting.
        out: the run folder. It must not exist, unless `resume` is given: then an absent one is started, a partial one
            gone on with, and a finished one left as it is.
        resume: see `out`.
        at_end: called with the folder of the finished run, in the main process; whatever it raises is printed.

    Returns:
        The run's summary: the last epoch's scores and the best.

    Raises:
        RecipeError, DataError, RunError, AttentionError: what was asked for cannot be done; nothing was overwritten.
        NotFiniteError: training diverged.
        LostProcessError: another process failed, or does not answer.
        StoppedError: a signal asked for it; a checkpoint was written.
    """
    check_recipe(recipe)
    recipe = resolved(recipe)
    if recipe.run.tensorboard and find_spec("tensorboard") is None:
        raise RecipeError(
            "tensorboard is not installed: pip install 'transmix[tensorboard]', or leave --tensorboard out"
        )
    folder = Path(out)
    world = distributed.start(recipe.run.device, recipe.run.wait_minutes)
    try:
        with distributed.losing_others(world, "--resume goes on from the last checkpoint"):
            asked, recipe = recipe, run_folder.as_started(folder, recipe)
            changed = run_folder.check_run(folder, recipe, resume or world.restarted)
            distributed.wait_for_all(world)  # before the first process writes what the others look for
            if run_folder.is_finished(folder, recipe.run.max_steps, changed):
                if world.is_main:
                    print(f"{folder} is finished already")
                return json.loads((folder / "summary.json").read_text())
            checkpoint, said = choose_checkpoint(folder, world)
            notices = [run_folder.schedule_notice(changed), run_folder.younger_notice(asked, recipe)]
            for line in [*said, *filter(None, notices if world.is_main else [])]:
                print(line, flush=True)
            with Watch(world, parse_cadence(recipe.run.checkpoint_every).minutes) as watch:
                run = TrainingRun(recipe, folder, world, checkpoint, watch)
                summary = run.finish()
                if at_end is not None and world.is_main:
                    _call(at_end, folder)
                distributed.wait_for_all(world)
                return summary
    finally:
        distributed.stop()


class TrainingRun:
    """A run from its first step, or from a checkpoint, to its summary.

    Args:
        recipe: every setting, checked.
        folder: of the run; written once data and model are known to be good.
        world: this process among all.
        checkpoint: folder of the checkpoint to go on from.
        watch: for signals, and for the time of the next checkpoint.
    """

    def __init__(self, recipe: Recipe, folder: Path, world: World, checkpoint: Path | None, watch: Watch):
        self.recipe, self.folder, self.world, self.watch = recipe, folder, world, watch
        self.cadence = parse_cadence(recipe.run.checkpoint_every)
        self.sharded = recipe.run.shard and world.size > 1
        torch.manual_seed(recipe.run.seed)
        if recipe.run.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        self.bad = bad_images(recipe.data, folder)
        data = self._load_data(resumed=checkpoint is not None)
        batches = prepare_batches(recipe, data, self.bad, world)
        epochs = recipe.optimization.epochs + recipe.optimization.cooldown_epochs
        self.per_epoch = batches.order.steps_per_epoch
        self.total_steps = epochs * self.per_epoch
        self.state = self._prepare_model(data, batches, checkpoint is None)
        torch.manual_seed(derive_seed(recipe.run.seed, "model", world.rank))  # dropout differs between processes
        self.scores: dict[str, Any] | None = None
        self.reliability: dict[str, Any] = {}
        if checkpoint is not None:
            restore(self.state, load_checkpoint(checkpoint))
        if world.is_main:
            run_folder.write_start(folder, recipe, data, world, self.start)
            self.state.log = RunLog(folder, self.state.step_number, recipe.run.tensorboard, self.state.log_rows)
        distributed.wait_for_all(world)

    def _load_data(self, resumed: bool) -> ImageData:
        settings, seed, folder = self.recipe.data, self.recipe.run.seed, self.folder
        if not resumed:
            return load_data(settings, seed)
        data = load_data(settings, seed, run_folder.read_grey_range(folder), run_folder.read_choice(folder))
        classes = run_folder.read_classes(folder)
        if sorted(map(class_name, classes)) != sorted(map(class_name, data.classes)):
            raise run_folder.RunError(f"{data.name} has other classes than the run in {folder}; resume on its data")
        return in_classes(classes, data)

    def _prepare_model(self, data: ImageData, batches: Batches, first_time: bool) -> RunState:
        recipe, world = self.recipe, self.world
        init = start_weights(recipe.model.init) if first_time else None
        settings = replace(recipe.model, pretrained=recipe.model.pretrained and first_time, init=init)
        bare, self.start = start_model(settings, len(data.classes), recipe.data.image_size, data.classes)
        check_forward(bare, recipe.data.image_size, len(data.classes))
        # FSDP2 takes contiguous weights alone; the images' format is what convolutions follow.
        last = recipe.model.channels_last and not self.sharded
        memory = torch.channels_last if last else torch.preserve_format
        bare = bare.to(device=world.device, memory_format=memory)  # type: ignore[call-overload]
        tm = build_transmix(recipe.mixing, bare)
        reader = tm.reader or self._reader_for_pictures(bare)
        decay = recipe.optimization.ema_decay
        averaged = a_copy(bare) if decay is not None else None
        if self.sharded:
            for one in filter(None, (bare, averaged)):
                shard(one, world)
        optimizer = build_optimizer(bare, recipe.optimization)
        warmup = recipe.optimization.ema_warmup
        average = WeightAverage(bare, decay, averaged, warmup=warmup) if decay is not None else None
        model = torch.compile(bare) if recipe.model.compile else bare
        wrapped: Any = model if self.sharded else distributed.wrap(model, world)  # type: ignore[arg-type]
        mean, std = recipe.augmentation.mean, recipe.augmentation.std
        normalise = normaliser(mean, std, world.device, recipe.model.channels_last)
        step = TrainingStep(wrapped, tm, optimizer, average, normalise, recipe, world.device, world.rank)
        return RunState(recipe, self.folder, world, data, batches, bare, average, step, reader)

    def _reader_for_pictures(self, bare: nn.Module) -> AttentionReader | None:
        mixing = self.recipe.mixing
        try:
            return AttentionReader(
                bare, mixing.module, prefix_tokens=mixing.prefix_tokens, grid=mixing.grid, training=False
            )
        except AttentionError:
            return None

    def finish(self) -> dict[str, Any]:
        """Train to the end and return the summary."""
        optimization, run, state = self.recipe.optimization, self.recipe.run, self.state
        epochs = optimization.epochs + optimization.cooldown_epochs
        last_step = min(self.total_steps, run.max_steps or self.total_steps)
        batch = optimization.batch_size
        self.progress = Progress(last_step, state.step_number, epochs, batch, not self.world.is_main)
        state.say = self.progress.say
        said = [self._introduction(), *([] if self.start is None else [str(self.start)]), *state.data.notes]
        if self.recipe.model.compile:
            said.append("compiling the model at the first step takes a minute or more; --no-compile leaves it out")
        for line in said:
            state.say(line)
        if state.reads and state.step_number % self.per_epoch == 0:  # stopped while it was evaluated
            self._end_epoch(state.step_number // self.per_epoch - 1, None, state.step_number == last_step)
        while state.step_number < last_step:
            epoch = state.step_number // self.per_epoch
            rate = self._train_epoch(epoch, last_step)
            self._end_epoch(epoch, rate, last=state.step_number == last_step)
        self.progress.close()
        return self._close()

    def _train_epoch(self, epoch: int, last_step: int) -> float:
        """Train to the end of the epoch, or to the last step; return images per second."""
        recipe, per_epoch, state = self.recipe, self.per_epoch, self.state
        mix = mixes_in(recipe.mixing, epoch)
        first_step = state.step_number
        last_mixed = min((last_step - 1) // per_epoch, (recipe.mixing.mix_epochs or last_step) - 1)
        picture = "last_boxes.png" if epoch and epoch == last_mixed else "first_boxes.png"
        state.step.keep_boxes = picture == "last_boxes.png" or not (self.folder / "first_boxes.png").exists()
        state.order.start_at(epoch, first_step % per_epoch)
        micro_batches = iter(state.batches.training)
        self._set_random_state()
        started = time.perf_counter()
        while step_batches := list(islice(micro_batches, recipe.optimization.accumulate)):
            lr = lr_at(state.step_number, per_epoch, recipe.optimization)
            if recipe.run.on_nonfinite == "abort":
                state.random_states[state.step_number + 1] = random_state(self.world.device)
            state.step(state.step_number, step_batches, lr, mix)
            state.step_number += 1
            self.progress.advance(epoch)
            draw_boxes(state, picture)
            at_end = state.step_number in (last_step, (epoch + 1) * per_epoch)
            signal, due = self.watch.look(state.step_number)
            save_now = signal or due or self.cadence.at_step(state.step_number)
            if at_end or save_now or state.step_number % recipe.run.log_every == 0:
                self._read_meter(epoch, lr)
            if at_end:
                break
            if save_now:
                save(state, last=bool(signal))
                self.watch.has_saved()
            if signal:
                raise StoppedError(signal, state.step_number)
        return (state.step_number - first_step) * recipe.optimization.batch_size / (time.perf_counter() - started)

    def _set_random_state(self) -> None:
        # Only now that the loader's iterator exists, so that nothing draws between here and the first step.
        state = self.state
        if state.pending_random_state is not None:
            set_random_state(state.pending_random_state, self.world.device)
            state.pending_random_state = None

    def _read_meter(self, epoch: int, lr: float) -> None:
        """Read the meter and log it; stop, or say so, if a step since the last read was not finite."""
        state = self.state
        before = state.reads[-1]["step"] if state.reads else epoch * self.per_epoch
        values: dict[str, Any] = state.step.meter.read(self.world)
        self._check_finite(values)
        state.random_states.clear()
        state.reads.append({"step": state.step_number, "steps": state.step_number - before, **values})
        self.progress.show(values)
        if state.log is not None:
            state.log.write("train", state.step_number, {"epoch": epoch + 1, "lr": lr, **values})

    def _check_finite(self, values: dict[str, Any]) -> None:
        state = self.state
        count = state.step.not_finite.read(self.world)
        if not count.steps:
            return
        run = self.recipe.run
        if run.on_nonfinite == "abort":
            raise NotFiniteError(write_dump(state, count.first))
        if count.in_a_row > run.max_nonfinite:
            raise NotFiniteError(
                f"loss or gradient was not finite in {count.in_a_row} steps in a row, up to step {state.step_number}; "
                f"max_nonfinite allows {run.max_nonfinite}. All were held back; --resume goes on from the last "
                f"checkpoint"
            )
        values["held_back"] = count.steps
        state.say(f"held back {count.steps} steps that were not finite, the first at step {count.first}")

    def _end_epoch(self, epoch: int, images_per_second: float | None, last: bool) -> None:
        """Evaluate, log and save; `images_per_second` is None where the epoch's steps were another process's."""
        row = {"epoch": epoch + 1, **self._epoch_means()}
        if images_per_second is not None:
            row["images_per_second"] = round(images_per_second, 1)
        better = False
        if last or (epoch + 1) % self.recipe.run.eval_every == 0:
            try:
                row |= self._evaluate()
            except StoppedError:
                save(self.state, last=True)  # reads are still there: the end of this epoch is yet to come
                raise
            weights = better_weights(row)
            score = row["ema_top1" if weights == "ema" else "top1"]
            better = self.state.best is None or score > self.state.best["score"]
            if better:
                self.state.best = {
                    "score": score,
                    "step": self.state.step_number,
                    "epoch": epoch + 1,
                    "weights": weights,
                }
            keep_examples(self.state, epoch)
            if last and ema_is_far_below(row):
                self.state.say(
                    f"warning: the average of the weights (EMA) is far below the weights that it follows ({gap(row)}); "
                    f"--weights auto takes the weights as trained. A lower --ema-decay follows sooner"
                )
        if self.world.device.type == "cuda":
            row["peak_memory"] = torch.cuda.max_memory_allocated(self.world.device)
        if count := self.bad.count():
            row["bad_images"] = count
        if self.state.log is not None:
            self.state.log.write("epoch", self.state.step_number, row)
            self.progress.say_epoch(epoch, row)
        self.state.reads = []
        if last or better or self.cadence.at_epoch(epoch + 1):
            save(self.state, last=last)
            self.watch.has_saved()

    def _epoch_means(self) -> dict[str, float]:
        """Return the means of the epoch's reads, each weighed by its steps."""
        means = {}
        for name in ("loss", "mixed_accuracy", "label_shift", "empty_boxes"):
            known = [read for read in self.state.reads if name in read]
            if known:
                means[name] = sum(read["steps"] * read[name] for read in known) / sum(read["steps"] for read in known)
        return means

    def _evaluate(self) -> dict[str, float]:
        """Return the scores of the model, and of the average as ema_..., on the validation split."""
        scores: dict[str, float] = {}
        models = (
            {"": self.state.bare}
            if self.state.average is None
            else {"": self.state.bare, "ema_": self.state.average.model}
        )
        for prefix, model in models.items():
            distributed.share_buffers(model, self.world)
            self.scores = evaluate(
                model,
                self._validation_batches(),
                len(self.state.data.classes),
                self.world.device,
                normalise=self.state.step.normalise,
                amp_dtype=AMP[self.recipe.model.amp],
            )
            self.reliability["ema" if prefix else "model"] = self.scores["reliability"]
            names = (*METRICS, *added_metrics())
            scores |= {prefix + in_log(name): self.scores[name] for name in names}
        assert self.scores is not None
        return scores | {"val_images": self.scores["images"]}

    def _validation_batches(self) -> Iterator:
        """Yield this process's share, and look out for signals as long as every process still has batches."""
        for turn, one in enumerate(self.state.batches.validation(filled=self.sharded)):
            signal = self.watch.look(turn)[0] if turn < self.state.batches.validated_by_all else 0
            if signal:
                raise StoppedError(signal, self.state.step_number)
            yield one

    def _introduction(self) -> str:
        recipe, data, state = self.recipe, self.state.data, self.state
        weights = sum(weight.numel() for weight in state.bare.parameters())
        going_on = f"; going on from step {state.step_number}" if state.step_number else ""
        return (
            f"{recipe.model.model} ({weights / 1e6:.2f} M weights) on {data.name}: {len(data.train)} "
            f"training and {len(data.val)} validation images ({self._origin()}), {len(data.classes)} "
            f"classes; mix {title(recipe.mixing.mix, recipe.mixing.labels)}; {self.per_epoch} steps an epoch; "
            f"{self.world.device.type}{f' x {self.world.size}' if self.world.size > 1 else ''}"
            f"{self._how_shared()}; run folder {self.folder}{going_on}"
        )

    def _origin(self) -> str:
        """Say which part is held out, and which columns are read."""
        parts = self.state.data.parts
        columns = "" if parts.columns is None else "; columns " + " and ".join(map(printable, parts.columns))
        return printable(parts.held_out) + columns

    def _how_shared(self) -> str:
        if not self.recipe.run.shard:
            return ""
        return ", sharded" if self.sharded else " (one process: there is nothing to shard)"

    def _close(self) -> dict[str, Any]:
        """Write what a finished run has, and return its summary."""
        if self.scores is None:  # stopped after the last checkpoint and before this
            self._evaluate()
        summary: dict[str, Any] = {
            "step": self.state.step_number,
            "finished": self.state.step_number == self.total_steps,
            "best": self.state.best,
        }
        if (log := self.state.log) is not None:
            assert self.scores is not None
            summary["last"] = log.epochs[-1] if log.epochs else None
            log.close()
            run_folder.write_end(
                self.folder, summary, self.scores["confusion"], self.state.data.classes, self.reliability
            )
        distributed.wait_for_all(self.world)
        return summary


def _call(at_end: Callable[[Path], object], folder: Path) -> None:
    """Let what follows a run do its work; the run is done whether or not it does."""
    try:
        at_end(folder)
    except Exception as error:  # whatever it is, no run fails for it
        print(f"no report: {type(error).__name__}: {error}; transmix report {folder} tries again", flush=True)
