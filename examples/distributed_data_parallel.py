"""DistributedDataParallel: every process mixes its own share of the batch, with draws of its own.

torchrun --nproc-per-node 2 examples/distributed_data_parallel.py
"""

import os

import timm
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from transmix import TransMix


def train(model, tm, optimizer, batches):
    """Yield this process's loss of every step."""
    for images, labels in batches:
        mixed = tm.mix(images, labels)
        loss = tm.loss(model(mixed.images), mixed)
        loss.backward()  # gradients are averaged over the processes here
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def main():
    """Train a tiny ViT on noise for three steps."""
    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    rank = dist.get_rank()

    torch.manual_seed(0)  # the same weights everywhere
    tiny = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = timm.create_model("deit_tiny_patch16_224", **tiny).train().to(device)
    tm = TransMix(model, smoothing=0.1, generator=torch.Generator().manual_seed(rank))
    model = DistributedDataParallel(model, device_ids=[device.index] if on_gpu else None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    torch.manual_seed(rank)  # other images
    batches = [(torch.rand(6, 3, 32, 48).to(device), torch.randint(4, (6,)).to(device)) for _ in range(3)]
    for step, loss in enumerate(train(model, tm, optimizer, batches), 1):
        if rank == 0:
            print(f"step {step}  loss {loss:.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
