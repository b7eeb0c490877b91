"""Frames and segments of a request's media, numbered as `model.prepare` does: what `EveryNth` counts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avflow.prompts import labels

MOST = 1 << 14  # videos whose grid is remembered; vLLM holds fewer in its cache


class Items:
    """Of one engine's requests. vLLM sends a medium that it has cached without its data: grids are kept by its hash.

    Args:
        ids: group -> id of its placeholder. merge: patches a side that make a token. segment: tokens of a segment of
            sound, 1 for a model without ears.
    """

    def __init__(self, ids: Mapping[str, int], merge: int, segment: int) -> None:
        self.media = labels.MediaIds(**ids)
        self.merge, self.segment = merge, segment
        self._tokens: OrderedDict[str, int] = OrderedDict()  # by a video's hash: tokens of a step of its grid

    def of(self, prompt_ids: Sequence[int], features: Sequence[Any] | None) -> np.ndarray | None:
        """int64 [n], -1 for what is no medium; None where a video's grid is not known.

        features: of an EngineCoreRequest, each with modality, mm_position.offset, identifier and data.
        """
        per_step = []
        for feature in sorted(features or (), key=lambda feature: feature.mm_position.offset):
            if feature.modality == "video":
                tokens = self._step(feature)
                if tokens is None:
                    return None
                per_step.append(tokens)
        out = np.full(len(prompt_ids), -1, np.int64)
        for place, (_, item) in labels.label_media(list(prompt_ids), self.media, per_step, self.segment).items():
            out[place] = item
        return out

    def _step(self, feature: Any) -> int | None:
        if feature.data is not None:
            _, rows, columns = feature.data["video_grid_thw"].data.flatten().tolist()
            self._tokens[feature.identifier] = rows * columns // self.merge**2
            if len(self._tokens) > MOST:
                self._tokens.popitem(last=False)
        return self._tokens.get(feature.identifier)
