"""Loads the compiled module, and the library that registers the operators `torch.ops.avflow.*`."""

import ctypes
import os

import torch  # first: the operators link to torch's libraries without a path of their own

from .calls import carries_tangent
from .paths import get_operators

OPERATORS = get_operators()


def _loaded() -> bool:
    """Whether OPERATORS is loaded already; ImportError where another build of them got in first."""
    if not hasattr(torch.ops.avflow, "attention"):
        return False
    try:
        ctypes.CDLL(OPERATORS, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        raise ImportError(
            "the operators torch.ops.avflow.* are registered already, by another build of avflow in this process: "
            f"load one of them only; this one's are in {OPERATORS}"
        ) from None
    return True


_ready = _loaded()
try:
    from avflow_ext import _C

    if not _ready:
        torch.ops.load_library(OPERATORS)
    __version__ = _C.__version__
except (ImportError, OSError, AttributeError) as error:
    raise ImportError(
        f"avflow's compiled module cannot be loaded with torch {torch.__version__}: {error}. "
        "Install avflow with `pip install .`, or build it in place with `make ext`."
    ) from error

__all__ = ["_C", "__version__"]


@torch.library.register_fake("avflow::attention")
def _attention_fake(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    problem: torch.Tensor,
    scale: float,
    rows: int,
    groups: int,
    return_lse: bool,
    problem_on_device: torch.Tensor | None = None,
    row_order: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    heads, d = q.shape[1], q.shape[2]
    out = q.new_empty((rows, heads, d))
    lse = q.new_empty((rows if return_lse else 0, heads), dtype=torch.float32)
    mass = q.new_empty((rows if groups else 0, heads, groups), dtype=torch.float32)
    return out, lse, mass


@torch.library.register_fake("avflow::gather_rms_norm")
def _gather_rms_norm_fake(
    x: torch.Tensor, weight: torch.Tensor, eps: float, keep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (keep.shape[0], x.shape[1])
    return x.new_empty(shape), x.new_empty(shape)


@torch.library.register_fake("avflow::compact")
def _compact_fake(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return x.new_empty((x.shape[0], x.shape[1], keep.shape[1], x.shape[3]))


@torch.library.register_fake("avflow::rms_norm")
def _rms_norm_fake(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("avflow::add_rms_norm")
def _add_rms_norm_fake(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@torch.library.register_fake("avflow::rotary")
def _rotary_fake(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


@torch.library.register_fake("avflow::silu_mul")
def _silu_mul_fake(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return gate.new_empty(gate.shape)


@torch.library.register_fake("avflow::pack")
def _pack_fake(
    rows: torch.Tensor,
    cuts: torch.Tensor,
    cut_streams: torch.Tensor,
    heads: int,
    kv_heads: int,
    *,
    keys: torch.Tensor | None = None,
    streams: torch.Tensor | None = None,
    keep_rows: torch.Tensor | None = None,
    keep_keys: torch.Tensor | None = None,
    groups: int = 0,
    zero: bool = False,
    latest_order: int | None = None,
    device_type: str = "cpu",
) -> torch.Tensor:
    words = torch.library.get_ctx().new_dynamic_size(min=32)  # the header alone has more
    return rows.new_empty((words,), dtype=torch.int32)


_library = torch.library.Library("avflow", "IMPL")  # what it holds is registered for as long as it lives


def _refuse_gradient(op: str) -> None:
    """Without this, a loss on the op's outputs would leave its inputs' gradients None, and no word said; a derivative
    in forward mode would be 0.

    Not by torch.library.register_autograd, whose kernel asks the same with 2 us more of Python in each call.
    """
    operator = getattr(torch.ops.avflow, op).default

    def kernel(keys: torch._C.DispatchKeySet, *given: object, **by_name: object) -> object:
        if torch.is_grad_enabled() and any(isinstance(t, torch.Tensor) and t.requires_grad for t in given):
            raise NotImplementedError(
                f"torch.ops.avflow.{op} has no backward, and an input requires a gradient: call it under "
                "torch.no_grad(), or detach the input"
            )
        if carries_tangent(given):
            raise NotImplementedError(
                f"torch.ops.avflow.{op} has no derivative, and an input carries a tangent: call it with the primal, "
                "forward_ad.unpack_dual(x).primal"
            )
        return operator.redispatch(keys & torch._C._after_autograd_keyset, *given, **by_name)

    _library.impl(op, kernel, "Autograd", with_keyset=True)


for _op in ("attention", "gather_rms_norm", "compact", "rms_norm", "add_rms_norm", "rotary", "silu_mul"):
    _refuse_gradient(_op)
