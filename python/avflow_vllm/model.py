"""A decoder of vLLM's whose rows leave between stretches of layers, and the model around it."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import nn
from vllm.compilation.backends import set_model_tag
from vllm.compilation.decorators import support_torch_compile
from vllm.config.compilation import CUDAGraphMode
from vllm.forward_context import get_forward_context

from . import counters
from .attention import convert
from .settings import Settings, read_settings


def stretch_class(number: int) -> type[nn.Module]:
    """A class for one stretch of layers. Each has its own: vLLM's compile cache goes by the name and line of `forward`,
    and would give the second stretch the first one's artifact."""

    def init(self: Any, *, vllm_config: Any, prefix: str = "", layers: Any = ()) -> None:
        nn.Module.__init__(self)
        self.stack = list(layers)  # no ModuleList: they are the decoder's

    def forward(
        self: Any, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        for layer in self.stack:
            hidden_states, residual = layer(positions, hidden_states, residual)
        return hidden_states, residual

    forward.__qualname__ = f"Stretch{number}.forward"
    made = type(f"Stretch{number}", (nn.Module,), {"__init__": init, "forward": forward, "__module__": __name__})
    return support_torch_compile(dynamic_arg_dims={"positions": -1, "hidden_states": 0, "residual": 0})(made)


class Stretches(nn.Module):
    """Eager between the stretches, as vLLM's gemma3n.py is where its fast prefill drops rows; they are compiled."""

    layers: Any
    embed_input_ids: Any
    norm: nn.Module

    def avflow_prepare(self, vllm_config: Any, settings: Settings) -> None:
        self.do_not_compile = True
        starts = sorted({0, *(end + 1 for end in settings.boundaries)})  # once, also where some leave before layer 0
        ends = [*starts[1:], len(self.layers)]
        # Modules of this one, though they hold no weights: vLLM looks for what is compiled among them, and makes no
        # piecewise CUDA graphs where it finds none.
        self.avflow_stretches = nn.ModuleList()
        self.avflow_names: list[list[str]] = []
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            layers = self.layers[start:end]
            with set_model_tag(f"avflow_{number}"):
                stretch = stretch_class(number)(vllm_config=vllm_config, prefix=f"avflow_{number}", layers=layers)
            self.avflow_stretches.append(stretch)
            self.avflow_names.append([layer.self_attn.attn.layer_name for layer in layers])

    def forward(
        self, input_ids: Any, positions: torch.Tensor, intermediate_tensors: Any = None, inputs_embeds: Any = None
    ) -> torch.Tensor:
        """As Qwen2Model's: hidden states of all rows, [rows, D]; those of rows that left are 0, nobody reads them."""
        hidden = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        residual: Any = None
        rows, total = None, len(hidden)
        context = get_forward_context()
        metadata = context.attn_metadata
        for stretch, names in zip(self.avflow_stretches, self.avflow_names, strict=True):
            part = None if metadata is None else getattr(metadata[names[0]], "avflow", None)
            if part is not None:
                if part.relative is not None:
                    context.cudagraph_runtime_mode = CUDAGraphMode.NONE  # graphs are of the whole batch's size
                    hidden = hidden[part.relative]
                    residual = None if residual is None else residual[part.relative]
                    positions = positions[..., part.relative]
                rows = part.rows
                for name in names:
                    context.slot_mapping[name] = metadata[name].avflow_slots
            if metadata is not None:
                counters.rows(len(hidden), total, len(names))
            if len(hidden):  # else all of this chunk has left: nothing is sampled from it
                hidden, residual = stretch(positions, hidden, residual)
        if not len(hidden):
            return hidden.new_zeros(total, hidden.shape[1])
        hidden, _ = self.norm(hidden, residual)
        if rows is None:
            return hidden
        out = hidden.new_zeros(total, hidden.shape[1])
        out[rows] = hidden
        return out


class HasModelState:
    """For the class that vLLM makes of the engine's architecture: Model Runner V2 asks it, and not its decoder."""

    def get_model_state_cls(self) -> Any:
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState

        modules = cast(nn.Module, self).modules()
        if not any(hasattr(part, "avflow_stretches") for part in modules):
            return DefaultModelState
        from .state_v2 import EvictingModelState

        return EvictingModelState


@cache
def in_stretches(decoder: Any) -> Any:
    return type(f"Evicting{decoder.__name__}", (Stretches, decoder), {"__module__": __name__})


class Evicting(HasModelState):
    """Before a ...ForCausalLM of vLLM's, whose constructor makes the decoder `model`; nothing without a schedule."""

    model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        settings = read_settings(vllm_config.additional_config)
        if settings is None or not settings.boundaries:
            return
        decoder: Any = type(self.model)
        self.model.__class__ = in_stretches(decoder)  # vLLM's constructor names the class of its decoder itself
        for number, layer in enumerate(self.model.layers):
            if segment := settings.segment(number):
                convert(layer.self_attn.attn, segment)
        self.model.avflow_prepare(vllm_config, settings)
