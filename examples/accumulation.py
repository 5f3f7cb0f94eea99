"""Gradient accumulation and mixed precision with a GradScaler: every micro-batch is mixed and labelled by itself.

python examples/accumulation.py
"""

import timm
import torch

from transmix import TransMix


def train(model, tm, optimizer, steps, dtype=torch.float16):
    """Yield the loss of every optimizer step; a step is a list of micro-batches."""
    device = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device)
    for micro_batches in steps:
        losses = []
        for images, labels in micro_batches:
            mixed = tm.mix(images, labels)
            with torch.autocast(device, dtype):
                logits = model(mixed.images)
            loss = tm.loss(logits, mixed) / len(micro_batches)  # float32, whatever the logits are
            scaler.scale(loss).backward()
            losses.append(loss.item())
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        yield sum(losses)


def main():
    """Train a tiny ViT on noise for three steps of two micro-batches."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tiny = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = timm.create_model("deit_tiny_patch16_224", **tiny).train().to(device)
    tm = TransMix(model, smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = [(torch.rand(6, 3, 32, 48).to(device), torch.randint(4, (6,)).to(device)) for _ in range(6)]
    steps = [batches[0:2], batches[2:4], batches[4:6]]
    for step, loss in enumerate(train(model, tm, optimizer, steps), 1):
        print(f"step {step}  loss {loss:.4f}")


if __name__ == "__main__":
    main()
