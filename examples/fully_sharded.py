"""FSDP2 (fully_shard): weights, gradients and optimizer state cut up over the processes, block by block.

torchrun --nproc-per-node 2 examples/fully_sharded.py
"""

import os

import timm
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from transmix import TransMix


def shard(model, device):
    """Cut up every block by itself, and then what is left."""
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train(model, tm, optimizer, batches):
    """Yield this process's loss of every step."""
    for images, labels in batches:
        mixed = tm.mix(images, labels)
        loss = tm.loss(model(mixed.images), mixed)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def main():
    """Train a tiny ViT on noise for three steps."""
    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    rank = dist.get_rank()

    torch.manual_seed(0)  # the same weights everywhere
    tiny = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = shard(timm.create_model("deit_tiny_patch16_224", **tiny).train().to(device), device.type)
    tm = TransMix(model, smoothing=0.1, generator=torch.Generator().manual_seed(rank))  # before or after sharding
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    torch.manual_seed(rank)  # other images
    batches = [(torch.rand(6, 3, 32, 48).to(device), torch.randint(4, (6,)).to(device)) for _ in range(3)]
    for step, loss in enumerate(train(model, tm, optimizer, batches), 1):
        if rank == 0:
            print(f"step {step}  loss {loss:.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
