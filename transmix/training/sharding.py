"""Sharded training (FSDP2): weights, gradients and optimizer state are split over processes, block by block.

Checkpoints do not depend on it: they hold full tensors under the model's own names, as without sharding.
"""

from collections import Counter

import torch
import torch.distributed as dist
from torch import Tensor, nn

from transmix.distributed import World, is_part


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
