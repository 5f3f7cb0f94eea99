"""The table of label rules: one file each; to add one is a file and a line here."""

from transmix.labels.area import AreaLabels
from transmix.labels.attention import AttentionLabels
from transmix.labels.centre import CentreLabels
from transmix.labels.line import LineLabels

RULES = {
    "area": AreaLabels,
    "attention": AttentionLabels,
    "line": LineLabels,
    "centre": CentreLabels,
}
"""Name -> rule, a frozen dataclass whose fields are its settings; see `transmix.labels.evidence.Rule`."""
