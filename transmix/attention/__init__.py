"""Reading what the class token sees, without touching model code while fused attention stays on."""

from transmix.attention.error import AttentionError
from transmix.attention.head import ClassAttentionHead, with_class_attention
from transmix.attention.maps import attention_maps
from transmix.attention.reader import Attention, AttentionReader
from transmix.attention.receptive_field import receptive_shift

__all__ = [
    "Attention",
    "AttentionError",
    "AttentionReader",
    "ClassAttentionHead",
    "attention_maps",
    "receptive_shift",
    "with_class_attention",
]
