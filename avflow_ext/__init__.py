"""Structured attention, masked by token columns instead of an N x N mask, an eviction's gathers, a layer's passes."""

from ._load import __version__
from .attention import attention, capabilities
from .gather import compact, compact_reference, gather_rms_norm, gather_rms_norm_reference
from .packing import cut_columns
from .passes import (
    add_rms_norm,
    add_rms_norm_reference,
    rms_norm,
    rms_norm_reference,
    rotary,
    rotary_reference,
    silu_mul,
    silu_mul_reference,
)
from .paths import get_cmake_dir, get_include, get_library_dir, get_operators
from .problem import AttentionOutput, AttentionProblem
from .reference import attention_reference
from .tokens import ALL, SCOPES, SEMANTICS, Cut, Streams, Tokens, mask_of, table_of

__all__ = [
    "ALL",
    "SCOPES",
    "SEMANTICS",
    "AttentionOutput",
    "AttentionProblem",
    "Cut",
    "Streams",
    "Tokens",
    "__version__",
    "add_rms_norm",
    "add_rms_norm_reference",
    "attention",
    "attention_reference",
    "capabilities",
    "compact",
    "compact_reference",
    "cut_columns",
    "gather_rms_norm",
    "gather_rms_norm_reference",
    "get_cmake_dir",
    "get_include",
    "get_library_dir",
    "get_operators",
    "mask_of",
    "rms_norm",
    "rms_norm_reference",
    "rotary",
    "rotary_reference",
    "silu_mul",
    "silu_mul_reference",
    "table_of",
]
