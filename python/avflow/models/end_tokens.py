"""Which token ids end an answer."""

from __future__ import annotations

from .base import Model


def end_tokens(model: Model) -> set[int]:
    """Ids that end an answer, of the model's generation_config."""
    ends = getattr(getattr(model.hf, "generation_config", None), "eos_token_id", None)
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)
