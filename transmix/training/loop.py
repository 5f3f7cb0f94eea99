"""The training run: epochs of steps, evaluation, checkpoints, and resuming."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transmix import distributed
from transmix.attention import AttentionError, AttentionReader
from transmix.data.bad_images import LIST, BadImages, allowed_bad
from transmix.data.class_names import class_name
from transmix.data.dataset import ImageData
from transmix.data.seeding import derive_seed
from transmix.data.source import in_classes, load_data
from transmix.distributed import World, shard
from transmix.evaluation.evaluate import evaluate
from transmix.metrics import METRICS, added_metrics, in_log
from transmix.models.build import AMP, check_forward, check_reachable, normaliser, start_model
from transmix.models.start import Start
from transmix.recipes import Recipe, RecipeError, check_recipe, resolved
from transmix.recipes.mixing import mixes_in
from transmix.recipes.settings import parse_cadence
from transmix.runs import folder as run_folder
from transmix.runs.checkpoint import load_checkpoint, random_state, set_random_state
from transmix.runs.log import RunLog
from transmix.runs.weights import better_weights, ema_is_far_below, gap, start_weights
from transmix.training.batches import Batches, loss_weights, prepare_batches
from transmix.training.checkpoint_state import RunState, choose_checkpoint, restore, save, write_dump
from transmix.training.introduction import introduction
from transmix.training.machine import with_autocast, with_batch_size
from transmix.training.optimizer import WeightAverage, a_copy, build_optimizer, lr_at
from transmix.training.probe_images import draw_boxes, keep_examples
from transmix.training.progress import Progress
from transmix.training.step import NotFiniteError, TrainingStep, build_transmix, where_to_read
from transmix.training.stopping import StoppedError, Watch


def train(
    recipe: Recipe,
    out: str | os.PathLike[str],
    resume: bool = False,
    at_end: Callable[[Path], object] | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Train a recipe, and write everything to the folder `out`.

    Args:
        recipe: settings.
        out: the run folder. It must not exist, unless `resume` is true: then a missing run is started, a stopped one is
            resumed, and a finished one is not changed.
        resume: see `out`.
        at_end: called with the folder of the finished run, in the main process; its exceptions are printed.
        name: name of the recipe, for the first line.

    Returns:
        The run's summary: scores of the last epoch and of the best one.

    Raises:
        RecipeError, DataError, RunError, AttentionError: invalid settings, data, folder or model; nothing was
            overwritten.
        NotFiniteError: training diverged.
        LostProcessError: another process failed or does not respond.
        StoppedError: stopped by a signal; a checkpoint was written.
    """
    check_recipe(recipe)
    recipe = resolved(recipe)
    if recipe.run.tensorboard and find_spec("tensorboard") is None:
        raise RecipeError("tensorboard is not installed: pip install 'transmix[tensorboard]', or leave it out")
    folder = Path(out)
    world = distributed.start(recipe.run.device, recipe.run.wait_minutes)
    try:
        with distributed.losing_others(world, "--resume continues from the last checkpoint"):
            asked, recipe = recipe, with_autocast(run_folder.as_started(folder, recipe), world.device)
            changed = run_folder.check_run(folder, recipe, resume or world.restarted)
            distributed.wait_for_all(world)  # before the first process writes what the others look for
            if run_folder.is_finished(folder, recipe.run.max_steps, changed):
                if world.is_main:
                    print(f"{folder} is finished already")
                return json.loads((folder / "summary.json").read_text())
            checkpoint, said = choose_checkpoint(folder, world)
            notices = [
                f"recipe    {name}" if name else None,
                run_folder.schedule_notice(changed),
                run_folder.younger_notice(asked, recipe),
            ]
            for line in [*said, *filter(None, notices if world.is_main else [])]:
                print(line, flush=True)
            with Watch(world, parse_cadence(recipe.run.checkpoint_every).minutes) as watch:
                summary = finish(prepare(recipe, folder, world, checkpoint), watch)
                if at_end is not None and world.is_main:
                    _call(at_end, folder)
                distributed.wait_for_all(world)
                return summary
    finally:
        distributed.stop()


