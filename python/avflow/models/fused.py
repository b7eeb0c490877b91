"""Decoder layers whose norms, rotary embedding and SiLU run by avflow's kernels, where a layer is made of just these.

A layer takes part if its modules are those of the usual decoder (RMS norms, plain linear projections), transformers'
own and unhooked, and if its own forward on a few rows has the very bits of the forward here with
plain torch in the kernels' place. Every other layer runs as it is: one with an adapter, of quantised weights, patched,
with factors on its residuals. A mixture of experts runs as it is between the layer's other passes.

Modules are called as modules, so what else is put in their place or watches them goes on to work; those that are passed
over (the norms, the MLP's SiLU) are looked at in each call.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

import avflow_ext
from avflow_ext import capabilities

from ..errors import AvflowError
from .attention import NAME, attention_forward, register
from .bare import is_bare
from .base import Model
from .compat import attention_name, attributes, cache_in, decoder_configs
from .every_module import every_module

Patch = tuple[Any, str, Any]  # as of compat.attributes

# float32 stays with plain torch: the kernels' sums have another order, and its results would change in their last bits,
# for some 4 % of a sweep's time on the CPU; CUDA has no kernels for it.
DTYPES: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_BESIDE = {"q_norm", "k_norm", "rotary_emb"}  # that attention may have too
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_SILU = ("SiLUActivation", "SiLU")
_OF_ALL_MODULES = frozenset(vars(nn.Module()))  # attributes that are no settings of a class of its own
_PROBE_ROWS = 5

# By layer: what it was made of when it was tried, and whether it had the same bits.
_TRIED: weakref.WeakKeyDictionary[nn.Module, tuple[Any, bool]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class _Ops:
    """The four passes: the kernels, or plain torch."""

    rms_norm: Callable[..., torch.Tensor]
    add_rms_norm: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    rotary: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    silu_mul: Callable[..., torch.Tensor]


_KERNELS = _Ops(avflow_ext.rms_norm, avflow_ext.add_rms_norm, avflow_ext.rotary, avflow_ext.silu_mul)
_PLAIN = _Ops(
    avflow_ext.rms_norm_reference,
    avflow_ext.add_rms_norm_reference,
    avflow_ext.rotary_reference,
    avflow_ext.silu_mul_reference,
)


def fused_layers(model: Model, count: int | None = None) -> list[Patch]:
    """Patches for `compat.attributes`: the layers that take part, by the kernels; none where these do not run.

    count: of the first so many layers alone.

    What else is to be set in the same places goes into one list with these (`walk.row_wise`): of two contexts that set
    one attribute, an interrupt may end the outer one first. Waits for the device once a model.
    """
    dtype = model.dtype
    if not _runs(model.device, dtype):
        return []
    patches: list[Patch] = []
    codes: dict[type[nn.Module], tuple[Any, ...]] = {}
    for layer in islice(model.layers, count):
        kind = _kind(layer, dtype, codes)
        if kind is None:
            continue
        if _TRIED.get(layer, (None,))[0] != kind:  # each: their forwards may look at their number
            _TRIED[layer] = kind, _is_exact(model, layer)
        if _TRIED[layer][1]:
            patches += _patches(layer, _KERNELS)
    return patches


def first_norm(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """How the layer runs its first norm while its patches are in force, or without: for who stands in its place."""
    return getattr(layer.__dict__.get("forward"), "first_norm", layer.input_layernorm.forward)


def _runs(device: torch.device, dtype: torch.dtype) -> bool:
    if dtype not in DTYPES or device.type not in ("cpu", "cuda"):
        return False
    if device.type == "cpu":
        return True
    found = capabilities()["cuda"]
    return bool(found and found["path"])


# ---------------------------------------------------------------- which layers


def _kind(layer: nn.Module, dtype: torch.dtype, codes: dict[type[nn.Module], tuple[Any, ...]]) -> Any:
    """The layer's classes and settings, where these may be those that are computed here; None: they are not.

    Asked for all layers in every walk, before the first of them may run: no generators of torch's over modules.
    codes: what `_code` gave of the classes met so far; of one call of `fused_layers`, since code may be exchanged.
    """
    attention: Any = getattr(layer, "self_attn", None)
    if _children(layer) != _LAYER or not _ATTENTION <= (inside := _children(attention)) <= _ATTENTION | _BESIDE:
        return None
    if not all(_is_linear(attention._modules[name], dtype) for name in _ATTENTION):
        return None
    norms = [layer._modules[name] for name in ("input_layernorm", "post_attention_layernorm")]
    norms += [attention._modules[name] for name in ("q_norm", "k_norm") if name in inside]
    if not all(_is_rms_norm(norm, dtype) for norm in norms):
        return None
    mlp: Any = layer._modules["mlp"]
    parts: list[Any] = [layer, attention, *norms, mlp]
    if _is_gated(mlp):
        if not all(_is_linear(mlp._modules[name], dtype) for name in _MLP - {"act_fn"}):
            return None
        parts.append(mlp.act_fn)
    found: list[Any] = [dtype]
    for part in parts:
        kind = type(part)
        if kind not in codes:
            if not kind.__module__.startswith(("transformers.", "torch.nn.")):
                return None
            codes[kind] = (kind, *_code(kind))
        found.append((codes[kind], _settings(part)))
    if "forward" in layer.__dict__ or not all(map(is_bare, every_module(layer)[1:])):
        return None
    return tuple(found)


def _children(module: Any) -> set[str]:
    there = module._modules if isinstance(module, nn.Module) else {}
    return {name for name, one in there.items() if one is not None}


def _is_linear(module: Any, dtype: torch.dtype) -> bool:
    return type(module) is nn.Linear and module.weight.dtype == dtype


def _is_gated(mlp: Any) -> bool:
    """Whether it is an MLP of one SiLU and two products, as the forward here has them."""
    return _children(mlp) == _MLP and type(mlp.act_fn).__name__ in _SILU


def _code(kind: type[nn.Module]) -> list[Any]:
    """A class's forward and what of its file that calls: either may be exchanged after a layer was tried."""
    run = inspect.unwrap(kind.forward)
    names, there = getattr(getattr(run, "__code__", None), "co_names", ()), getattr(run, "__globals__", {})
    return [kind.forward, *(there[name] for name in names if callable(there.get(name)))]


