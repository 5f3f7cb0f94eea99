"""Mixing: pure tensors in, pure tensors out. Boxes, images, label rules."""

from transmix.mixing.labels import attention_labels
from transmix.mixing.mixed import Mixed, cutmix, mixup
from transmix.mixing.mixer import Draw, Mixer

__all__ = ["Draw", "Mixed", "Mixer", "attention_labels", "cutmix", "mixup"]
