"""Checkpoints of video-SALMONN 2+: the published ones, those saved from here, and what is neither."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import InputError, UnsupportedModelError
from ..checkpoints import HUB_OPTIONS, SALMONN_COMPLETE, check_adapter, hub_options, placed, read_json, shards
from .config import VideoSalmonn2PlusConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Published name -> name here; the first pattern that fits counts. Everything else has the same name.
_RENAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^audio\.(conv1|conv2|embed_positions|layers|layer_norm)\.", r"audio.encoder.\1."),
        (r"^audio\.qformer\.bert\.embeddings\.LayerNorm\.", "audio.qformer.layernorm."),
        (
            r"^audio\.qformer\.bert\.encoder\.layer\.(\d+)\.(cross)?attention\.self\.",
            r"audio.qformer.encoder.layer.\1.\2attention.attention.",
        ),
        (r"^audio\.qformer\.bert\.encoder\.", "audio.qformer.encoder."),
    )
)
_UNUSED = "audio.qformer.bert.embeddings.position_ids"  # a buffer that nothing reads


def own_name(published: str) -> str | None:
    """The name in this package's model of a tensor of a published checkpoint; None for the one that is not used."""
    if published == _UNUSED:
        return None
    for pattern, name in _RENAMES:
        new, count = pattern.subn(name, published)
        if count:
            return new
    return published


def load_model(
    name: str | Path,
    dtype: torch.dtype | str = torch.float32,
    device: str | torch.device = "cpu",
    **options: Any,
) -> nn.Module:
    """A checkpoint folder or hub name, published or saved from here, with all weights in `dtype`.

    dtype: "auto" for that of the checkpoint. options: device_map, attn_implementation, trust_remote_code (there is no
    remote code to trust), and where on the hub it is (checkpoints.HUB_OPTIONS).

    Names and shapes are compared with the model's before any weight is read.

    Raises:
        InputError: an option beside these, no such folder, a file of it is missing or broken, a tensor is missing,
            left over or of another shape; the message names it.
        UnsupportedModelError: an adapter, another model, a value not carried.
    """
    from transformers import GenerationConfig

    from .modeling import VideoSalmonn2PlusForConditionalGeneration as Salmonn

    passed = ("device_map", "attn_implementation")
    if unknown := [key for key in options if key not in (*passed, *HUB_OPTIONS, "trust_remote_code")]:
        raise InputError(
            f"{unknown[0]} = {options[unknown[0]]!r}: a video-SALMONN 2+ takes {', '.join((*passed, *HUB_OPTIONS))}"
        )
    folder = _folder(name, hub_options(options))
    check_adapter(folder, str(name))
    config = read_config(folder)
    files = _weight_files(folder)
    with torch.device("meta"):
        empty = Salmonn(config)
    names = _match(files, empty, folder)
    tensors = _read(files, names)
    if config.tie_word_embeddings:
        _check_tied(tensors, folder)
    loader: Any = Salmonn  # declared to give a model alone
    model, info = loader.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        dtype=_own_dtype(config, tensors) if dtype == "auto" else dtype,
        output_loading_info=True,
        **{key: value for key, value in options.items() if key in passed},
    )
    bad = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys") if info.get(kind)}
    if bad:  # compared above; this guards against a loader that renames
        raise InputError(f"{folder}: transformers did not place every tensor: {bad}")
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return placed(model, str(device), options).eval()


def empty_model(name: str, options: dict[str, Any]) -> nn.Module:
    """The model of a checkpoint folder or hub name without weights, on the meta device."""
    from huggingface_hub import hf_hub_download

    from .modeling import VideoSalmonn2PlusForConditionalGeneration

    folder = Path(name)
    config = read_config(folder if folder.is_dir() else Path(hf_hub_download(name, "config.json", **options)).parent)
    with torch.device("meta"):
        return VideoSalmonn2PlusForConditionalGeneration(config)


