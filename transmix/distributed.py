"""Processes: who this one is, where it computes, the little they say to each other, and models that they share.

Sharded training (FSDP2) cuts weights, gradients and optimizer state up over the processes, block by block. Checkpoints
know nothing of it: they hold whole tensors under the model's own names, as those of any other run.
"""

import inspect
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from transmix.error import RecipeError, TransMixError

PAUSE = 5.0
"""Seconds that a process of torchrun's which has lost another one waits before it fails too: torchrun reports the
failure that it sees first, and ends the others itself."""


class LostProcessError(TransMixError):
    """Another process failed or does not respond."""

    code = 1


@dataclass(frozen=True)
class World:
    """Rank, device and number of processes (one process, unless started by torchrun).

    Attributes:
        rank: rank of this process; rank 0 writes the run folder.
        size: number of processes.
        local: number of processes on this machine.
        device: device of this process.
        restarted: whether torchrun restarted the processes after a failure.
    """

    rank: int
    size: int
    local: int
    device: torch.device
    restarted: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


def start(device: str = "auto", wait_minutes: float = 10.0) -> World:
    """Return this process's `World`; join the process group if torchrun started it.

    Args:
        device: "auto", "cpu", "cuda", ...
        wait_minutes: timeout in minutes for joining and for every collective operation.

    Raises:
        RecipeError: the device does not exist on this machine, or the processes cannot connect.
    """
    absent = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    rank, size, local_rank, local = (int(os.environ.get(name, value)) for name, value in absent.items())
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device, local_rank) if device == "cuda" else torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    if place.type == "cuda":
        torch.cuda.set_device(place)
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if size > 1 and not dist.is_initialized():  # a launcher's own code may have joined already
        backend = "nccl" if place.type == "cuda" else "gloo"
        wait = timedelta(minutes=wait_minutes)
        try:
            store, _, _ = next(rendezvous("env://", timeout=wait))
            if "TORCHELASTIC_RUN_ID" in os.environ:
                store, life = _store_of_this_life(store, rank, size, wait)
                restarted = restarted or life > 1
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
        except (ValueError, dist.DistError) as error:
            raise RecipeError(
                f"process {rank} of {size} cannot join the others: {str(error).splitlines()[0]}. Start all with "
                f"torchrun, or unset RANK and WORLD_SIZE to train in one process"
            ) from error
    return World(rank, size, local, place, restarted)


def _store_of_this_life(store: Store, rank: int, size: int, wait: timedelta) -> tuple[Store, int]:
    """Return a part of torchrun's store without entries from before a restart, and the number of this start, from 1.

    torchrun keeps one store over all restarts, with old addresses of dead processes. A process that reads an old
    address cannot connect. torchrun's restart count differs between machines, so rank 0 chooses the number of this
    start, and sends it to each other process under a random key that this process has just created.
    """
    word = uuid.uuid4().hex
    if rank > 0:
        store.set(f"transmix/asks/{rank}", word)
        store.wait([f"transmix/told/{word}"], wait)
        life = store.get(f"transmix/told/{word}").decode()
        store.add(f"transmix/knows/{life}", 1)
    else:
        life = f"{store.add('transmix/lives', 1)}-{word}"
        end = time.monotonic() + wait.total_seconds()
        while store.add(f"transmix/knows/{life}", 0) < size - 1:
            if time.monotonic() > end:
                raise dist.DistError(f"not all of {size} processes joined within {wait}")
            for other in range(1, size):
                if store.check([f"transmix/asks/{other}"]):  # now, or in an earlier life: nobody reads that answer
                    store.set(f"transmix/told/{store.get(f'transmix/asks/{other}').decode()}", life)
            time.sleep(0.02)
    return PrefixStore(f"transmix/{life}", store), int(life.partition("-")[0])


def wrap(model: nn.Module, world: World) -> nn.Module:
    """Wrap a model so that its gradients are averaged over all processes."""
    if world.size == 1:
        return model
    # Views into DDP's buckets spare a copy of all gradients. Buffers are sent around only where there are any.
    on_gpu = [world.device.index] if world.device.type == "cuda" else None
    parameters = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"  # its older name
    buffers: dict[str, Any] = {sync: any(True for _ in model.buffers())}
    return nn.parallel.DistributedDataParallel(model, device_ids=on_gpu, gradient_as_bucket_view=True, **buffers)


