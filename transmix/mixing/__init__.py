"""Mixing: where the partner's pixels come from. One method a file; `METHODS` is their table."""

from transmix.mixing.attentivecutmix import AttentiveCutMix, top_cells
from transmix.mixing.cells import Cells, cell_mask
from transmix.mixing.cutmix import CutMix, cutmix
from transmix.mixing.draw import Draw, Row
from transmix.mixing.fmix import FMix, FourierShape, fourier_image, threshold_mask
from transmix.mixing.gridcutmix import GridCutMix
from transmix.mixing.mask import paste_mask
from transmix.mixing.maskmix import MaskMix
from transmix.mixing.methods import METHODS
from transmix.mixing.mixed import Mixed
from transmix.mixing.mixer import Mixer
from transmix.mixing.mixup import Mixup, mixup
from transmix.mixing.resizemix import ResizeMix, resizemix
from transmix.mixing.saliency import spectral_residual
from transmix.mixing.saliencymix import SaliencyMix, saliency_box
from transmix.mixing.smmix import SMMix, max_min_square, square_mix
from transmix.mixing.snapmix import SnapMix, snapmix
from transmix.mixing.tokenmix import Block, TokenMix, token_blocks

__all__ = [
    "METHODS",
    "AttentiveCutMix",
    "Block",
    "Cells",
    "CutMix",
    "Draw",
    "FMix",
    "FourierShape",
    "GridCutMix",
    "MaskMix",
    "Mixed",
    "Mixer",
    "Mixup",
    "ResizeMix",
    "Row",
    "SMMix",
    "SaliencyMix",
    "SnapMix",
    "TokenMix",
    "cell_mask",
    "cutmix",
    "fourier_image",
    "max_min_square",
    "mixup",
    "paste_mask",
    "resizemix",
    "saliency_box",
    "snapmix",
    "spectral_residual",
    "square_mix",
    "threshold_mask",
    "token_blocks",
    "top_cells",
]
