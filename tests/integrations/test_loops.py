"""Loops of one's own equal a slow one: plain, accumulated with a scaler, compiled, and in two processes; examples run.

As a script under torchrun, this file is what each of the two processes does.
"""

import importlib.util
import io
import os
import re
import runpy
import subprocess
import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from transmix import AttentionReader, Mixer, TransMix, attention_labels
from transmix.data.seeding import derive_seed

timm = pytest.importorskip("timm")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CLASSES, SMOOTHING, LR = 3, 0.1, 0.02


def example(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def a_model():
    """A tiny DeiT whose attention is far from uniform."""
    tiny = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    model = timm.create_model("deit_tiny_patch16_224", img_size=(32, 48), **tiny)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 1.2 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.02
            weight.copy_(torch.randn(weight.shape, generator=rng) * scale * (1.5 if "attn" in name else 1))
            weight.add_(weight.ndim == 1 and name.endswith("weight"))  # of a norm
    return model.train()


def made(model, seed=0):
    return TransMix(model, smoothing=SMOOTHING, generator=torch.Generator().manual_seed(seed))


def by_area(tm):
    tm.relabel = lambda mixed: (tm.reader.take().row, mixed)[1]


def by_the_batchs_mean(tm):
    whole = tm.criterion
    tm.criterion = lambda logits, mixed: whole(logits, replace(mixed, lam=mixed.lam.mean().expand_as(mixed.lam)))


BROKEN = {"labels by area": by_area, "the batch's mean lam": by_the_batchs_mean}


@pytest.fixture
def noise():
    rng = torch.Generator().manual_seed(0)
    return [(torch.randn(3, 3, 32, 48, generator=rng), torch.randint(CLASSES, (3,), generator=rng)) for _ in range(6)]


@pytest.fixture
def real(photographs):
    """Six batches of two photographs."""
    images, labels = photographs
    return list(zip(((images - 0.5) / 0.25).split(2), labels.split(2), strict=True))


@pytest.fixture
def pictures(noise, request):
    """Photographs where they are present, else noise: for what is too slow to run on both."""
    try:
        return request.getfixturevalue("real")
    except pytest.skip.Exception:
        return noise


@pytest.fixture(params=["noise", "real"])
def batches(request):
    return request.getfixturevalue(request.param)


def slow_loop(steps, draw=lambda mixers, step, micro: mixers[0], amp=None):
    """Every micro-batch's loss, (steps, micro-batches), and the last weights: dense labels, gradients by hand."""
    model = a_model()
    reader = AttentionReader(model)
    mixers = [Mixer(generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    losses, boxes = [], []
    for step, micro_batches in enumerate(steps):
        for micro, (images, labels) in enumerate(micro_batches):
            mixed = draw(mixers, step, micro)(images, labels)
            boxes.append(mixed.mask is not None)
            with torch.autocast("cpu", amp, enabled=amp is not None):
                logits = model(mixed.images)
            targets = attention_labels(mixed, reader.take().row, grid=(4, 6)).targets(CLASSES, SMOOTHING)
            loss = -(targets * logits.float().log_softmax(1)).sum(1).mean()
            (loss / len(micro_batches)).backward()
            losses.append(loss.item())
        with torch.no_grad():
            for weight in model.parameters():
                weight -= LR * weight.grad
                weight.grad = None
    assert len(set(boxes)) == 2  # Mixup and CutMix both came up
    return torch.tensor(losses).view(len(steps), -1), model.state_dict()


def assert_equal(losses, weights, expected):
    assert torch.allclose(torch.as_tensor(losses), expected[0], rtol=1e-5)
    assert list(weights) == list(expected[1])
    assert all(torch.allclose(weights[name], weight, atol=1e-5) for name, weight in expected[1].items())


# ---------------------------------------------------------------------------------------------- in one process


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=LR)


def plain(batches, broken=None):
    return run(example("plain_loop")["train"], batches, broken)


def accumulated(batches, broken=None):
    steps = [batches[0:2], batches[2:4], batches[4:6]]
    return run(example("accumulation")["train"], steps, broken, dtype=torch.bfloat16)


def compiled(batches, broken=None):
    torch._dynamo.reset()
    return run(example("compiled_step")["train"], batches, broken, backend="eager")


def run(train, batches, broken, **settings):
    model = a_model()
    tm = made(model)
    if broken:
        broken(tm)
    losses = list(train(model, tm, sgd(model), batches, **settings))
    return losses, model.state_dict()


def expectation(loop, batches):
    if loop is accumulated:
        losses, weights = slow_loop([batches[0:2], batches[2:4], batches[4:6]], amp=torch.bfloat16)
    else:
        losses, weights = slow_loop([[batch] for batch in batches])
    return losses.mean(1), weights


LOOPS = {"plain": plain, "accumulated in bfloat16 with a scaler": accumulated, "compiled": compiled}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_the_loop_equals_the_slow_one(loop, batches):
    assert_equal(*loop(batches), expectation(loop, batches))


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_the_loop_with_other_labels_is_rejected(loop, broken, noise):
    with pytest.raises(AssertionError):
        assert_equal(*loop(noise, broken), expectation(loop, noise))


def test_the_loop_that_adds_up_whole_losses_is_rejected(noise):
    steps = [noise[0:2], noise[2:4], noise[4:6]]
    model = a_model()
    tm, optimizer, losses = made(model), sgd(model), []
    for micro_batches in steps:
        of_step = []
        for images, labels in micro_batches:
            mixed = tm.mix(images, labels)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(mixed.images)
            of_step.append(tm.loss(logits, mixed))
            of_step[-1].backward()  # not divided by the number of micro-batches
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sum(of_step).item() / 2)
    with pytest.raises(AssertionError):
        assert_equal(losses, model.state_dict(), expectation(accumulated, noise))


# -------------------------------------------------------------------------------------------------- compiled


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_compiler")
def test_batches_with_and_without_boxes_compile_to_two_graphs(noise):
    graphs = []
    run(example("compiled_step")["train"], noise * 2, None, backend=lambda graph, _: graphs.append(graph) or graph)
    assert len(graphs) == 2


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.skipif(
    not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="this torch does not trace Tensor.backward"
)
def test_the_backward_pass_fits_into_the_same_graph(noise):
    model = a_model()
    tm, optimizer, losses = made(model), sgd(model), []

    @torch.compile(backend="eager", fullgraph=True)
    def step_of(mixed):
        loss = tm.loss(model(mixed.images), mixed)
        loss.backward()
        return loss.detach()

    with torch._dynamo.config.patch(trace_autograd_ops=True):
        for images, labels in noise:
            losses.append(step_of(tm.mix(images, labels)).item())
            optimizer.step()
            optimizer.zero_grad()
    assert_equal(losses, model.state_dict(), expectation(plain, noise))


@pytest.mark.usefixtures("fresh_compiler")
def test_mixing_may_stand_inside_the_compiled_function_where_graphs_may_break(noise):
    model = a_model()
    tm = made(model)

    @torch.compile(backend="eager")
    def step_of(images, labels):
        mixed = tm.mix(images, labels)
        return tm.loss(model(mixed.images), mixed)

    expected, _ = expectation(plain, noise)
    assert torch.allclose(step_of(*noise[0]), expected[0], rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
def test_cuda_graphs_equal_the_plain_loop(noise):
    losses = []
    for name, settings in (("plain_loop", {}), ("compiled_step", {"mode": "reduce-overhead"})):
        model = a_model().cuda()
        on_gpu = [(images.cuda(), labels.cuda()) for images, labels in noise * 3]
        losses.append(torch.tensor(list(example(name)["train"](model, made(model), sgd(model), on_gpu, **settings))))
    assert torch.allclose(*losses, rtol=1e-3)


# ------------------------------------------------------------------------------------------ in two processes


class ForTrainer(nn.Module):
    """A timm model as Hugging Face's Trainer calls one."""

    main_input_name = "pixel_values"

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, pixel_values, labels=None):
        return {"logits": self.inner(pixel_values)}


def ddp_before(model, rank):
    tm = made(model, rank)
    return DistributedDataParallel(model), tm


def ddp_after(model, rank):
    model = DistributedDataParallel(model)
    return model, made(model, rank)


def ddp_by_area(model, rank):
    model, tm = ddp_before(model, rank)
    by_area(tm)
    return model, tm


def sharded_before(model, rank):
    tm = made(model, rank)
    return example("fully_sharded")["shard"](model, "cpu"), tm


def sharded_after(model, rank):
    model = example("fully_sharded")["shard"](model, "cpu")
    return model, made(model, rank)


def sharded_by_the_batchs_mean(model, rank):
    model, tm = sharded_before(model, rank)
    by_the_batchs_mean(tm)
    return model, tm


WRAPPED = {
    "ddp_before": ddp_before,
    "ddp_after": ddp_after,
    "sharded_before": sharded_before,
    "sharded_after": sharded_after,
}
WRAPPED_BROKEN = {"ddp_by_area": ddp_by_area, "sharded_by_the_batchs_mean": sharded_by_the_batchs_mean}


def in_trainer(batches, folder):
    """(Losses, weights) of this process under Hugging Face's Trainer."""
    from transformers import TrainingArguments

    from transmix.integrations.transformers import TransMixTrainer

    bare, losses = a_model(), []
    tm = made(bare)
    loss_of = tm.loss
    tm.loss = lambda logits, mixed: (losses.append(loss_of(logits, mixed)), losses[-1])[1]
    examples = [
        {"pixel_values": image, "labels": int(label)}
        for images, labels in batches
        for image, label in zip(images, labels, strict=True)
    ]
    settings = {
        "max_steps": 3,
        "per_device_train_batch_size": len(batches[0][0]),
        "max_grad_norm": 0,
        "learning_rate": LR,
    }
    settings |= {"optim": "sgd", "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential"}
    settings |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    arguments = TrainingArguments(output_dir=folder, **settings)
    TransMixTrainer(ForTrainer(bare), arguments, train_dataset=examples, transmix=tm).train()
    return [loss.item() for loss in losses], bare.state_dict()


@contextmanager
def group(folder, name):
    """Let processes meet over a file: those that torchrun started can meet over its own store once only."""
    join = dist.init_process_group
    place = {"rank": int(os.environ["RANK"]), "world_size": 2, "init_method": f"file://{folder}/{name}.group"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "init_process_group", lambda backend: join(backend, **place))
        yield


def work(folder):
    """What each process does: all cases, then the examples, then the Trainer; results as files."""
    rank, batches = int(os.environ["RANK"]), torch.load(folder / "batches.pt")
    with group(folder, "cases"):
        dist.init_process_group("gloo")
        for name, wrap in (WRAPPED | WRAPPED_BROKEN).items():
            bare = a_model()
            model, tm = wrap(bare, rank)
            train = example("fully_sharded" if "sharded" in name else "distributed_data_parallel")["train"]
            losses = list(train(model, tm, sgd(model), batches[rank::2]))
            weights = {name: w.full_tensor() if isinstance(w, DTensor) else w for name, w in bare.state_dict().items()}
            torch.save((losses, weights), folder / f"{name}-{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()
    for name in ("distributed_data_parallel", "fully_sharded"):
        with redirect_stdout(io.StringIO()) as said, group(folder, name):
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        (folder / f"{name}-{rank}.txt").write_text(said.getvalue())
    if importlib.util.find_spec("transformers") and importlib.util.find_spec("accelerate"):
        torch.save(in_trainer(batches, folder / "trainer"), folder / f"trainer-{rank}.pt")
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(warm_python, tmp_path_factory):
    """Give a function that runs two processes on six batches, once, and returns the folder of results."""
    done = {}

    def start(batches):
        if "folder" not in done:
            folder = done["folder"] = tmp_path_factory.mktemp("processes")
            torch.save(batches, folder / "batches.pt")
            command = [warm_python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
            ran = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=250)
            assert ran.returncode == 0, ran.stderr
        return done["folder"]

    return start


def assert_processes_equal(folder, name, expected):
    results = [torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1)]
    losses = torch.tensor([losses for losses, _ in results]).T
    for _, weights in results:
        assert_equal(losses, weights, expected)


def joined(pictures, draw=lambda mixers, step, rank: mixers[rank]):
    """The slow loop on both processes' batches, each mixed by its own mixer."""
    return slow_loop([pictures[0:2], pictures[2:4], pictures[4:6]], draw)


@pytest.mark.parametrize("name", WRAPPED)
def test_two_processes_equal_the_slow_loop_on_the_joined_batch(name, processes, pictures):
    assert_processes_equal(processes(pictures), name, joined(pictures))


@pytest.mark.parametrize("name", WRAPPED_BROKEN)
def test_two_processes_with_other_labels_are_rejected(name, processes, pictures):
    with pytest.raises(AssertionError):
        assert_processes_equal(processes(pictures), name, joined(pictures))


def test_two_processes_that_draw_alike_are_rejected(processes, pictures):
    with pytest.raises(AssertionError):
        assert_processes_equal(
            processes(pictures), "ddp_before", slow_loop([pictures[0:2], pictures[2:4], pictures[4:6]])
        )


def test_hugging_faces_trainer_in_two_processes_equals_the_slow_loop_on_the_joined_batch(processes, pictures):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    def keyed(mixers, step, rank):
        mixers[rank].generator.manual_seed(derive_seed(42, "mix", step, 0, rank))
        return mixers[rank]

    assert_processes_equal(processes(pictures), "trainer", joined(pictures, keyed))


# -------------------------------------------------------------------------------------------------- examples

LOSSES = re.compile(r"^step (\d)  loss \d\.\d{4}$", flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["plain_loop", "accumulation", "compiled_step"])
def test_the_example_runs_as_it_stands(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert LOSSES.findall(capsys.readouterr().out) == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["distributed_data_parallel", "fully_sharded"])
def test_the_example_runs_as_it_stands_in_two_processes(name, processes, pictures):
    folder = processes(pictures)
    assert LOSSES.findall((folder / f"{name}-0.txt").read_text()) == ["1", "2", "3"]
    assert (folder / f"{name}-1.txt").read_text() == ""


if __name__ == "__main__":
    work(Path(sys.argv[1]))
