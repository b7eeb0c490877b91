"""q, k and v of one attention call, and the calls of avflow's op and of torch's that are timed on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from avflow_ext import AttentionProblem, Tokens, attention

Call = Callable[[], object]


class Operands:
    """Random values."""

    def __init__(
        self,
        rows: int,
        keys: int,
        shape: tuple[int, int, int],
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """shape: heads, kv heads, d."""
        heads, kv_heads, d = shape
        g = torch.Generator(device=device).manual_seed(0)
        self.q, self.k, self.v = (  # [rows, heads, d], [keys, kv_heads, d] twice
            torch.randn(n, h, d, generator=g, device=device).to(dtype)
            for n, h in ((rows, heads), (keys, kv_heads), (keys, kv_heads))
        )

    @cached_property
    def wide(self) -> tuple[torch.Tensor, ...]:
        """The three as [1, heads, n, d], contiguous, as torch's kernels like best; keys repeated for every head."""
        heads = self.q.shape[1]
        return tuple(
            t.repeat_interleave(heads // t.shape[1], 1).transpose(0, 1)[None].contiguous()
            for t in (self.q, self.k, self.v)
        )

    def ours(self, problem: AttentionProblem) -> Call:
        return lambda: attention(self.q, self.k, self.v, problem)

    def sdpa(self, mask: torch.Tensor | None = None, backend: SDPBackend | None = None) -> Call:
        """mask: bool [1, 1, rows, keys]; None is causal. backend: None leaves the choice to torch."""

        wide = self.wide

        def run() -> torch.Tensor:
            return sdpa(*wide, attn_mask=mask, is_causal=mask is None)

        def pinned() -> torch.Tensor:
            with sdpa_kernel(backend):
                return run()

        return run if backend is None else pinned

    def flex(self, tokens: Tokens, source: int, target: int) -> Call:
        """FlexAttention, causal without the edges source -> target; compiled, its block mask built beforehand."""
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        group, n, device = tokens.group.to(self.q.device), len(tokens), self.q.device.type

        def rule(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
            return (i >= j) & ~((group[i] == target) & (group[j] == source))

        torch._dynamo.reset()  # every length is a graph of its own
        block = create_block_mask(rule, None, None, n, n, device=device, _compile=device == "cuda")
        compiled = torch.compile(flex_attention, dynamic=False)
        wide = self.wide
        return lambda: compiled(*wide, block_mask=block)
