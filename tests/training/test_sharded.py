"""Weights cut up over two processes (FSDP2): the same numbers, the same checkpoints, and nothing hangs.

As a script, this file is a server that runs the scenarios below in pairs of processes, forked from one that has
imported everything; the fixture `pair` starts it, for `test_many_processes` too.
"""

import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

from transmix import cli, distributed
from transmix.data.augment import EvaluationCrop
from transmix.data.dataset import Split
from transmix.data.loader import TrainingSamples, evaluation_batches
from transmix.data.sampler import EpochSampler
from transmix.data.seeding import derive_seed
from transmix.distributed import World, find_blocks, gather_whole, shard, start, wrap
from transmix.evaluation.evaluate import evaluate
from transmix.models.build import build_model, normaliser
from transmix.recipes import load_recipe
from transmix.recipes.settings import Model
from transmix.runs.checkpoint import load_checkpoint, newest_checkpoint, optimizer_tensors
from transmix.training import batches as loading
from transmix.training import loop, step, stopping
from transmix.training.optimizer import WeightAverage, a_copy, build_optimizer
from transmix.training.step import TrainingStep, build_transmix
from transmix.visual import pairs as pictures

DEADLINE = 240  # seconds for a pair of processes: a hang is a failure
WAYS = {"ddp": False, "fsdp": True}
TINY = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
CPU = torch.device("cpu")

# ------------------------------------------------------------------------------- what each of two processes does


def command(recipe, folder, *more):
    return cli.main(["train", "--recipe", recipe, "--out", folder, *more])


def before_step(act):
    """Have act(training_step, number) called before every step."""
    call = TrainingStep.__call__

    def disturbed(self, number, *rest, **more):
        act(self, number)
        return call(self, number, *rest, **more)

    TrainingStep.__call__ = disturbed


def plain(rank, recipe, folder, *more):
    return command(recipe, folder, *more)


def recorded(rank, recipe, folder):
    """Resume, and keep what the first step started from and which images came."""
    found, seen = {}, []
    finish, readable = loop.finish, TrainingSamples.readable

    def note(run, watch):
        names = {weight: name for name, weight in run.bare.named_parameters()}
        parts = {"model": run.bare.state_dict(), "ema": run.average.model.state_dict()}
        parts["optimizer"] = optimizer_tensors(run.step.optimizer, names)
        found.update({kind: gather_whole(tensors, keep=True) for kind, tensors in parts.items()})
        found["parts"] = {name: distributed.own_part(weight).numel() for name, weight in run.bare.named_parameters()}
        torch.save(found, f"{folder}-before-{rank}.pt")
        return finish(run, watch)

    loop.finish = note
    TrainingSamples.readable = lambda self, epoch, index, *read: (
        seen.append(index) or readable(self, epoch, index, *read)
    )
    code = command(recipe, folder, "--resume")
    torch.save(seen, f"{folder}-seen-{rank}.pt")
    return code


def signal_to_one(rank, recipe, folder, done):
    """Send it when so many steps are done."""
    stopping.AGREE_EVERY = 4
    before_step(lambda _, number: rank == 1 and number == int(done) and os.kill(os.getpid(), signal.SIGTERM))
    return command(recipe, folder)


def without_agreement(rank, recipe, folder):
    stopping.Watch.look = lambda self, turn=0: (self.signal, False)
    return signal_to_one(rank, recipe, folder, 2)


def signal_in_evaluation(rank, recipe, folder):
    stopping.AGREE_EVERY = 1
    inner = loading.evaluation_batches

    def batches(*args, **kwargs):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(*args, **kwargs)

    loading.evaluation_batches = batches
    return command(recipe, folder)


def nan_on_one(rank, recipe, folder):
    now, forward = [], TrainingStep.forward
    before_step(lambda _, number: now.append(number))

    def poisoned(self, *about):
        return forward(self, *about) * (float("nan") if rank == 1 and now[-1] == 2 else 1.0)

    TrainingStep.forward = poisoned
    return command(recipe, folder)


