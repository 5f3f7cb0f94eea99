"""Mixing: where the partner's pixels come from. One method a file; `METHODS` is their table."""

from transmix.mixing.cutmix import CutMix, cutmix
from transmix.mixing.draw import Draw, Row
from transmix.mixing.methods import METHODS
from transmix.mixing.mixed import Mixed
from transmix.mixing.mixer import Mixer
from transmix.mixing.mixup import Mixup, mixup

__all__ = ["METHODS", "CutMix", "Draw", "Mixed", "Mixer", "Mixup", "Row", "cutmix", "mixup"]
