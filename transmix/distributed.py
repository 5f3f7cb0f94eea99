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
    """Another process has failed, or does not answer."""

    code = 1


@dataclass(frozen=True)
class World:
    """This process among all that train together (one, unless started by torchrun).

    Attributes:
        rank: number of this process, 0 writes the run folder.
        size: number of processes.
        local: number of processes on this machine.
        device: where this process computes.
        restarted: torchrun has started the processes again after a failure.
    """

    rank: int
    size: int
    local: int
    device: torch.device
    restarted: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0


def start(device: str = "auto", wait_minutes: float = 10.0) -> World:
    """Find out about this process, and join the others if torchrun started it.

    Args:
        device: "auto", "cpu", "cuda", ...
        wait_minutes: how long to wait for the others, now and whenever something is shared, before it is an error.

    Raises:
        RecipeError: a device that this machine does not have, or processes that cannot find each other.
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
    """Return a part of torchrun's store in which nothing is left from before a restart, and which life this is, from 1.

    torchrun keeps one store over all restarts, in which the addresses of the processes that died still stand; whoever
    reads one before its new owner has written it cannot connect. torchrun's count of restarts differs between
    machines, so the first process names the life, and tells it to each other process under a word that this one
    alone has just made up.
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
                raise dist.DistError(f"not all of {size} processes have come within {wait}")
            for other in range(1, size):
                if store.check([f"transmix/asks/{other}"]):  # now, or in an earlier life: nobody reads that answer
                    store.set(f"transmix/told/{store.get(f'transmix/asks/{other}').decode()}", life)
            time.sleep(0.02)
    return PrefixStore(f"transmix/{life}", store), int(life.partition("-")[0])


def wrap(model: nn.Module, world: World) -> nn.Module:
    """Let a model's gradients be averaged over all processes."""
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
    """Turn what torch raises when another process fails or hangs into one error that says so, and the remedy.

    Raises:
        LostProcessError: the failure is not this process's.
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
            f"process {world.rank} has lost another process, which failed or does not answer; look for what that one "
            f"said, and {remedy} ({said.splitlines()[0][:200]})"
        ) from error


def wait_for_all(world: World) -> None:
    """Return once every process has come here."""
    if world.size > 1:
        dist.barrier()


def share_buffers(model: nn.Module, world: World) -> None:
    """Give every process the first one's buffers (running means of batch norm), so that all evaluate one model."""
    if world.size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def gather(mine: Any, world: World) -> list[Any]:
    """Return what every process has, small and for pickle, in the order of ranks, to every process."""
    if world.size == 1:
        return [mine]
    gathered: list = [None] * world.size
    dist.all_gather_object(gathered, mine)
    return gathered


def from_first(value: Any, world: World) -> Any:
    """Return the first process's value, which pickle can hold, in every process."""
    values = [value]
    if world.size > 1:
        dist.broadcast_object_list(values, 0)
    return values[0]


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor is cut up over processes (a DTensor, whose import would take seconds)."""
    return hasattr(tensor, "full_tensor")


def shard(model: nn.Module, world: World) -> nn.Module:
    """Cut up a model's weights over all processes, in place; each block by itself, and then what is left.

    All processes start from the first one's weights, as they do under DDP.
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
    """Return the modules that a model is a stack of; none if it is not.

    Stacks are lists of modules of one class; of the class that fills most places in them all modules are blocks, in
    whichever stage.
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
    """Whether a module is made of others, is no mere list of them, and has weights."""
    is_list = isinstance(module, nn.ModuleList | nn.Sequential)
    return not is_list and any(True for _ in module.children()) and any(True for _ in module.parameters())


def own_part(tensor: Tensor) -> Tensor:
    """Return this process's shard of a sharded tensor, in the same memory; any other tensor unchanged."""
    return tensor.detach().to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor gathered whole (every process must call this); any other tensor unchanged."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def gather_whole(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Return tensors with those that are cut up whole; every process calls this.

    Args:
        tensors: the same names in the same order in every process.
        keep: whether this process wants them; the others take part and get nothing, which saves their memory.
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
    """Return a whole tensor sharded like a weight; unchanged if the weight is whole or has another shape."""
    if not is_part(weight) or tensor.shape != weight.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = weight.device_mesh, weight.placements  # type: ignore[attr-defined]
    # Every process has read the whole and takes its part without a word; a copy, so that the whole can go.
    return distribute_tensor(tensor.to(weight.device), mesh, placements, src_data_rank=None).clone()


def stop() -> None:
    """Leave the group of processes, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
