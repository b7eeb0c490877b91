"""Structured attention: packed, variable length, masked by token columns instead of an N x N mask."""

from .attention import attention, capabilities
from .problem import AttentionOutput, AttentionProblem
from .reference import attention_reference
from .tokens import ALL, Cut, Streams, Tokens, mask_of

__all__ = [
    "ALL",
    "AttentionOutput",
    "AttentionProblem",
    "Cut",
    "Streams",
    "Tokens",
    "attention",
    "attention_reference",
    "capabilities",
    "mask_of",
]
