"""Lightning: a module whose training step mixes its batch and labels it by attention.

A LightningModule and not a callback, since no callback can replace a batch or its loss.
"""

import os

import torch
from lightning import LightningModule
from torch import Tensor

from transmix.data.seeding import derive_seed
from transmix.mixing.mixed import Mixed
from transmix.transmix import TransMix


class TransMixModule(LightningModule):
    """A LightningModule with the training step of TransMix. All else is the user's; validation uses plain images.

    Automatic optimisation, accumulate_grad_batches, precision, strategies and torch.compile work as usual. The
    random draws depend on (seed of `seed_everything`, optimizer step, batch, process), not on the generator of
    `transmix`. So processes mix differently, and a resumed run draws the same as an uninterrupted one.

    Attributes:
        transmix: set it in `__init__`; it reads the model that `forward` calls.

    Example:
        >>> class Classifier(TransMixModule):
        ...     def __init__(self, model):
        ...         super().__init__()
        ...         self.model = model
        ...         self.transmix = TransMix(model, smoothing=0.1)
        ...
        ...     def forward(self, images):
        ...         return self.model(images)
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.AdamW(self.parameters())
    """

    transmix: TransMix

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of images (B, C, H, W) and labels, and log it as "train_loss"."""
        images, labels = batch
        loss = self.mixed_loss(images, labels, batch_idx)
        self.log("train_loss", loss.detach(), prog_bar=True, batch_size=len(images))
        return loss

    def mixed_loss(self, images: Tensor, labels: Tensor, batch_idx: int) -> Tensor:
        """Mix a batch and return its loss, for a custom training step.

        Raises:
            AttributeError: `self.transmix` is not set.
            AttentionError: `self.forward` did not run the model that `self.transmix` reads, in training mode.
        """
        mixed = mix_by_key(self, images, labels, batch_idx)  # type: ignore[reportCallIssue]
        return self.transmix.loss(self(mixed.images), mixed)


@torch.compiler.disable  # draws on the host, in plain Python
def mix_by_key(module: TransMixModule, images: Tensor, labels: Tensor, batch_idx: int) -> Mixed:
    """Mix a batch with random draws keyed by its position in the run.

    Raises:
        AttributeError: the module has no TransMix.
    """
    if not isinstance(getattr(module, "transmix", None), TransMix):
        why = "set self.transmix = TransMix(self.model, ...) in its __init__"
        raise AttributeError(f"{type(module).__name__} has no TransMix: {why}")
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # where seed_everything leaves it, for every process
    key = derive_seed(seed, "mix", module.global_step, batch_idx, module.global_rank)
    module.transmix.mixer.generator.manual_seed(key)
    return module.transmix.mix(images, labels)
