"""Windows: the set of decoder layers in which a knockout is in force, for every centre layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ..checks import MOST_LAYERS, members, shown
from ..errors import InputError

WindowStyle = Literal["center", "inverse", "top_down", "bottom_up"]
STYLES: tuple[WindowStyle, ...] = ("center", "inverse", "top_down", "bottom_up")


def window(layer: int, width: int, style: WindowStyle, n_layers: int) -> frozenset[int]:
    """Layers (0-based) of the window at `layer`.

    center: max(0, layer - width // 2) .. min(n_layers, layer + ceil(width / 2)) - 1; inverse: all other layers;
    top_down: layer .. n_layers - 1; bottom_up: 0 .. layer. The last two take no notice of `width`.

    Raises:
        InputError: a layer outside the model, a width below 1, an unknown style.
    """
    if not isinstance(style, str) or style not in STYLES:
        raise InputError(f"window style {shown(style)}: pass one of {', '.join(STYLES)}")
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= MOST_LAYERS:
        raise InputError(f"window width {shown(width)}: pass a number of layers, 1 or more")
    if not 0 <= layer < n_layers:
        raise InputError(f"layer {layer} is out of range: the model has layers 0 .. {n_layers - 1}")
    if style == "top_down":
        return frozenset(range(layer, n_layers))
    if style == "bottom_up":
        return frozenset(range(layer + 1))
    centre = frozenset(range(max(0, layer - width // 2), min(n_layers, layer + (width + 1) // 2)))
    return centre if style == "center" else frozenset(range(n_layers)) - centre


def layer_list(layers: int | Iterable[int] | None, n_layers: int, first: int = 0) -> list[int]:
    """`layers` (None for all, an int, or ints) as a sorted list without repeats.

    first: the lowest that will do, -1 where something may be done before layer 0.

    Raises:
        InputError: a value that is no layer of the model; the message names it.
    """
    if layers is None:
        return list(range(n_layers))
    values = [layers] if isinstance(layers, int) else members(layers, MOST_LAYERS)
    if values is None:
        raise InputError(f"layers is {shown(layers)}: pass integers, or None for all")
    wrong = [v for v in values if isinstance(v, bool) or not isinstance(v, int)]
    if wrong:
        raise InputError(f"layers holds {shown(wrong[0])}: pass integers")
    if len(values) > MOST_LAYERS:
        raise InputError(f"layers holds more than {MOST_LAYERS}: the model has layers 0 .. {n_layers - 1}")
    outside = sorted({v for v in values if not first <= v < n_layers})
    if outside:
        raise InputError(f"layers {shown(outside)} are out of range: the model has layers 0 .. {n_layers - 1}")
    if not values:
        raise InputError("layers is empty: pass at least one layer, or None for all")
    return sorted(set(values))
