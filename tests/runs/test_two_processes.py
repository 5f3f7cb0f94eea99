"""Two processes set a damaged checkpoint aside once, go on from the same one, and stay in step when a save fails."""

import json
import os
import socket
import subprocess
import sys

import pytest

from transmix.runs.checkpoint import save_checkpoint

PROGRAM = """
import json, sys
from pathlib import Path
from types import SimpleNamespace as Namespace
import torch
from transmix import distributed
from transmix.runs import retention
from transmix.runs.error import CheckpointError, RunError
from transmix.training import checkpoint_state

folder = Path(sys.argv[1])
world = distributed.start("cpu")
set_aside, calls = retention.set_aside, []
retention.set_aside = lambda path: calls.append(path.name) or set_aside(path)
checkpoint, said = checkpoint_state.choose_checkpoint(folder, world)

lines, saves = [], []
bare = torch.nn.Linear(3, 2)
run = Namespace(
    bare=bare, average=None, step_number=3, order=Namespace(steps_per_epoch=5), best=None, reads=[], world=world,
    step=Namespace(optimizer=Namespace(state={}), scaler=torch.amp.GradScaler("cpu", enabled=False)),
    data=Namespace(train=range(40)), recipe=Namespace(run=Namespace(keep_checkpoints=2)), folder=folder,
    log=Namespace(sync=lambda: None, rows=0), say=lines.append, failed_saves=0,
)
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
print(json.dumps({"checkpoint": checkpoint.name, "said": said, "calls": calls, "lines": lines, "saves": saves,
                  "reason": reason}))
distributed.stop()
"""


@pytest.mark.timeout(120)
def test_the_first_process_alone_sets_aside_and_writes_and_all_stop_together(checkpoint, tmp_path):
    root = tmp_path / "checkpoints"
    for step in (1, 2):
        save_checkpoint(root, checkpoint(step))
    (root / "step-00000002" / "model.safetensors").write_bytes(b"")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    started = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(tmp_path)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in ended)
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
