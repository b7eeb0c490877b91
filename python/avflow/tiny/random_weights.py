"""Random weights that do something, and how pictures are prepared, alike in all small checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from .checkpoint import Tiny

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PICTURE: dict[str, Any] = {
    "min_pixels": 4 * 784,
    "max_pixels": 64 * 784,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": MEAN,
    "image_std": STD,
}


def mrope_section(size: Tiny) -> list[int]:
    """The published [16, 24, 24] of head_dim 128 in small: about a quarter of the pairs carry time."""
    half = size.hidden // size.heads // 2
    time = half // 4
    height = (half - time) // 2
    return [time, height, half - time - height]


def scale_weights(hf: PreTrainedModel, size: Tiny) -> None:
    """Make attention matter. With the usual std of 0.02 it is uniform, and a broken mask would go unnoticed."""
    import torch

    with torch.no_grad():
        for name, p in hf.named_parameters():
            if p.ndim >= 2:
                fan_in = p[0].numel()
                gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
                p.normal_(0.0, gain / fan_in**0.5)
            elif name.endswith("proj.bias") and "layers" in name:
                p.normal_(0.0, 0.5 if ".q_proj." in name or ".k_proj." in name else 0.1)
        embeddings = cast(torch.nn.Embedding, hf.get_input_embeddings())
        embeddings.weight.normal_(0.0, 0.5)
        hf.get_parameter("lm_head.weight").normal_(0.0, 1.5 / size.hidden**0.5)
