"""TransMix: attention-guided label mixing for any Vision Transformer.

tm = transmix.TransMix(model, smoothing=0.1)
for images, labels in loader:
    mixed = tm.mix(images, labels)
    loss = tm.loss(model(mixed.images), mixed)
"""

from transmix.attention import AttentionError, AttentionReader
from transmix.labels import attention_labels
from transmix.losses import MixedBCE, MixedCrossEntropy, mixed_accuracy
from transmix.methods import (
    AttentiveCutMix,
    FMix,
    MixPro,
    ObjectMix,
    ResizeMix,
    SaliencyMix,
    SMMix,
    SnapMix,
    TLAlign,
    TokenMix,
)
from transmix.mixing import Draw, Mixed, Mixer, cutmix, mixup
from transmix.transmix import TransMix
from transmix.warnings import TransMixWarning

__version__ = "0.1.0"

__all__ = [
    "AttentionError",
    "AttentionReader",
    "AttentiveCutMix",
    "Draw",
    "FMix",
    "MixPro",
    "Mixed",
    "MixedBCE",
    "MixedCrossEntropy",
    "Mixer",
    "ObjectMix",
    "ResizeMix",
    "SMMix",
    "SaliencyMix",
    "SnapMix",
    "TLAlign",
    "TokenMix",
    "TransMix",
    "TransMixWarning",
    "attention_labels",
    "cutmix",
    "mixed_accuracy",
    "mixup",
]
