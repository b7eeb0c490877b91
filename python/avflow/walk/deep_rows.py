"""Deepstack in a walk: which packed rows are pictures' tokens, and what the decoder adds to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..models.deepstack import Deepstack
from ..uploads import upload_lists


class DeepRows:
    """What the decoder adds to a walk's rows behind its first layers: the features of each row's token.

    Every stream's row has its token's features, like the clean one. A row that joins behind a layer is a copy of one
    that has them already, or rested meanwhile and gets none.
    """

    def __init__(self, parts: Sequence[Deepstack | None], lengths: Sequence[int], rows: Sequence[np.ndarray]) -> None:
        """
        Args:
            parts: of the prompts, whose `lengths` in tokens are. rows: the token of every row, int64 [rows] by number
                among those of all prompts, for each set of columns that the walk has.
        """
        given = [part for part in parts if part is not None]
        self.layers = min((len(part.features) for part in given), default=0)
        if not given:
            return
        device = given[0].features.device
        self.features = torch.cat([part.features for part in given], 1)  # [layers, pictures' tokens, D]
        begins = np.cumsum([0, *lengths[:-1]])
        pictures = [p.tokens.cpu().numpy() + at for p, at in zip(parts, begins, strict=True) if p is not None]
        number = np.full(sum(lengths), -1, np.int64)  # of each token's features
        number[np.concatenate(pictures)] = np.arange(self.features.shape[1])
        self.at = [np.flatnonzero(number[tokens] >= 0) for tokens in rows]
        lists = [part for at, tokens in zip(self.at, rows, strict=True) for part in (at, number[tokens[at]])]
        sent = upload_lists(lists, device)
        self.sent = list(zip(sent[::2], sent[1::2], strict=True))

    def add(self, layer: int, hidden: torch.Tensor, columns: int = 0) -> torch.Tensor:
        """hidden [1, rows, D] as a layer gives it -> as the next one is given it. columns: by which of `rows`."""
        if layer >= self.layers:
            return hidden
        count = int(np.searchsorted(self.at[columns], hidden.shape[1]))
        at, number = (part[:count] for part in self.sent[columns])
        # Not in place: a hook of the user's may keep what the layer gave.
        return hidden.index_add(1, at, self.features[layer].index_select(0, number)[None])
