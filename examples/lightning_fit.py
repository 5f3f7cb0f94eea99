"""Lightning: inherit from TransMixModule, set `self.transmix`, and write no training step.

python examples/lightning_fit.py
"""

import lightning
import timm
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from transmix import TransMix
from transmix.integrations.lightning import TransMixModule


class Classifier(TransMixModule):
    """Any model of images; what Lightning knows is left as it would be."""

    def __init__(self, model, **settings):
        super().__init__()
        self.model = model
        self.transmix = TransMix(model, **settings)

    def forward(self, images):
        """Return logits (B, K)."""
        return self.model(images)

    def validation_step(self, batch, batch_idx):
        """Plain images, plain labels."""
        images, labels = batch
        self.log("val_loss", F.cross_entropy(self(images), labels), prog_bar=True)

    def configure_optimizers(self):
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main():
    """Train a tiny ViT on noise for an epoch of two optimizer steps."""
    lightning.seed_everything(0)
    tiny = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = timm.create_model("deit_tiny_patch16_224", **tiny)
    noise = DataLoader(TensorDataset(torch.rand(24, 3, 32, 48), torch.randint(4, (24,))), batch_size=6)
    trainer = lightning.Trainer(
        max_epochs=1, accumulate_grad_batches=2, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Classifier(model, smoothing=0.1), noise, noise)
    for name, value in trainer.callback_metrics.items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    main()