def prepare(recipe: Recipe, folder: Path, world: World, checkpoint: Path | None) -> RunState:
    """Return a run before its first step, or restored from a checkpoint.

    Nothing is written to `folder` before data and model are checked.
    """
    torch.manual_seed(recipe.run.seed)
    if recipe.run.deterministic:
        # cuBLAS reads this when it is first used; without a fixed workspace its sums have no fixed order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    bad = BadImages(allowed_bad(recipe.data), folder / LIST)
    if checkpoint is None:
        # Before a large data set is read.
        check_reachable(replace(recipe.model, init=start_weights(recipe.model.init)))
    data = load_run_data(recipe, folder, resumed=checkpoint is not None)
    bare, start = _start_model(recipe, data, first_time=checkpoint is None)
    recipe, batch_notice = with_batch_size(recipe, len(data.train), bare, world)
    run = _run_of(recipe, folder, world, data, prepare_batches(recipe, data, bad, world), bare)
    torch.manual_seed(derive_seed(recipe.run.seed, "model", world.rank))  # dropout differs between processes
    if checkpoint is not None:
        restore(run, load_checkpoint(checkpoint))
    if world.is_main:
        run_folder.write_start(folder, recipe, data, world, start)
        run.log = RunLog(folder, run.step_number, recipe.run.tensorboard, run.log_rows)
        lines = [*introduction(run), *filter(None, [start, batch_notice]), *data.notes]
        if recipe.model.compile:
            lines.append("compiling the model at the first step takes a minute or more; --no-compile leaves it out")
        print(*lines, sep="\n", flush=True)
    distributed.wait_for_all(world)
    return run


def load_run_data(recipe: Recipe, folder: Path, resumed: bool) -> ImageData:
    """Return the data of a run; a resumed run keeps its parts, columns, grey range and classes."""
    settings, seed = recipe.data, recipe.run.seed
    if not resumed:
        return load_data(settings, seed)
    data = load_data(settings, seed, run_folder.read_grey_range(folder), run_folder.read_choice(folder))
    run_folder.check_packed(folder, data)
    classes = run_folder.read_classes(folder)
    if sorted(map(class_name, classes)) != sorted(map(class_name, data.classes)):
        raise run_folder.RunError(f"{data.name} has other classes than the run in {folder}; resume on its data")
    return in_classes(classes, data)


def _start_model(recipe: Recipe, data: ImageData, first_time: bool) -> tuple[nn.Module, Start | None]:
    """Return a new model on the CPU, and a report of its initial weights; a resumed run needs none."""
    init = start_weights(recipe.model.init) if first_time else None
    settings = replace(recipe.model, pretrained=recipe.model.pretrained and first_time, init=init)
    bare, start = start_model(settings, len(data.classes), recipe.data.image_size, data.classes)
    check_forward(bare, recipe.data.image_size, len(data.classes))
    return bare, start


def _run_of(recipe: Recipe, folder: Path, world: World, data: ImageData, batches: Batches, bare: nn.Module) -> RunState:
    """Return the state of a run before its first step; the model goes to the device."""
    sharded = recipe.run.shard and world.size > 1
    # FSDP2 takes contiguous weights alone; the images' format is what convolutions follow.
    memory = torch.channels_last if recipe.model.channels_last and not sharded else torch.preserve_format
    bare = bare.to(device=world.device, memory_format=memory)  # type: ignore[call-overload]
    decay = recipe.optimization.ema_decay
    averaged = a_copy(bare) if decay is not None else None  # whole, and sharded next as the model is
    tm = build_transmix(recipe.mixing, bare, averaged, loss_weights(recipe, data, world.device))
    guide = tm.guide.reader if tm.guide is not None and tm.guide.source is bare else None
    reader = tm.reader or guide
    if reader is None:
        with suppress(AttentionError):  # it is for pictures alone
            reader = AttentionReader(bare, **where_to_read(recipe.mixing), training=False)
    if sharded:
        for model in filter(None, (bare, averaged)):
            shard(model, world)
    # The optimizer and the EMA hold the parameters themselves, which sharding has replaced.
    optimizer = build_optimizer(bare, recipe.optimization)
    warmup = recipe.optimization.ema_warmup
    average = WeightAverage(bare, decay, averaged, warmup=warmup) if decay is not None and averaged else None
    # Compiled before DDP wraps it: of a wrapped model, dynamo splits the graph at DDP's buckets.
    model = torch.compile(bare) if recipe.model.compile else bare
    wrapped: Any = model if sharded else distributed.wrap(model, world)  # type: ignore[arg-type]
    mean, std = recipe.augmentation.mean, recipe.augmentation.std
    normalise = normaliser(mean, std, world.device, recipe.model.channels_last)
    step = TrainingStep(wrapped, tm, optimizer, average, normalise, recipe, world.device, world.rank)
    return RunState(recipe, folder, world, data, batches, bare, average, step, reader)