def one_dies(rank, recipe, folder):
    forward, calls = TrainingStep.forward, []

    def last_words(self, *about):
        calls.append(1)
        if rank == 1 and len(calls) == 6:
            os._exit(9)
        return forward(self, *about)

    TrainingStep.forward = last_words
    return command(recipe, folder)


def one_stalls(rank, recipe, folder):
    before_step(lambda _, number: rank == 1 and number == 2 and time.sleep(600))
    return command(recipe, folder, "--wait-minutes", "0.1")


def one_has_no_data(rank, recipe, folder):
    load = loop.load_data

    def fails(*args):
        if rank == 1:
            raise loop.RecipeError("this node's disk is not there")
        return load(*args)

    loop.load_data = fails
    return command(recipe, folder)


def exact(rank, recipe, folder):
    """Take four steps in float64 by each way."""
    world = start("cpu")
    for way, sharded in WAYS.items():
        torch.save(four_steps(load_recipe(recipe), world, sharded), f"{folder}/{way}-{rank}.pt")
    return 0


def evaluated(rank, recipe, folder):
    """Evaluate a sharded model and its average, before and after the weights change."""
    world = start("cpu")
    torch.manual_seed(0)
    model = build_model(Model("vit_tiny_patch16_224", TINY), 3, 16)
    average = WeightAverage(model, 0.5, shard(a_copy(model), world))  # before the model is: nothing follows it here
    found = {count: scores(average.model, count, world) for count in COUNTS}
    with torch.no_grad():
        for weight in average.model.parameters():
            distributed.own_part(weight).mul_(1.5)
    found["changed"] = scores(average.model, 7, world)
    shard(model, world)
    scores(model, 3, world)  # a resumed run may evaluate before its first step
    model.train()(torch.randn(2, 3, 16, 16)).sum().backward()
    found["grads"] = {name: distributed.whole(weight.grad) for name, weight in model.named_parameters()}
    torch.save(found, f"{folder}/{rank}.pt")
    return 0


SCENARIOS = {
    function.__name__: function
    for function in (
        plain, recorded, signal_to_one, without_agreement, signal_in_evaluation, nan_on_one, one_dies, one_stalls,
        one_has_no_data, exact, evaluated,
    )
}  # fmt: skip


def serve():
    """Run each scenario that a line of the input asks for in two processes, and answer with how they ended."""
    import torch.distributed.fsdp

    torch.set_num_threads(1)
    pictures.mixed_batch_figure = lambda *_, **__: Figure((1, 1))  # the boxes take longer than a small run
    for line in sys.stdin:
        print(json.dumps(run_pair(*json.loads(line))), flush=True)


def run_pair(scenario, arguments, output):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started, limit = time.monotonic(), 40 if scenario == "without_agreement" else DEADLINE  # which may hang
    pids = [fork(scenario, arguments, f"{output}-{rank}.txt", rank, port) for rank in range(2)]
    ended = {}
    while len(ended) < 2 and time.monotonic() - started < limit:
        for pid in set(pids) - set(ended):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
        if scenario == "one_stalls" and pids[0] in ended and len(ended) == 1:
            os.kill(pids[1], signal.SIGKILL)
        time.sleep(0.01)
    for pid in set(pids) - set(ended):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return {"codes": [ended.get(pid, "hung") for pid in pids]}


