"""CutMix in the loader's workers, labels by attention in the loop: `python examples/torchvision_collate.py [epochs]`.

The images are coloured noise, made here; the model is torchvision's ViT, small.
"""

import sys

import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision.models import VisionTransformer
from torchvision.transforms import v2

from transmix import Mixed, TransMix
from transmix.integrations.torchvision import CutMix, MixUp

CLASSES = 3
MIX = v2.RandomChoice([CutMix(record=True), MixUp(alpha=0.8, record=True)])


def collate(samples: list) -> Mixed:
    """Mix a batch in the worker that loaded it; the record holds the images, too."""
    _, mixed = MIX(*default_collate(samples))
    return mixed


def coloured_noise(size: int) -> TensorDataset:
    """Draw images that are noise, brighter in the channel that is their class."""
    labels = torch.randint(CLASSES, (size,))
    images = 0.3 * torch.randn(size, 3, 32, 32)
    images[torch.arange(size), labels] += 1
    return TensorDataset(images, labels)


def main(epochs: int = 3) -> None:
    """Train and print the mean loss of each epoch."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=48, mlp_dim=96, num_classes=CLASSES)
    tm = TransMix(model.to(device), smoothing=0.1)
    loader = DataLoader(
        coloured_noise(256), 16, shuffle=True, num_workers=2, pin_memory=device.type == "cuda", collate_fn=collate
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        losses = []
        for mixed in loader:
            mixed = mixed.to(device, non_blocking=True)
            loss = tm.loss(model(mixed.images), mixed)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
