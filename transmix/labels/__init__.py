"""Labels: what the label of a mixed image is. One rule a file; `RULES` is their table."""

from transmix.labels.area import AreaLabels
from transmix.labels.attention import AttentionLabels, attention_labels
from transmix.labels.centre import CentreLabels
from transmix.labels.evidence import Evidence
from transmix.labels.line import LineLabels
from transmix.labels.rules import RULES

__all__ = ["RULES", "AreaLabels", "AttentionLabels", "CentreLabels", "Evidence", "LineLabels", "attention_labels"]