def fork(scenario, arguments, output, rank, port):
    if pid := os.fork():
        return pid
    code = 99
    try:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
        said = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        code = SCENARIOS[scenario](rank, *arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# ------------------------------------------------------------------------------------------------------- fixtures


@pytest.fixture(scope="module")
def recipe(validated_on, small_recipe):
    """2 epochs of 5 steps of 2 micro-batches; 5 validation images, so that two processes have 2 batches and 1."""
    # The gradient of a key's bias is zero but for rounding, which Adam would blow up: a larger eps keeps it small.
    return small_recipe(validated_on(3, 2), accumulate=2, checkpoint_every=7, keep_checkpoints=9, eps=1e-6)


@pytest.fixture(scope="module")
def runs(pair, recipe, tmp_path_factory):
    """Whole runs: in one process, and in two by each way; each with checkpoints of steps 5, 7 and 10."""
    root = tmp_path_factory.mktemp("runs")
    loop.train(recipe, root / "one")
    for way, sharded in WAYS.items():
        found = pair("plain", shards(recipe, sharded), root / way)
        assert found["codes"] == [0, 0], found["said"]
    return root


def shards(recipe, sharded):
    return replace(recipe, run=replace(recipe.run, shard=sharded))


def rewound(runs, name, folder):
    """Copy a run as it was after its seventh step."""
    shutil.copytree(runs / name, folder)
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "step-00000010")
    return folder


def newest(folder):
    return load_checkpoint(newest_checkpoint(folder / "checkpoints")[0])


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for kind, tensors in one.items():
        assert tensors.keys() == other[kind].keys()
        assert all(tensor.equal(other[kind][name]) for name, tensor in tensors.items()), kind


def largest_difference(one, other):
    return max((tensor.double() - other[name].double()).abs().max().item() for name, tensor in one.items())


# ------------------------------------------------------------------------------------------ the same as under DDP


def test_sharded_training_equals_training_with_whole_weights(runs):
    """Adam, clipping, an average, two micro-batches, dropout, drop path, TransMix; ten steps, two evaluations."""
    ddp, fsdp = newest(runs / "ddp"), newest(runs / "fsdp")
    for kind in ("model", "ema", "optimizer"):
        assert largest_difference(fsdp.tensors[kind], ddp.tensors[kind]) < 1e-6, kind
    earlier = load_checkpoint(runs / "ddp" / "checkpoints" / "step-00000007").tensors
    assert largest_difference(ddp.tensors["model"], earlier["model"]) > 1e-4
    summaries = [json.loads((runs / way / "summary.json").read_text())["last"] for way in WAYS]
    for one in summaries:
        one.pop("images_per_second")
    assert summaries[0] == pytest.approx(summaries[1], abs=1e-6)


def by(recipe, **mixing):
    """Return the recipe with another method, half of the batches mixed: the processes then draw differently."""
    optimization = replace(recipe.optimization, epochs=1, warmup_epochs=0.2)
    return replace(recipe, mixing=replace(recipe.mixing, prob=0.5, **mixing), optimization=optimization)


PIXELS = [{"mix": "attentivecutmix+fmix+resizemix+saliencymix"}, {"mix": "objectmix"}]


@pytest.mark.parametrize("mixing", PIXELS, ids=lambda one: one["mix"])
def test_methods_of_other_pixels_train_in_two_processes(mixing, pair, recipe, with_masks, tmp_path):
    if mixing["mix"] == "objectmix":
        recipe = replace(recipe, data=replace(recipe.data, data=str(with_masks)))
    found = pair("plain", shards(by(recipe, **mixing), False), tmp_path / "run")
    assert found["codes"] == [0, 0], found["said"]
    assert newest(tmp_path / "run").state["step"] == 5


LOOKING = [{"mix": "tlalign"}, {"mix": "snapmix"}, {"mix": "tokenmix", "guide": "ema"}, {"mix": "mixpro"}]


@pytest.mark.parametrize("mixing", LOOKING, ids=lambda one: one["mix"])
def test_methods_that_read_more_of_the_model_train_alike_sharded_or_not(mixing, pair, recipe, tmp_path):
    for way, sharded in WAYS.items():
        found = pair("plain", shards(by(recipe, **mixing), sharded), tmp_path / way)
        assert found["codes"] == [0, 0], found["said"]
    ddp, fsdp = newest(tmp_path / "ddp"), newest(tmp_path / "fsdp")
    assert largest_difference(fsdp.tensors["model"], ddp.tensors["model"]) < 1e-5


