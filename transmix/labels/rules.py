"""The table of label rules: one file each; to add one is a file and a line here."""

from transmix.labels.area import AreaLabels
from transmix.labels.attention import AttentionLabels
from transmix.labels.centre import CentreLabels
from transmix.labels.control import ControlLabels
from transmix.labels.line import LineLabels
from transmix.labels.object import ObjectLabels
from transmix.labels.progressive import ProgressiveLabels
from transmix.labels.rollout import RolloutLabels
from transmix.labels.semantic import SemanticLabels
from transmix.labels.source import SourceLabels

RULES = {
    "area": AreaLabels,
    "attention": AttentionLabels,
    "line": LineLabels,
    "centre": CentreLabels,
    "progressive": ProgressiveLabels,
    "rollout": RolloutLabels,
    "source": SourceLabels,
    "semantic": SemanticLabels,
    "object": ObjectLabels,
    "control": ControlLabels,
}
"""Name -> rule, a frozen dataclass whose fields are its settings; see `transmix.labels.evidence.Rule`."""
