"""The table of mixing methods: one file each; to add one is a file and a line here."""

from transmix.mixing.attentivecutmix import AttentiveCutMix
from transmix.mixing.cutmix import CutMix
from transmix.mixing.fmix import FMix
from transmix.mixing.gridcutmix import GridCutMix
from transmix.mixing.maskmix import MaskMix
from transmix.mixing.mixup import Mixup
from transmix.mixing.resizemix import ResizeMix
from transmix.mixing.saliencymix import SaliencyMix
from transmix.mixing.smmix import SMMix
from transmix.mixing.snapmix import SnapMix
from transmix.mixing.tokenmix import TokenMix

METHODS = {
    "mixup": Mixup,
    "cutmix": CutMix,
    "gridcutmix": GridCutMix,
    "maskmix": MaskMix,
    "tokenmix": TokenMix,
    "fmix": FMix,
    "resizemix": ResizeMix,
    "snapmix": SnapMix,
    "smmix": SMMix,
    "attentivecutmix": AttentiveCutMix,
    "saliencymix": SaliencyMix,
}
"""Name -> method, a frozen dataclass whose fields are its settings. Most draw from nothing but a generator, see
`transmix.mixing.mixer.Method`; those with `looks_at` are placed by maps of the clean images, see `SMMix.place`."""