def test_smmix_trains_in_two_processes_and_refuses_a_sharded_head(pair, recipe, tmp_path):
    found = pair("plain", shards(by(recipe, mix="smmix+mixup"), False), tmp_path / "ddp")
    assert found["codes"] == [0, 0], found["said"]
    found = pair("plain", shards(by(recipe, mix="smmix"), True), tmp_path / "fsdp")
    assert all(found["codes"])
    assert "FSDP2 has sharded them again" in "".join(found["said"])


def test_the_checkpoint_of_a_sharded_run_has_the_same_names_shapes_and_types(runs):
    def described(folder):
        return {
            kind: {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
            for kind, tensors in newest(folder).tensors.items()
        }

    assert described(runs / "fsdp") == described(runs / "ddp")
    assert described(runs / "one").items() <= described(runs / "fsdp").items()
    for name in ("examples/epoch-0002.safetensors", "model.safetensors", "ema.safetensors"):
        ours, theirs = load_file(runs / "fsdp" / name), load_file(runs / "ddp" / name)
        assert ours.keys() == theirs.keys()
        assert largest_difference(ours, theirs) < 1e-5


# ------------------------------------------------------------------------------------------------------ resuming

CHANGES = [("fsdp", "fsdp"), ("ddp", "fsdp"), ("fsdp", "ddp"), ("one", "fsdp"), ("one", "ddp")]


def images_of(order, steps):
    """Which images come after step 7, as one process would see them."""
    order.start_at(1, 2)
    return [index for batch in order for _, index, _ in batch][: steps * order.step_batch]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_run_goes_on_from_the_same_bits_and_images_in_two_processes(before, after, pair, runs, recipe, tmp_path):
    folder = rewound(runs, before, tmp_path / "run")
    found = pair("recorded", shards(recipe, WAYS[after]), folder)
    assert found["codes"] == [0, 0], found["said"]
    saved = load_checkpoint(runs / before / "checkpoints" / "step-00000007").tensors
    for rank in (0, 1):
        restored = torch.load(f"{folder}-before-{rank}.pt")
        assert_same_bits({kind: saved[kind] for kind in ("model", "ema", "optimizer")}, {
            kind: restored[kind] for kind in ("model", "ema", "optimizer")
        })  # fmt: skip
    seen = [torch.load(f"{folder}-seen-{rank}.pt") for rank in (0, 1)]
    dealt = [index for two in zip(*seen, strict=True) for index in two]
    assert dealt == images_of(EpochSampler(40, 0, 8, 8), 3)
    assert dealt != images_of(EpochSampler(40, 1, 8, 8), 3)
    held = [torch.load(f"{folder}-before-{rank}.pt")["parts"] for rank in (0, 1)]
    whole = {name: tensor.numel() for name, tensor in saved["model"].items()}
    if after == "fsdp":
        assert {name: held[0][name] + held[1][name] for name in whole} == whole
        assert sum(held[0].values()) < 0.55 * sum(whole.values())
    else:
        assert held == [whole, whole]
    if before == after:
        assert_same_bits(newest(folder).tensors, newest(runs / after).tensors)


@pytest.mark.parametrize("before", WAYS)
def test_a_run_of_two_processes_goes_on_from_the_same_bits_and_images_in_one(
    before, runs, recipe, tmp_path, monkeypatch
):
    folder, seen, found = rewound(runs, before, tmp_path / "run"), [], {}
    readable, finish = TrainingSamples.readable, loop.finish

    def note(run, watch):
        names = {weight: name for name, weight in run.bare.named_parameters()}
        parts = {"model": run.bare.state_dict(), "ema": run.average.model.state_dict()}
        parts["optimizer"] = optimizer_tensors(run.step.optimizer, names)
        found.update({kind: {name: one.clone() for name, one in part.items()} for kind, part in parts.items()})
        return finish(run, watch)

    monkeypatch.setattr(loop, "finish", note)
    monkeypatch.setattr(
        TrainingSamples,
        "readable",
        lambda self, epoch, index, *read: seen.append(index) or readable(self, epoch, index, *read),
    )
    loop.train(shards(recipe, WAYS[before]), folder, resume=True)
    saved = load_checkpoint(runs / before / "checkpoints" / "step-00000007").tensors
    assert_same_bits(found, {kind: saved[kind] for kind in found})
    assert seen == images_of(EpochSampler(40, 0, 8, 8), 3)


def test_sharding_one_process_is_training_as_ever_and_says_so(runs, recipe, tmp_path, capsys):
    loop.train(shards(recipe, True), tmp_path / "run")
    assert "cpu (one process: there is nothing to shard)" in capsys.readouterr().out
    assert_same_bits(newest(tmp_path / "run").tensors, newest(runs / "one").tensors)


# ------------------------------------------------------------------- two processes are one that adds up gradients


def four_steps(recipe, world, sharded=False, ranks=1, draws=None):
    """Weights, average and norm after four steps in float64; one process may take the micro-batches of `ranks`."""
    torch.manual_seed(0)
    model = build_model(recipe.model, 3, 16).double()
    tm = build_transmix(recipe.mixing, model)
    averaged = a_copy(model)
    if sharded:
        for one in (model, averaged):
            shard(one, world)
    average = WeightAverage(model, 0.9, averaged)
    wrapped = model if sharded else wrap(model, world)
    normalise = normaliser(recipe.augmentation.mean, recipe.augmentation.std, CPU, False)
    training = TrainingStep(
        wrapped, tm, build_optimizer(model, recipe.optimization), average, lambda x: normalise(x).double(), recipe,
        CPU, world.rank,
    )  # fmt: skip
    for number in range(4):
        mine = [(micro, rank) for micro in range(2) for rank in (range(ranks) if ranks > 1 else [world.rank])]
        training(number, [batch_of(number, *one) for one in mine], lr=1e-3)
    parts = {"model": model.state_dict(), "ema": average.model.state_dict()}
    return {kind: gather_whole(tensors, keep=True) for kind, tensors in parts.items()}


def batch_of(number, micro, rank):
    rng = torch.Generator().manual_seed(derive_seed("test", number, micro, rank))
    return torch.randint(256, (4, 3, 16, 16), generator=rng, dtype=torch.uint8), torch.randint(3, (4,), generator=rng)


@pytest.fixture(scope="module")
def without_chance(recipe):
    """No dropout, no drop path: what is drawn is the mixing alone."""
    model = replace(recipe.model, drop_path=0.0, model_options={**TINY, "drop_rate": 0.0})
    return replace(recipe, model=model, optimization=replace(recipe.optimization, clip_grad=0.5))


@pytest.fixture(scope="module")
def in_two(pair, without_chance, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact")
    found = pair("exact", without_chance, folder)
    assert found["codes"] == [0, 0], found["said"]
    return folder


def deal_draws(monkeypatch):
    """Let the one process draw, at each micro-batch, what the process it comes from would."""

    def dealt(seed, kind, number, micro, rank):
        return derive_seed(seed, kind, number, micro // 2, micro % 2)

    monkeypatch.setattr(step, "derive_seed", dealt)


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_equal_one_that_accumulates_their_micro_batches(way, in_two, without_chance, monkeypatch):
    deal_draws(monkeypatch)
    expected = four_steps(without_chance, World(0, 1, 1, CPU), ranks=2)
    for rank in (0, 1):
        found = torch.load(in_two / f"{way}-{rank}.pt")
        for kind, tensors in expected.items():
            assert tensors.keys() == found[kind].keys()
            assert all(tensor.dtype == torch.float64 for tensor in tensors.values())
            assert largest_difference(found[kind], tensors) < 1e-10


def test_one_process_that_draws_for_itself_is_another_training(in_two, without_chance):
    expected = four_steps(without_chance, World(0, 1, 1, CPU), ranks=2)
    assert largest_difference(torch.load(in_two / "fsdp-0.pt")["model"], expected["model"]) > 1e-5


# ------------------------------------------------------------------------------------------------------ evaluation

COUNTS = (1, 2, 3, 7)


def a_split(count):
    rng = np.random.default_rng(count)
    return Split(rng.integers(256, size=(count, 16, 16, 3)).astype(np.uint8), np.arange(count) % 3)


def scores(model, count, world):
    batches = evaluation_batches(
        a_split(count), EvaluationCrop(16, 1.0), 2, 0, False, (world.rank, world.size), even=world.size > 1
    )
    normalise = normaliser((0.5,) * 3, (0.25,) * 3, CPU, False)
    return evaluate(model, batches, 3, CPU, normalise=normalise)


@pytest.fixture(scope="module")
def evaluations(pair, recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluations")
    found = pair("evaluated", recipe, folder)
    assert found["codes"] == [0, 0], found["said"]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.fixture
def alone():
    torch.manual_seed(0)
    return build_model(Model("vit_tiny_patch16_224", TINY), 3, 16)


def assert_same_scores(one, other):
    assert one["images"] == other["images"]
    assert one["confusion"].equal(other["confusion"])
    for name in ("loss", "top1", "top5", "calibration_error"):
        assert one[name] == pytest.approx(other[name], abs=1e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_a_sharded_model_has_the_scores_of_a_whole_one_whatever_the_number_of_images(count, evaluations, alone):
    expected = scores(alone, count, World(0, 1, 1, CPU))
    assert expected["images"] == count
    for found in evaluations:
        assert_same_scores(found[count], expected)


def test_a_sharded_model_is_evaluated_with_the_weights_it_has_now(evaluations, alone):
    """What is cut up must not stay whole after an evaluation: the next one would see old weights."""
    before = scores(alone, 7, World(0, 1, 1, CPU))
    with torch.no_grad():
        for weight in alone.parameters():
            weight.mul_(1.5)
    for found in evaluations:
        assert_same_scores(found["changed"], scores(alone, 7, World(0, 1, 1, CPU)))
        assert found["changed"]["loss"] != pytest.approx(before["loss"], abs=1e-3)


def test_a_sharded_model_can_be_evaluated_before_it_is_trained(evaluations):
    assert all(grad.isfinite().all() for found in evaluations for grad in found["grads"].values())


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_process_gets_as_many_batches_and_every_image_counts_once(batch, world):
    uneven = 0
    for count in range(1, 14):
        split, crop = a_split(count), EvaluationCrop(16, 1.0)
        shares = [list(evaluation_batches(split, crop, batch, 0, False, (r, world), even=True)) for r in range(world)]
        assert len({len(share) for share in shares}) == 1
        counted = [len(rows) if valid is None else int(valid.sum()) for share in shares for _, rows, valid in share]
        assert sum(counted) == count
        plain = [list(evaluation_batches(split, crop, batch, 0, False, (r, world))) for r in range(world)]
        uneven += len({len(share) for share in plain}) > 1
    assert (uneven > 0) == (world > 1)  # without padding some process would wait for ever


# --------------------------------------------------------------------------------------- what happens to one of two


@pytest.mark.parametrize("way", WAYS)
def test_a_signal_to_one_stops_both_and_the_resumed_run_has_the_same_bits(way, pair, runs, recipe, tmp_path):
    found = pair("signal_to_one", shards(recipe, WAYS[way]), tmp_path / "run", "6")
    assert found["codes"] == [128 + signal.SIGTERM] * 2, found["said"]
    assert all("stopped by SIGTERM after step 8;" in said for said in found["said"])  # in mid-epoch
    assert pair("plain", shards(recipe, WAYS[way]), tmp_path / "run", "--resume")["codes"] == [0, 0]
    assert_same_bits(newest(tmp_path / "run").tensors, newest(runs / way).tensors)


def test_a_signal_in_the_evaluation_of_a_sharded_run_stops_both_and_it_goes_on_with_it(pair, runs, recipe, tmp_path):
    found = pair("signal_in_evaluation", shards(recipe, True), tmp_path / "run")
    assert found["codes"] == [128 + signal.SIGTERM] * 2, found["said"]
    assert all("stopped by SIGTERM after step 5;" in said for said in found["said"])
    found = pair("plain", shards(recipe, True), tmp_path / "run", "--resume")
    assert found["codes"] == [0, 0], found["said"]
    assert_same_bits(newest(tmp_path / "run").tensors, newest(runs / "fsdp").tensors)


@pytest.mark.parametrize("way", WAYS)
def test_a_number_that_is_not_finite_on_one_stops_both_at_that_step(way, pair, recipe, tmp_path):
    found = pair("nan_on_one", shards(recipe, WAYS[way]), tmp_path / "run")
    assert found["codes"] == [1, 1], found["said"]
    assert all("loss or gradient was not finite at step 3 (epoch 1; training images" in said for said in found["said"])
    kept = load_checkpoint(tmp_path / "run" / "nonfinite" / "step-00000003")
    assert [len(rank) for rank in kept.state["samples"]] == [4, 4]
    dump = kept.tensors
    assert {"random-0", "random-1"} <= set(dump)
    shapes = {name: tensor.shape for name, tensor in build_model(recipe.model, 2, 16).state_dict().items()}
    assert {name: tensor.shape for name, tensor in dump["model"].items()} == shapes
    assert all(tensor.isfinite().all() for kind in ("model", "optimizer") for tensor in dump[kind].values())
    assert cli.main(["replay", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("way", WAYS)
def test_when_one_dies_in_a_step_the_other_says_so_and_ends(way, pair, recipe, tmp_path):
    found = pair("one_dies", shards(recipe, WAYS[way]), tmp_path / "run")
    assert found["codes"] == [1, 9], found["said"]
    assert "transmix: process 0 lost contact with another process, which failed or hangs" in found["said"][0]
    assert "Traceback" not in found["said"][0]


def test_when_one_does_not_answer_the_other_waits_only_as_long_as_it_was_told(pair, recipe, tmp_path):
    found = pair("one_stalls", shards(recipe, True), tmp_path / "run")
    assert found["codes"] == [1, -signal.SIGKILL], found["said"]
    assert "transmix: process 0 lost contact with another process" in found["said"][0]


def test_when_one_cannot_read_its_data_the_other_does_not_wait_for_it(pair, recipe, tmp_path):
    found = pair("one_has_no_data", shards(recipe, True), tmp_path / "run")
    assert found["codes"] == [1, 2], found["said"]
    assert found["said"][1].strip() == "transmix: this node's disk is not there"


# ---------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize(
    ("name", "options", "kind", "count"),
    [
        ("vit_tiny_patch16_224", {}, "Block", 12),
        ("swin_tiny_patch4_window7_224", {}, "SwinTransformerBlock", 12),
        ("cait_xxs24_224", {}, "LayerScaleBlock", 24),
        ("resnet18", {}, "BasicBlock", 8),
        ("convnext_atto", {}, "ConvNeXtBlock", 12),
        ("pvt_v2_b0", {}, "Block", 8),
    ],
)
def test_the_blocks_of_a_model_are_found(name, options, kind, count):
    import timm

    blocks = find_blocks(timm.create_model(name, **options))
    assert [type(block).__name__ for block in blocks] == [kind] * count


def test_a_model_that_is_no_stack_has_no_blocks():
    assert find_blocks(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))) == []


if __name__ == "__main__":
    serve()
