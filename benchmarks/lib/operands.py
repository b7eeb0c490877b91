"""q, k and v of one attention call, and the calls of avflow's op and of torch's that are timed on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from avflow_ext import AttentionProblem, Tokens, attention
from benchmarks.lib.plan_blocks import block_mask

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

    def flex(
        self,
        tokens: Tokens,
        source: int,
        target: int,
        problem: AttentionProblem | None = None,
        backend: str | None = None,
    ) -> Call:
        """FlexAttention, causal without the edges source -> target; compiled, its block mask built beforehand.

        Every length is a graph of its own: `torch._dynamo.reset()` before the next one.
        problem: the same cut as ours, whose plan says which blocks are open; None lets torch ask the mask everywhere.
        backend: of flex_attention's kernel options: "FLASH" is FlashAttention-4, and an error where it cannot be used.
        """
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        group, n, device = tokens.group.to(self.q.device), len(tokens), self.q.device.type

        def rule(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
            return (i >= j) & ~((group[i] == target) & (group[j] == source))

        if problem is None:
            block = create_block_mask(rule, None, None, n, n, device=device, _compile=device == "cuda")
        else:
            block = block_mask(problem, self.q.shape[1] // self.k.shape[1], rule, self.q.device)
        compiled = torch.compile(flex_attention, dynamic=False)
        wide, options = self.wide, {"BACKEND": backend} if backend else None
        return lambda: compiled(*wide, block_mask=block, kernel_options=options)

    def flash4(self) -> Call:
        """FlashAttention-4, causal, by its own function; compiled when first called, for all lengths.

        Raises:
            ImportError: flash-attn-4 is not installed.
        """
        from flash_attn.cute import flash_attn_func

        q, k, v = (t[None] for t in (self.q, self.k, self.v))  # [1, n, heads, d]

        def run() -> torch.Tensor:
            try:
                return flash_attn_func(q, k, v, causal=True)[0]
            except Exception as error:  # its compiler raises whatever it likes
                raise RuntimeError(f"{type(error).__name__}: {error}") from error

        return run