def read_config(folder: Path) -> VideoSalmonn2PlusConfig:
    """The config of a folder, published or saved from here."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind == VideoSalmonn2PlusConfig.model_type:
        return VideoSalmonn2PlusConfig.from_dict(config)
    if kind != "qwen2_5_vl" or "audio_config" not in config:
        raise UnsupportedModelError(
            f"{folder}: model_type {kind!r}{'' if 'audio_config' in config else ' without audio_config'} is no "
            f"video-SALMONN 2+: load one of {', '.join(SALMONN_COMPLETE)}"
        )
    return VideoSalmonn2PlusConfig.from_published(config)


def register() -> None:
    """Makes AutoConfig and the AutoModel classes know this model's own model_type. May be called again."""
    import transformers

    from .modeling import VideoSalmonn2PlusForConditionalGeneration as Salmonn

    transformers.AutoConfig.register(VideoSalmonn2PlusConfig.model_type, VideoSalmonn2PlusConfig, exist_ok=True)
    for auto in ("AutoModel", "AutoModelForImageTextToText", "AutoModelForCausalLM"):
        getattr(transformers, auto).register(VideoSalmonn2PlusConfig, Salmonn, exist_ok=True)


def _own_dtype(config: VideoSalmonn2PlusConfig, tensors: dict[str, torch.Tensor]) -> torch.dtype:
    """What the config says; where it does not, what most of the weights are in."""
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += tensor.numel()
    return sizes.most_common(1)[0][0]


def _folder(name: str | Path, hub: dict[str, Any]) -> Path:
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or str(name).startswith(".") or str(name).count("/") != 1:
        raise InputError(
            f"no folder {str(name)!r}: pass a checkpoint folder, or a hub name such as {SALMONN_COMPLETE[1]!r}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"], **hub))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise InputError(f"checkpoint {str(name)!r} is neither a folder nor reachable on the hub: {error}") from error


def _weight_files(folder: Path) -> list[Path]:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        return shards(index)
    if not single.is_file():
        other = " (pytorch_model*.bin is not read: convert it to safetensors)" if list(folder.glob("*.bin")) else ""
        raise InputError(f"{folder} lacks {single.name}{other}: download the checkpoint again")
    return [single]


def _match(files: list[Path], empty: PreTrainedModel, folder: Path) -> dict[str, str]:
    """Tensor name in the files -> name in the model, after names and shapes have been compared."""
    from safetensors import SafetensorError, safe_open

    wanted = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    tied = empty.config.tie_word_embeddings
    names, shapes = {}, {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    names[name] = own_name(name)
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is broken: {error}; download the checkpoint again") from error
    given = Counter(own for own in names.values() if own)
    optional = {"lm_head.weight"} if tied else set()
    missing = sorted(wanted.keys() - given.keys() - optional)
    # A tensor under its published name and under its own one at once is one too many.
    unexpected = sorted(n for n, own in names.items() if own and (own not in wanted or (given[own] > 1 and n == own)))
    wrong = sorted(
        f"{name} {shapes[name]}, expected {wanted[own]}"
        for name, own in names.items()
        if own in wanted and shapes[name] != wanted[own]
    )
    problems = [
        f"{len(listed)} {what}: {', '.join(listed[:5])}{', ...' if len(listed) > 5 else ''}"
        for what, listed in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if listed
    ]
    if problems:
        raise InputError(f"{folder}: its tensors are not this config's: {'; '.join(problems)}")
    return {name: own for name, own in names.items() if own}


def _read(files: list[Path], names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Model's name -> tensor, mapped from the files, not copied."""
    from safetensors.torch import load_file

    return {names[name]: tensor for path in files for name, tensor in load_file(path).items() if name in names}


def _check_tied(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    head = tensors.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, tensors["model.embed_tokens.weight"]):
        raise InputError(
            f"{folder}: tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens.weight: set it "
            "to false in config.json if both are meant"
        )
