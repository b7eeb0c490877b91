"""Structured attention, masked by token columns instead of an N x N mask, and the gathers of an eviction."""

from ._load import __version__
from .attention import attention, capabilities
from .gather import compact, compact_reference, gather_rms_norm, gather_rms_norm_reference
from .packing import cut_columns
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
    "table_of",
]
