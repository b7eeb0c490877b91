"""What differs between the transformers versions in use (5.17 .. 5.24), and where a decoder's parts are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ..errors import UnsupportedModelError
from .every_module import every_module
from .ownership import owning
from .undoing import undoing
from .windows import layer_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    # For type checkers: what every version's models and decoders have.

    class GenerativeModel(PreTrainedModel):
        """What `Model.hf` is; it has `generate` where hasattr says so."""

        generate: Callable[..., Any]

    class AttentionModule(nn.Module):
        layer_idx: int

    class DecoderLayer(nn.Module):
        self_attn: AttentionModule
        mlp: nn.Module

    class TextModel(PreTrainedModel):
        """What `find_text_model` finds."""

        layers: Sequence[DecoderLayer]
        norm: nn.Module
        embed_tokens: nn.Embedding
        rotary_emb: nn.Module


_LIBRARIES: list[torch.library.Library] = []  # a schema lives as long as its library object


def declare_torchvision() -> None:
    """Makes `import torchvision` work where its compiled part was built for another torch.

    Its Python part registers a fake kernel for `torchvision::nms` at import and fails where the compiled part, which
    declares that operator, cannot load; transformers then reports that it could not import the model. Declaring the
    schema is enough: the processors use torchvision.transforms.v2.functional, which is plain torch. Does nothing where
    torchvision is absent or whole.
    """
    if "torchvision" in sys.modules or _LIBRARIES:
        return
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)
        import torchvision  # noqa: F401


def cache_argument() -> str:
    """What models call their cache: "cache" from 5.24 on, "past_key_values" before."""
    from transformers.generation.utils import ALL_CACHE_NAMES  # late: `import avflow` does without transformers

    return "cache" if "cache" in ALL_CACHE_NAMES else "past_key_values"


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache among a model's or generate's arguments, by either name; None where there is none."""
    found = arguments.get("cache")
    return arguments.get("past_key_values") if found is None else found


def cache_of(output: Any) -> Any:
    """The cache that a model's output holds, or None. Of the newer versions' outputs, the old name warns."""
    return output.cache if hasattr(output, "cache") else getattr(output, "past_key_values", None)


def find_text_model(hf: nn.Module) -> TextModel:
    """The decoder stack inside a model: the first module with layers, rotary_emb, embed_tokens and norm.

    It sits at `.model` in text-only models, at `.model` or `.model.language_model` in multi-modal ones, depending on
    the version (the Thinker was split in 5.21).
    """
    for module in hf.modules():
        if all(hasattr(module, name) for name in ("layers", "rotary_emb", "embed_tokens", "norm")):
            return cast("TextModel", module)
    raise UnsupportedModelError(
        f"{type(hf).__name__} has no decoder with layers, rotary_emb, embed_tokens and norm: "
        "pass a transformers model of a supported family (see avflow.wrap)"
    )


def decoder_configs(text_model: TextModel) -> list[Any]:
    """The distinct config objects that the decoder and its attention modules read `_attn_implementation` from."""
    configs = [text_model.config]
    for layer in text_model.layers:
        config = getattr(getattr(layer, "self_attn", None), "config", None)
        if config is not None and all(config is not c for c in configs):
            configs.append(config)
    return configs


def check_layers(text_model: TextModel) -> None:
    """Raises UnsupportedModelError where a decoder layer is neither full causal self-attention nor within a window."""
    layer_windows(text_model)
    for index, layer in enumerate(text_model.layers):
        rank = getattr(layer.self_attn, "kv_lora_rank", None) or getattr(text_model.config, "kv_lora_rank", None)
        if rank is not None:
            raise UnsupportedModelError(
                f"decoder layer {index} ({type(layer).__name__}) has multi-head latent attention (MLA, kv_lora_rank "
                f"{rank}): its keys and values are of different widths, and the attention op has one for both; there "
                "is no setting that changes that, take another model"
            )
    loops = getattr(text_model.config, "n_recurrent_loops", 1)
    if loops > 1:
        raise UnsupportedModelError(
            f"the decoder ({type(text_model).__name__}) runs layers {loops} times in a forward: avflow knows one "
            "self-attention a layer"
        )


@contextmanager
def attributes(pairs: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Sets instance attributes (object, name, value) and puts back what was there, also after an exception."""
    with undoing() as undo:
        for owner, name, value in pairs:
            held = owner.__dict__
            undo.append(partial(held.__setitem__, name, held[name]) if name in held else partial(held.pop, name, None))
            held[name] = value
        yield


BLOCK = "_avflow_block"  # attribute of a decoder while blocks of avflow.knockout or avflow.evict are open on it


def open_block(text_model: nn.Module) -> Any:
    """The tracker of the blocks that are open on a decoder, whichever `avflow.wrap` of it they were given; or None."""
    return text_model.__dict__.get(BLOCK)


@contextmanager
def attention_name(text_model: TextModel, name: str) -> Iterator[None]:
    """Lets the decoder, and only it, call the attention function registered under `name`; in this context alone.

    Raises:
        InputError: another thread or task has it do so.
    """
    with owning(text_model), implementation(decoder_configs(text_model), name):
        yield


@contextmanager
def implementation(configs: list[Any], name: str) -> Iterator[None]:
    """Lets the modules that read these config objects call the attention function registered under `name`.

    transformers' own `set_attn_implementation` changes a whole model and checks every part of it anew. Here the towers
    must keep theirs, some of the modules are no models of their own, and a block opens in every forward.
    """
    with undoing() as undo:
        for config in configs:
            undo.append(partial(setattr, config, "_attn_implementation", config._attn_implementation))
        for config in configs:
            config._attn_implementation = name
        yield


def rope_owners(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those of a model's modules that remember the last prefill's positions, in `rope_deltas`."""
    return [m for m in modules if "rope_deltas" in m.__dict__]


@contextmanager
def kept_state(hf: nn.Module) -> Iterator[None]:
    """Keeps the module state that a forward leaves behind: `rope_deltas` of the last prefill."""
    with undoing() as undo:
        for owner in rope_owners(every_module(hf)):
            undo.append(partial(setattr, owner, "rope_deltas", owner.rope_deltas))
        yield


def position_after(modules: Iterable[nn.Module], n: int) -> float | None:
    """Where the model's own generate puts the token after a prompt of n, which its last forward read: by `rope_deltas`.

    It need not be the place after the largest; Qwen3-Omni's may be a fraction. None where no module remembers one.
    """
    deltas = [owner.rope_deltas for owner in rope_owners(modules) if owner.rope_deltas is not None]
    return n + torch.as_tensor(deltas[0]).reshape(-1)[0].item() if deltas else None