def finish(run: RunState, watch: Watch) -> dict[str, Any]:
    """Train to the end, write the files of a finished run, and return its summary."""
    batch, per_epoch = run.order.step_batch, run.order.steps_per_epoch
    progress = Progress(run.last_step, run.step_number, run.epochs, batch, not run.world.is_main, _evaluations(run))
    run.say = progress.say
    if run.reads and run.step_number % per_epoch == 0:  # stopped while it was evaluated
        _end_epoch(run, watch, progress, run.step_number // per_epoch - 1, None)
    while run.step_number < run.last_step and not run.stops_early:
        epoch = run.step_number // per_epoch
        rate = _train_epoch(run, watch, progress, epoch)
        _end_epoch(run, watch, progress, epoch, rate)
    progress.bar.close()
    if run.scores is None:  # stopped after the last checkpoint and before this
        _evaluate(run, watch)
    finished = run.stops_early or run.step_number == run.epochs * per_epoch
    summary: dict[str, Any] = {"step": run.step_number, "finished": finished, "best": run.best}
    if run.stops_early and run.step_number < run.last_step:
        summary["stopped_early"] = _why_early(run)
        run.say(f"stopped early: {summary['stopped_early']}")
    if run.log is not None:
        assert run.scores is not None
        summary["last"] = run.log.epochs[-1] if run.log.epochs else None
        run.log.close()
        run_folder.write_end(run.folder, summary, run.scores["confusion"], run.data.classes, run.reliability)
    distributed.wait_for_all(run.world)
    return summary


def _train_epoch(run: RunState, watch: Watch, progress: Progress, epoch: int) -> float:
    """Train to the end of the epoch, or to the last step; return images per second."""
    recipe, per_epoch = run.recipe, run.order.steps_per_epoch
    mix, cadence = mixes_in(recipe.mixing, epoch), parse_cadence(recipe.run.checkpoint_every)
    first_step, end = run.step_number, min(run.last_step, (epoch + 1) * per_epoch)
    last_mixed = min((run.last_step - 1) // per_epoch, (recipe.mixing.mix_epochs or run.last_step) - 1)
    has_first = (run.folder / "first_boxes.png").exists()
    may_be_last = epoch == last_mixed or (mix and has_first and run.may_stop)
    picture = "last_boxes.png" if epoch and may_be_last else "first_boxes.png"
    run.step.keep_boxes = picture == "last_boxes.png" or not has_first
    run.order.start_at(epoch, first_step % per_epoch)
    micro_batches = iter(run.batches.training)
    if run.pending_random_state is not None:
        # Only now that the loader's iterator exists, so that nothing draws between here and the first step.
        set_random_state(run.pending_random_state, run.world.device)
        run.pending_random_state = None
    started = time.perf_counter()
    while step_batches := list(islice(micro_batches, recipe.optimization.accumulate)):
        lr = lr_at(run.step_number, per_epoch, recipe.optimization)
        if recipe.run.on_nonfinite == "abort":
            run.random_states[run.step_number + 1] = random_state(run.world.device)
        run.step(run.step_number, step_batches, lr, mix)
        run.step_number += 1
        progress.advance(epoch)
        draw_boxes(run, picture)
        signal, due = watch.look(run.step_number)
        save_now = signal or due or cadence.at_step(run.step_number)
        # The only host reads of the step's numbers: each one waits for the device to catch up.
        if run.step_number == end or save_now or run.step_number % recipe.run.log_every == 0:
            progress.show(_read_meter(run, epoch, lr))
        if run.step_number == end:
            break  # the end of the epoch saves, and stops on a signal
        if save_now:
            save(run, last=bool(signal))
            watch.has_saved()
        if signal:
            raise StoppedError(signal, run.step_number)
    return (run.step_number - first_step) * run.order.step_batch / (time.perf_counter() - started)


def _read_meter(run: RunState, epoch: int, lr: float) -> dict[str, Any]:
    """Read the meter and log it; stop or warn if a step since the last read was not finite."""
    before = run.reads[-1]["step"] if run.reads else epoch * run.order.steps_per_epoch
    values: dict[str, Any] = run.step.meter.read(run.world)
    steps, first, in_a_row = run.step.not_finite.read(run.world)
    settings = run.recipe.run
    if steps and settings.on_nonfinite == "abort":
        raise NotFiniteError(write_dump(run, first))
    if in_a_row > settings.max_nonfinite:
        raise NotFiniteError(
            f"loss or gradient was not finite in {in_a_row} steps in a row, up to step {run.step_number}; "
            f"max_nonfinite allows {settings.max_nonfinite}. All were skipped; --resume continues from the "
            f"last checkpoint"
        )
    if steps:
        values["held_back"] = steps  # the name that logs have had from the first version
        run.say(f"skipped {steps} steps that were not finite, the first at step {first}")
    run.random_states.clear()
    run.reads.append({"step": run.step_number, "steps": run.step_number - before, **values})
    if run.log is not None:
        run.log.write("train", run.step_number, {"epoch": epoch + 1, "lr": lr, **values})
    return values


def _end_epoch(run: RunState, watch: Watch, progress: Progress, epoch: int, images_per_second: float | None) -> None:
    """Evaluate, log and save; `images_per_second` is None if the epoch's steps ran before a resume."""
    row, settings = {"epoch": epoch + 1, **_epoch_means(run)}, run.recipe.run
    last, better = run.step_number == run.last_step, False
    if images_per_second is not None:
        row["images_per_second"] = round(images_per_second, 1 if images_per_second > 100 else 4)
    if last or (epoch + 1) % settings.eval_every == 0:
        try:
            row |= _evaluate(run, watch)
        except StoppedError:
            save(run, last=True)  # reads are still there: the end of this epoch is yet to come
            raise
        weights = better_weights(row)
        score = row["ema_top1" if weights == "ema" else "top1"]
        better = run.best is None or score > run.best["score"]
        whole_epoch = run.step_number % run.order.steps_per_epoch == 0  # else max_steps has cut it
        run.stale = 0 if better else run.stale + whole_epoch
        if better:
            run.best = {"score": score, "step": run.step_number, "epoch": epoch + 1, "weights": weights}
        last = last or run.stops_early
        keep_examples(run, epoch)
        if last and ema_is_far_below(row):
            run.say(
                f"warning: the EMA is far below the weights that it follows ({gap(row)}); "
                f"--weights auto takes the weights as trained. A lower --ema-decay follows sooner"
            )
    if run.world.device.type == "cuda":
        row["peak_memory"] = torch.cuda.max_memory_allocated(run.world.device)
    if count := run.batches.bad.count():
        row["bad_images"] = count
    if run.log is not None:
        run.log.write("epoch", run.step_number, row)
        progress.say_epoch(epoch, row)
    run.reads = []
    if last or better or parse_cadence(settings.checkpoint_every).at_epoch(epoch + 1):
        save(run, last=last)
        watch.has_saved()


def _why_early(run: RunState) -> str:
    """Return why a run ends before its last epoch."""
    assert run.best is not None
    top1, best = METRICS["top1"], run.best
    return (
        f"{top1.label} has not risen above the {top1.write(best['score'])} of epoch {best['epoch']} in "
        f"{run.stale} evaluations (patience {run.recipe.run.patience}), at epoch "
        f"{run.step_number // run.order.steps_per_epoch} of {run.epochs}"
    )


def _evaluations(run: RunState) -> float:
    """Return about how many training steps the run's evaluations are worth; an image's forward is a third of both."""
    models, settings = 1 + (run.average is not None), run.recipe.run
    return models * len(run.data.val) / 3 / run.order.step_batch * run.epochs / settings.eval_every


def _epoch_means(run: RunState) -> dict[str, float]:
    """Return the means of the epoch's meter reads, weighted by steps."""
    return {
        name: sum(read["steps"] * read[name] for read in known) / sum(read["steps"] for read in known)
        for name in ("loss", "mixed_accuracy", "label_shift", "empty_boxes")
        if (known := [read for read in run.reads if name in read])
    }


def _evaluate(run: RunState, watch: Watch) -> dict[str, float]:
    """Return the scores of the model, and of the EMA as ema_..., on the validation split."""
    found: dict[str, float] = {}
    models = {"": run.bare} if run.average is None else {"": run.bare, "ema_": run.average.model}
    how: dict[str, Any] = {"normalise": run.step.normalise, "amp_dtype": AMP[run.recipe.model.amp]}
    for prefix, model in models.items():
        distributed.share_buffers(model, run.world)
        scores = evaluate(model, _validation_batches(run, watch), len(run.data.classes), run.world.device, **how)
        run.scores, run.reliability["ema" if prefix else "model"] = scores, scores["reliability"]
        found |= {prefix + in_log(name): scores[name] for name in (*METRICS, *added_metrics())}
    assert run.scores is not None
    return found | {"val_images": run.scores["images"]}


def _validation_batches(run: RunState, watch: Watch) -> Iterator:
    """Yield this process's batches, and check for signals while every process still has batches."""
    everywhere = -(-(len(run.data.val) // run.world.size) // run.order.batch)  # some processes have one batch more
    for turn, one in enumerate(run.batches.validation()):
        if turn < everywhere and (signal := watch.look(turn)[0]):
            raise StoppedError(signal, run.step_number)
        yield one


def _call(at_end: Callable[[Path], object], folder: Path) -> None:
    """Call `at_end`; its failure does not make the run fail."""
    try:
        at_end(folder)
    except Exception as error:  # whatever it is, no run fails for it
        print(f"no report: {type(error).__name__}: {error}; transmix report {folder} tries again", flush=True)
