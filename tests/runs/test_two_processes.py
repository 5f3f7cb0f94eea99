"""Two processes set a damaged checkpoint aside once, go on from the same one, and stay in step when a save fails."""

import multiprocessing
import os
import socket
from types import SimpleNamespace

import pytest
import torch

from transmix import distributed
from transmix.runs import checkpoint as checkpoints
from transmix.runs.checkpoint import save_checkpoint
from transmix.runs.error import CheckpointError, RunError
from transmix.training import checkpoint_state


def take_part(rank, port, folder, told):
    """Choose a checkpoint and save three times, of which two fail; tell what was done."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)  # the threads of the process that was forked are not there
    world = distributed.start("cpu")
    set_aside, calls = checkpoints.set_aside, []
    checkpoints.set_aside = lambda path: calls.append(path.name) or set_aside(path)
    checkpoint, said = checkpoint_state.choose_checkpoint(folder, world)

    lines, saves = [], []
    run = SimpleNamespace(
        bare=torch.nn.Linear(3, 2), average=None, step_number=3, order=SimpleNamespace(steps_per_epoch=5),
        best=None, stale=0,
        step=SimpleNamespace(optimizer=SimpleNamespace(state={}), scaler=torch.amp.GradScaler("cpu", enabled=False)),
        data=SimpleNamespace(train=range(40)), recipe=SimpleNamespace(run=SimpleNamespace(keep_checkpoints=2)),
        log=SimpleNamespace(sync=lambda: None, rows=0), reads=[], world=world, folder=folder, say=lines.append,
        failed_saves=0,
    )  # fmt: skip
    checkpoint_state.weights_metadata = lambda run: {}

    def fail(root, checkpoint):
        saves.append(sorted(checkpoint.tensors))
        raise CheckpointError("cannot write it")

    good, checkpoint_state.save_checkpoint = checkpoint_state.save_checkpoint, fail
    checkpoint_state.save(run)
    reason = ""
    try:
        checkpoint_state.save(run, last=True)
    except RunError as error:
        reason = str(error)
    checkpoint_state.save_checkpoint = good
    checkpoint_state.save(run)
    told.put((rank, {"checkpoint": checkpoint.name, "said": said, "calls": calls, "lines": lines, "saves": saves,
                     "reason": reason}))  # fmt: skip
    distributed.stop()


@pytest.mark.timeout(120)
def test_the_first_process_alone_sets_aside_and_writes_and_all_stop_together(checkpoint, tmp_path):
    root = tmp_path / "checkpoints"
    for step in (1, 2):
        save_checkpoint(root, checkpoint(step))
    (root / "step-00000002" / "model.safetensors").write_bytes(b"")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    processes = [context.Process(target=take_part, args=(rank, port, tmp_path, told)) for rank in range(2)]
    for process in processes:
        process.start()
    (_, first), (_, second) = sorted((told.get(timeout=100) for _ in processes), key=lambda one: one[0])
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0]
    assert first["checkpoint"] == second["checkpoint"] == "step-00000001"
    assert (first["calls"], second["calls"]) == (["step-00000002"], [])
    assert (len(first["said"]), second["said"]) == (1, [])
    assert sorted(os.listdir(root)) == ["damaged-step-00000002", "step-00000001", "step-00000003"]
    assert first["saves"] == [["model", "optimizer", "random-0", "random-1"]] * 2
    assert (second["saves"], second["lines"]) == ([], [])
    assert first["lines"] == [
        "warning: step 3 is not saved: cannot write it. The newest good checkpoint is step-00000001. Training continues"
    ]
    assert first["reason"] == second["reason"] != ""
