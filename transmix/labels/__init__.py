"""Labels: what the label of a mixed image is. One rule a file; `RULES` is their table."""

from transmix.labels.area import AreaLabels
from transmix.labels.attention import AttentionLabels, attention_labels
from transmix.labels.centre import CentreLabels
from transmix.labels.control import ControlLabels
from transmix.labels.evidence import Evidence, Rollout
from transmix.labels.line import LineLabels
from transmix.labels.object import ObjectLabels, object_labels
from transmix.labels.progressive import ProgressiveLabels, progressive_labels
from transmix.labels.rollout import RolloutLabels, RolloutMaps, rollout_labels
from transmix.labels.rules import RULES
from transmix.labels.semantic import SemanticLabels, semantic_labels
from transmix.labels.source import SourceLabels, source_labels

__all__ = [
    "RULES",
    "AreaLabels",
    "AttentionLabels",
    "CentreLabels",
    "ControlLabels",
    "Evidence",
    "LineLabels",
    "ObjectLabels",
    "ProgressiveLabels",
    "Rollout",
    "RolloutLabels",
    "RolloutMaps",
    "SemanticLabels",
    "SourceLabels",
    "attention_labels",
    "object_labels",
    "progressive_labels",
    "rollout_labels",
    "semantic_labels",
    "source_labels",
]
