"""The table of mixing methods: one file each; to add one is a file and a line here."""

from transmix.mixing.cutmix import CutMix
from transmix.mixing.mixup import Mixup

METHODS = {
    "mixup": Mixup,
    "cutmix": CutMix,
}
"""Name -> method, a frozen dataclass whose fields are its settings; see `transmix.mixing.mixer.Method`."""
