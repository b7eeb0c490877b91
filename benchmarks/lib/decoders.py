"""Decoders with random weights: of Qwen2.5's sizes in bf16, and of Qwen2.5's proportions at a size of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

import avflow
from avflow.models import family_of
from avflow.models.compat import declare_torchvision

T = TypeVar("T")

# layers, hidden, intermediate, heads, kv heads, vocabulary: the text decoders of Qwen2.5(-Omni), and one to try this on
SHAPES = {
    "3b": (36, 2048, 11008, 16, 2, 151936),
    "7b": (28, 3584, 18944, 28, 4, 151936),
    "tiny": (3, 128, 256, 2, 1, 512),
}


def made_on(device: str, make: Callable[[], T]) -> T:
    """make() with weights in bf16 where they will lie: nothing larger is allocated on the way."""
    declare_torchvision()
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return make()
    finally:
        torch.set_default_dtype(before)


def _qwen2(sizes: tuple[int, int, int, int, int, int], **options: Any) -> torch.nn.Module:
    """A Qwen2 decoder with sdpa; sizes as in SHAPES."""
    declare_torchvision()
    from transformers import Qwen2Config, Qwen2ForCausalLM

    layers, hidden, inner, heads, kv_heads, vocabulary = sizes
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=65536,
        attn_implementation="sdpa",
        **options,
    )
    return Qwen2ForCausalLM(config).eval()


def make_named(shape: str, device: str) -> avflow.Model:
    """The decoder of that name in SHAPES, in bf16. Ends the program for another name."""
    if shape not in SHAPES:
        raise SystemExit(f"--shape {shape}: pass one of {', '.join(SHAPES)}")
    hf = made_on(device, lambda: _qwen2(SHAPES[shape], tie_word_embeddings=True))
    if device == "meta":  # wrap refuses weights that are nowhere; plans ask for none
        return avflow.Model(hf, family_of(hf.config.to_dict(), shape))
    return avflow.wrap(hf)


def make_thin(shape: str) -> avflow.Model:
    """As deep as the decoder of that name in SHAPES, with its heads, each of 8 numbers; in bf16 on the CPU."""
    layers, _, _, heads, kv_heads, _ = SHAPES[shape]
    return avflow.wrap(made_on("cpu", lambda: _qwen2((layers, 8 * heads, 16 * heads, heads, kv_heads, 512))))


def make_sized(layers: int, hidden: int) -> avflow.Model:
    """fp32 on the CPU, with Qwen2.5's proportions: head_dim 64, 4 query heads per key head, MLP 5.4 x hidden."""
    torch.manual_seed(0)
    heads = hidden // 64
    inner = -(-hidden * 43 // 8 // 64) * 64
    return avflow.wrap(_qwen2((layers, hidden, inner, heads, max(1, heads // 4), 1024)))


def shape_facts(shape: str, tokens: int) -> dict[str, Any]:
    """What a result file says of a decoder of SHAPES and a prompt's length."""
    layers, hidden, inner, heads, kv_heads, _ = SHAPES[shape]
    sizes = {"layers": layers, "hidden": hidden, "intermediate": inner, "heads": f"{heads}/{kv_heads}"}
    return {"name": shape, **sizes, "tokens": tokens}