def _settings(module: nn.Module) -> dict[str, Any]:
    simple = (bool, int, float, str, type(None))
    held = vars(module)
    # Not isinstance: it asks a config for its __class__, which transformers answers in Python.
    return {name: held[name] for name in held.keys() - _OF_ALL_MODULES if issubclass(type(held[name]), simple)}


def _is_rms_norm(norm: Any, dtype: torch.dtype) -> bool:
    weight = getattr(norm, "weight", None)
    named = type(norm).__name__.endswith("RMSNorm") and hasattr(norm, "variance_epsilon")
    return named and weight is not None and weight.dim() == 1 and weight.dtype == dtype


@torch.no_grad()
def _is_exact(model: Model, layer: Any) -> bool:
    """Whether the layer's own forward has the bits of the one here with plain torch for the kernels, on a few rows."""
    attention: Any = layer.self_attn
    d: Any = getattr(attention, "head_dim", None)
    known = isinstance(d, int) and isinstance(getattr(attention, "scaling", None), float)
    if not known or not any(attention.config is config for config in decoder_configs(model.text_model)):
        return False
    generator = torch.Generator().manual_seed(0)
    width = model.config.hidden_size
    hidden = torch.randn(1, _PROBE_ROWS, width, generator=generator).to(model.device, model.dtype)
    angles = torch.randn(1, _PROBE_ROWS, d, generator=generator)  # halves differ: nothing may take one for both
    tables = angles.cos().to(model.device, model.dtype), angles.sin().to(model.device, model.dtype)
    scales = []

    def mixed(module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float) -> Any:
        """Every number of q, k and v takes part: [1, rows, heads, d]."""
        scales.append(scale)
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        return (q + k.flip(1) * v).transpose(1, 2)

    def run() -> Any:
        given = {"attention_mask": None, "position_embeddings": tables, "avflow_call": mixed}
        return layer.forward(hidden, **given)

    training = [part for part in layer.modules() if part.training]
    with attention_name(model.text_model, register()), attributes([(part, "training", False) for part in training]):
        try:
            own = run()
            with attributes(_patches(layer, _PLAIN)):
                ours = run()
        except (AvflowError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False  # another layer than those that are known here
    same = isinstance(own, torch.Tensor) and isinstance(ours, torch.Tensor) and torch.equal(own, ours)
    return same and scales == [attention.scaling] * 2


# ---------------------------------------------------------------- their forwards


def _patches(layer: Any, ops: _Ops) -> list[Patch]:
    config = layer.self_attn.config
    norms = [getattr(layer.self_attn, name, None) for name in ("q_norm", "k_norm")]
    patches: list[Patch] = [(norm, "forward", _norm_forward(norm, config, ops)) for norm in norms if norm is not None]
    patches.append((layer, "forward", _layer_forward(layer, ops)))
    patches.append((layer.self_attn, "forward", _attention_forward(layer.self_attn, ops)))
    if _is_gated(layer.mlp):
        patches.append((layer.mlp, "forward", _mlp_forward(layer.mlp, config, ops)))
    return patches


def _fits(config: Any, x: torch.Tensor, weights: Iterable[torch.Tensor]) -> bool:
    """Whether a call is one for the kernels: x as the weights are, no gradient asked for, nothing being compiled.

    config: the decoder's. Where it attends by itself the model's own run is wanted, to compare with.
    """
    if torch.compiler.is_compiling() or config._attn_implementation != NAME:
        return False
    if torch.is_grad_enabled() and (x.requires_grad or any(weight.requires_grad for weight in weights)):
        return False
    return all(x.dtype == weight.dtype and x.device == weight.device for weight in weights)


def _norm_forward(norm: Any, config: Any, ops: _Ops) -> Callable[..., torch.Tensor]:
    own = norm.forward

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        if not _fits(config, hidden_states, [norm.weight]):
            return own(hidden_states)
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        return ops.rms_norm(rows, norm.weight, norm.variance_epsilon).view(hidden_states.shape)

    return forward


def _layer_forward(layer: Any, ops: _Ops) -> Callable[..., Any]:
    own, config = layer.forward, layer.self_attn.config
    first, norm = layer.input_layernorm, layer.post_attention_layernorm
    first_forward = _norm_forward(first, config, ops)

    def forward(hidden_states: torch.Tensor, *more: Any, **named: Any) -> Any:
        if more or not _fits(config, hidden_states, [norm.weight]) or not is_bare(norm):
            return own(hidden_states, *more, **named)
        shape = hidden_states.shape
        normed = (first_forward if is_bare(first) else first)(hidden_states)
        attended = layer.self_attn(hidden_states=normed, **named)[0]
        rows = attended.reshape(-1, shape[-1]), hidden_states.reshape(-1, shape[-1])
        total, normed = ops.add_rms_norm(*rows, norm.weight, norm.variance_epsilon)
        out = layer.mlp(normed.view(shape))
        return total.view(shape) + (out[0] if isinstance(out, tuple) else out)  # a mixture's router may come along

    forward.first_norm = first_forward  # type: ignore[attr-defined]
    return forward


def _attention_forward(attention: Any, ops: _Ops) -> Callable[..., Any]:
    own, config = attention.forward, attention.config
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]

    def forward(
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: Any = None,
        **named: Any,
    ) -> Any:
        shape, d = hidden_states.shape[:-1], attention.head_dim
        tables = position_embeddings or ()
        usual = len(tables) == 2 and all(table.shape == (*shape, d) for table in tables)
        usual = usual and cache_in(named) is None
        if not usual or not _fits(config, hidden_states, [attention.q_proj.weight, *tables]):
            return own(
                hidden_states=hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                **named,
            )
        q, k, v = (
            project(hidden_states).view(*shape, -1, d)  # [batch, rows, heads, d]
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = (x if norm is None else norm(x) for x, norm in zip((q, k), norms, strict=True))
        turned = ops.rotary(q.flatten(0, 1), k.flatten(0, 1), *(table.flatten(0, 1) for table in tables))
        q, k, v = (x.view(*shape, -1, d).transpose(1, 2) for x in (*turned, v))
        out, weights = attention_forward(attention, q, k, v, attention_mask, attention.scaling, **named)
        return attention.o_proj(out.reshape(*shape, -1)), weights

    return forward


def _mlp_forward(mlp: Any, config: Any, ops: _Ops) -> Callable[..., torch.Tensor]:
    own = mlp.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not _fits(config, x, [mlp.gate_proj.weight]) or not is_bare(mlp.act_fn):
            return own(x)
        gate, up = mlp.gate_proj(x), mlp.up_proj(x)
        rows = (part.reshape(-1, part.shape[-1]) for part in (gate, up))
        return mlp.down_proj(ops.silu_mul(*rows).view(gate.shape))

    return forward
