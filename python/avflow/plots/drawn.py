"""What a figure function gives back: (figure, axes), which a notebook shows as the picture it is."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

from .paper import untouched

SHOWN_DPI = 110  # of a figure in a notebook; `save` writes 200


class Drawn(tuple):
    """(figure, axes), to be unpacked; a notebook whose cell ends with it shows the figure, without pyplot."""

    def __new__(cls, figure: Figure, axes: Any) -> Drawn:
        return super().__new__(cls, (figure, axes))

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        untouched(self[0]).savefig(file, format="png", dpi=SHOWN_DPI, bbox_inches="tight", metadata={"Software": None})
        return file.getvalue()
