"""Which layers an axis numbers: round ones, and the first where layers count from 1."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import MaxNLocator


class LayerTicks(MaxNLocator):
    """0, 2, 4 or 0, 5, 10 of layers from 0; 1, 3, 5 or 1, 5, 10 of layers from 1, never 2, 4, 6."""

    def __init__(self, first_layer: int, most: int = 8) -> None:
        super().__init__(integer=True, nbins=most)
        self.first_layer = first_layer

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        found = np.asarray(super().tick_values(vmin, vmax))
        if self.first_layer != 1 or len(found) < 2:
            return found
        step = found[1] - found[0]
        if step == 2:
            return found + np.where(found % 2 == 0, 1, 0)
        return np.where(found == 0, 1, found) if step > 2 else found
