"""TransMix in the loop of timm's train.py, on coloured noise: `python examples/timm_train.py [steps]`.

The lines that train.py needs are marked; the rest is that script's order of calls, shortened.
"""

import sys

import timm
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.task import ClassificationTask

from transmix.integrations.timm import TransMixup  # 1

CLASSES, MIXUP_OFF_EPOCH = 3, 2


def coloured_noise(batches: int, size: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Draw batches of images that are noise, brighter in the channel that is their class."""
    loader = []
    for _ in range(batches):
        target = torch.randint(CLASSES, (size,))
        images = 0.3 * torch.randn(size, 3, 32, 32)
        images[torch.arange(size), target] += 1
        loader.append((images, target))
    return loader


def main(steps: int = 15) -> None:
    """Train three epochs, the last without mixing, and print the mean loss of each."""
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2}
    model = timm.create_model("deit_tiny_patch16_224", num_classes=CLASSES, **shape)
    mixup_args = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1, "num_classes": CLASSES}

    train_loss_fn = SoftTargetCrossEntropy()
    mixup_fn = TransMixup(model, train_loss_fn, **mixup_args)  # 2
    train_loss_fn = mixup_fn.loss  # 3

    task = ClassificationTask(model, train_loss_fn, device=torch.device("cpu"), verbose=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(3):
        if epoch >= MIXUP_OFF_EPOCH:
            mixup_fn.mixup_enabled = False
        model.train()
        losses = []
        for images, target in coloured_noise(steps):
            images, target = mixup_fn(images, target)
            loss = task(images, target)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        mixing = "mixed" if mixup_fn.mixup_enabled else "not mixed"
        print(f"epoch {epoch} ({mixing}): loss {sum(losses) / len(losses):.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
