"""Figures by matplotlib, each from a table: the information flow, attention, eviction."""

from ..moved import old_names
from .accuracy import accuracy
from .attention import lens_lines, pathway_bars, share_bars
from .attention_maps import map_image, share_heads
from .eviction import eviction_lines
from .information_flow import flow, flow_panels, heat_map, save, widths
from .words import shift_lines, word_lines

__all__ = [
    "accuracy",
    "eviction_lines",
    "flow",
    "flow_panels",
    "heat_map",
    "lens_lines",
    "map_image",
    "pathway_bars",
    "save",
    "share_bars",
    "share_heads",
    "shift_lines",
    "widths",
    "word_lines",
]

__getattr__ = old_names(__name__)
