"""A loop of one's own: three lines are TransMix, the rest stays as it was.

python examples/plain_loop.py
"""

import timm
import torch

from transmix import TransMix


def train(model, tm, optimizer, batches):
    """Yield the loss of every step."""
    for images, labels in batches:
        mixed = tm.mix(images, labels)
        loss = tm.loss(model(mixed.images), mixed)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def main():
    """Train a tiny ViT on noise for three steps."""
    torch.manual_seed(0)
    tiny = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = timm.create_model("deit_tiny_patch16_224", **tiny).train()
    tm = TransMix(model, smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = [(torch.rand(6, 3, 32, 48), torch.randint(4, (6,))) for _ in range(3)]
    for step, loss in enumerate(train(model, tm, optimizer, batches), 1):
        print(f"step {step}  loss {loss:.4f}")


if __name__ == "__main__":
    main()
