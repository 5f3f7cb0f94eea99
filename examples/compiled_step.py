"""torch.compile over model, labels by attention and loss in one graph; mixing, which draws on the host, stays outside.

On a GPU, mode="reduce-overhead" replays the graph as a CUDA graph.

python examples/compiled_step.py
"""

import timm
import torch

from transmix import TransMix


def train(model, tm, optimizer, batches, **compile_settings):
    """Yield the loss of every step."""

    @torch.compile(fullgraph=True, **compile_settings)
    def loss_of(mixed):
        return tm.loss(model(mixed.images), mixed)

    for images, labels in batches:
        torch.compiler.cudagraph_mark_step_begin()  # last step's memory may be written over
        loss = loss_of(tm.mix(images, labels))  # one graph for batches with a box, one for those without
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def main():
    """Train a tiny ViT on noise for three steps."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tiny = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = timm.create_model("deit_tiny_patch16_224", **tiny).train().to(device)
    tm = TransMix(model, smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = [(torch.rand(6, 3, 32, 48).to(device), torch.randint(4, (6,)).to(device)) for _ in range(3)]
    settings = {"mode": "reduce-overhead"} if device == "cuda" else {"backend": "aot_eager"}  # the CPU: no compiler
    for step, loss in enumerate(train(model, tm, optimizer, batches, **settings), 1):
        print(f"step {step}  loss {loss:.4f}")


if __name__ == "__main__":
    main()