@contextmanager
def losing_others(world: World, remedy: str) -> Iterator[None]:
    """Convert torch's errors about a failed or hanging process into one error with a remedy.

    Raises:
        LostProcessError: another process failed.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip()
        if world.size == 1 or not (isinstance(error, dist.DistError) or "gloo" in said):
            raise
        if "TORCHELASTIC_RUN_ID" in os.environ:
            time.sleep(PAUSE)
        raise LostProcessError(
            f"process {world.rank} lost contact with another process, which failed or hangs; read the error of that "
            f"process, then {remedy} ({said.splitlines()[0][:200]})"
        ) from error


def wait_for_all(world: World) -> None:
    """Wait until every process has reached this point."""
    if world.size > 1:
        dist.barrier()


def share_buffers(model: nn.Module, world: World) -> None:
    """Copy rank 0's buffers (batch norm statistics) to every process, so that all evaluate the same model."""
    if world.size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def gather(mine: Any, world: World) -> list[Any]:
    """Return the small, picklable objects of all processes, in the order of ranks, in every process."""
    if world.size == 1:
        return [mine]
    gathered: list = [None] * world.size
    dist.all_gather_object(gathered, mine)
    return gathered


def from_first(value: Any, world: World) -> Any:
    """Return the value of rank 0 in every process. It must be picklable."""
    values = [value]
    if world.size > 1:
        dist.broadcast_object_list(values, 0)
    return values[0]


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor is sharded over processes (a DTensor, checked without its import, which takes seconds)."""
    return hasattr(tensor, "full_tensor")


def shard(model: nn.Module, world: World) -> nn.Module:
    """Shard a model's weights over all processes, in place: first each block, then the rest.

    All processes start from the weights of rank 0, as in DDP.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor, 0)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for module in [*find_blocks(model), model]:
        # The root too is cut up again after its forward: torch would keep it whole until a backward, and where none
        # follows (an EMA) later forwards would run with the weights of the first.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return model


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model; empty if it has none.

    Stacks are lists of modules of one class. All modules of the most frequent class in such lists are blocks, in any
    stage.
    """
    places = Counter()
    for module in model.modules():
        stack = list(module) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        if len(stack) > 1 and len(set(map(type, stack))) == 1 and _is_block(stack[0]):
            places[type(stack[0])] += len(stack)
    if not places:
        return []
    kind = places.most_common(1)[0][0]
    blocks, inside = [], set()
    for module in model.modules():
        if type(module) is kind and module not in inside:
            blocks.append(module)
            inside.update(module.modules())
    return blocks


def _is_block(module: nn.Module) -> bool:
    """Whether a module has submodules and weights, and is not just a list."""
    is_list = isinstance(module, nn.ModuleList | nn.Sequential)
    return not is_list and any(True for _ in module.children()) and any(True for _ in module.parameters())


def own_part(tensor: Tensor) -> Tensor:
    """Return this process's shard of a sharded tensor, in the same memory; other tensors unchanged."""
    return tensor.detach().to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as a full tensor (every process must call this); other tensors unchanged."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def gather_whole(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Return tensors with sharded ones as full tensors; every process must call this.

    Args:
        tensors: the same names in the same order in every process.
        keep: whether this process keeps the result; others take part but get nothing, which saves memory.
    """
    if not any(map(is_part, tensors.values())):
        return tensors
    found = {}
    for name, tensor in tensors.items():
        complete = whole(tensor.detach())
        if keep:
            found[name] = complete.cpu()
    return found


def cut_like(tensor: Tensor, weight: Tensor) -> Tensor:
    """Shard a full tensor like a weight; unchanged if the weight is not sharded or has another shape."""
    if not is_part(weight) or tensor.shape != weight.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = weight.device_mesh, weight.placements  # type: ignore[attr-defined]
    # Every process has read the whole and takes its part without a word; a copy, so that the whole can go.
    return distribute_tensor(tensor.to(weight.device), mesh, placements, src_data_rank=None).clone()


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
