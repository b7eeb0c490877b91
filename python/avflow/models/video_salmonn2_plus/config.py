"""The configuration of video-SALMONN 2+, also from the flat config.json that its checkpoints carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig
from transformers.models.blip_2.configuration_blip_2 import Blip2QFormerConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.whisper.configuration_whisper import WhisperConfig

from ...errors import InputError, UnsupportedModelError

LAYOUTS = ("released", "trained")
TEXTS = ("system", "instruction")
SAMPLING = ("fps", "min_frames", "max_frames", "min_pixels", "max_pixels")
ENCODER_RATE = 50  # frames a second that the audio encoder gives: 16 kHz, hop 160, one stride of 2

_PARTS = {
    "text_config": Qwen2_5_VLTextConfig,
    "vision_config": Qwen2_5_VLVisionConfig,
    "audio_config": WhisperConfig,
    "qformer_config": Blip2QFormerConfig,
}


class VideoSalmonn2PlusConfig(PreTrainedConfig):
    """Four parts, the ids that stand for media, and how positions are laid out.

    Args:
        text_config, vision_config, audio_config, qformer_config: the parts' own configs, or their fields as a dict.
        position_layout: "released", what the published inference code computes, or "trained", the time-aligned
            positions of training. See `positions.py`.
        seconds_per_window: what one query of the Q-Former hears; windows do not overlap.
        query_length: audio tokens per window.
        prompt_texts: "system" and "instruction" that the model was trained with; None: the published ones.
        video_sampling: "fps", "min_frames", "max_frames", "min_pixels", "max_pixels" that it was trained with, those
            that differ from the published code's (`processing.SAMPLING`).

    Raises:
        InputError: a field that is missing or does not fit the others; the message names it.
    """

    model_type = "video_salmonn2_plus"
    sub_configs = _PARTS
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
    has_no_defaults_at_init = True  # read by transformers 5.17: there is no config without arguments

    if TYPE_CHECKING:  # as they are after __post_init__
        text_config: Qwen2_5_VLTextConfig
        vision_config: Qwen2_5_VLVisionConfig
        audio_config: WhisperConfig
        qformer_config: Blip2QFormerConfig
    else:  # as they are given, which transformers checks
        text_config: dict | PreTrainedConfig | None = None
        vision_config: dict | PreTrainedConfig | None = None
        audio_config: dict | PreTrainedConfig | None = None
        qformer_config: dict | PreTrainedConfig | None = None
    position_layout: str = "released"
    seconds_per_window: float = 0.5
    query_length: int = 1
    image_token_id: int = 151655
    video_token_id: int = 151656
    audio_token_id: int = 151665
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    tie_word_embeddings: bool = False
    prompt_texts: dict | None = None
    video_sampling: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for name, part in _PARTS.items():
            value = getattr(self, name)
            if value is None:
                raise InputError(f"{name}: missing; a video-SALMONN 2+ config has {', '.join(_PARTS)}")
            if isinstance(value, dict):
                setattr(self, name, part(**value))
        super().__post_init__(**kwargs)
        self._check()

    def to_diff_dict(self) -> dict[str, Any]:
        """Every field: none of the parts has defaults that fit this model."""
        out = self.to_dict()
        out.pop("_name_or_path", None)
        return out

    @classmethod
    def from_published(cls, config: dict[str, Any], **more: Any) -> VideoSalmonn2PlusConfig:
        """The config of a published checkpoint: flat text fields, `vision_config`, `audio_config`.

        Raises:
            InputError: a field is missing or of the wrong kind. UnsupportedModelError: a value that this model cannot
                carry out. Both name the field.
        """
        audio = _take(config, "audio_config", dict)
        parts: dict[str, Any] = {
            "text_config": _text(config),
            "vision_config": _vision(_take(config, "vision_config", dict)),
            "audio_config": _audio(audio),
            "qformer_config": _qformer(_take(audio, "audio_config.qformer_config", dict), audio),
        }
        return cls(
            **parts,
            seconds_per_window=_window(audio),
            query_length=_take(_take(audio, "audio_config.qformer_config", dict), "query_length", int, 1),
            tie_word_embeddings=_take(config, "tie_word_embeddings", bool, False),
            **{name: _take(config, name, int) for name in _IDS},
            **({name: config[name] for name in _OWN if name in config} | more),
        )

    @property
    def frames_per_window(self) -> int:
        """Encoder frames that one window holds."""
        return round(self.seconds_per_window * ENCODER_RATE)

    @property
    def audio_tokens_per_piece(self) -> int:
        """Audio tokens of one piece of sound: 60 for 30 s in the published models."""
        return self.audio_config.max_source_positions // self.frames_per_window * self.query_length

    def _check(self) -> None:
        text, vision, audio, qformer = (getattr(self, name) for name in _PARTS)
        if self.position_layout not in LAYOUTS:
            raise InputError(f"position_layout {self.position_layout!r}: pass one of {', '.join(LAYOUTS)}")
        if text.hidden_size % text.num_attention_heads:
            raise InputError(f"hidden_size {text.hidden_size}: not a multiple of {text.num_attention_heads} heads")
        section = text.rope_parameters.get("mrope_section")
        half = text.hidden_size // text.num_attention_heads // 2
        if section is None or len(section) != 3 or sum(section) != half:
            raise InputError(f"mrope_section {section}: need three numbers whose sum is half a head, {half}")
        pairs = (
            ("vision_config.out_hidden_size", vision.out_hidden_size, "hidden_size", text.hidden_size),
            ("qformer_config.encoder_hidden_size", qformer.encoder_hidden_size, "audio d_model", audio.d_model),
            ("qformer_config.cross_attention_frequency", qformer.cross_attention_frequency, "one in each layer", 1),
        )
        for name, value, other, wanted in pairs:
            if value != wanted:
                raise InputError(f"{name} {value}: must equal {wanted} ({other})")
        frames = self.seconds_per_window * ENCODER_RATE
        if frames < 1 or frames != int(frames) or audio.max_source_positions % int(frames):
            raise InputError(
                f"seconds_per_window {self.seconds_per_window}: {frames} encoder frames do not divide the "
                f"{audio.max_source_positions} of a piece (max_source_positions)"
            )
        if self.query_length < 1:
            raise InputError(f"query_length {self.query_length}: need at least one query")
        for name in _IDS:
            if not 0 <= getattr(self, name) < text.vocab_size:
                raise InputError(f"{name} {getattr(self, name)}: outside the vocabulary of {text.vocab_size}")
        for name, known in (("prompt_texts", TEXTS), ("video_sampling", SAMPLING)):
            given = getattr(self, name) or {}
            if unknown := [key for key in given if key not in known]:
                raise InputError(f"{name} has {unknown[0]!r}: it may have {', '.join(known)}")


_OWN = ("position_layout", "prompt_texts", "video_sampling")  # that no published config.json has
_IDS = ("image_token_id", "video_token_id", "audio_token_id", "vision_start_token_id", "vision_end_token_id")
_REQUIRED = object()


def _take(config: dict[str, Any], name: str, kind: Any, default: Any = _REQUIRED) -> Any:
    """config's field, named by the last part of `name`; the whole name is for the message."""
    value = config.get(name.rpartition(".")[2], default)
    if value is _REQUIRED:
        raise InputError(f"config.json has no {name}: is it a video-SALMONN 2+ checkpoint?")
    wrong_bool = isinstance(value, bool) and kind is not bool
    if kind is not None and (wrong_bool or not isinstance(value, kind)):
        expected = kind.__name__ if isinstance(kind, type) else "number"
        raise InputError(f"config.json: {name} is {value!r}, expected {expected}")
    return value


def _fields(config: dict[str, Any], where: str, required: tuple[str, ...], optional: dict[str, Any]) -> dict[str, Any]:
    taken = {name: _take(config, where + name, int) for name in required}
    kinds = {name: (int, float) if isinstance(default, float) else type(default) for name, default in optional.items()}
    return taken | {name: _take(config, where + name, kinds[name], value) for name, value in optional.items()}


def _text(config: dict[str, Any]) -> dict[str, Any]:
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    out = _fields(
        config,
        "",
        (*sizes, "num_key_value_heads"),
        {"hidden_act": "silu", "max_position_embeddings": 128000, "initializer_range": 0.02, "attention_dropout": 0.0},
    )
    scaling = _take(config, "rope_scaling", dict)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise UnsupportedModelError(f"config.json: rope_scaling type {kind!r} is not carried, only 'default'")
    if _take(config, "use_sliding_window", bool, False):
        raise UnsupportedModelError("config.json: use_sliding_window is true; this model attends to everything")
    rope = {
        "rope_type": "default",
        "rope_theta": _take(config, "rope_theta", (int, float)),
        "mrope_section": _take(scaling, "rope_scaling.mrope_section", list),
    }
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in config}
    return out | ids | {"rms_norm_eps": _take(config, "rms_norm_eps", (int, float)), "rope_parameters": rope}


def _vision(config: dict[str, Any]) -> dict[str, Any]:
    out = _fields(
        config,
        "vision_config.",
        ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size"),
        {"hidden_act": "silu", "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112},
    )
    # Qwen2.5-VL's config.json says in_chans where transformers says in_channels.
    channels = config.get("in_channels", config.get("in_chans", 3))
    full = _take(config, "vision_config.fullatt_block_indexes", list, [7, 15, 23, 31])
    return out | {"in_channels": channels, "fullatt_block_indexes": full, "tokens_per_second": 2}


def _audio(config: dict[str, Any]) -> dict[str, Any]:
    out = _fields(
        config,
        "audio_config.",
        ("num_mel_bins", "encoder_layers", "encoder_attention_heads", "d_model", "encoder_ffn_dim"),
        {"max_source_positions": 1500, "activation_function": "gelu", "scale_embedding": False},
    )
    return out | {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "encoder_layerdrop": 0.0}


def _window(audio: dict[str, Any]) -> float:
    window = _take(audio, "audio_config.second_per_window", (int, float), 0.5)
    stride = _take(audio, "audio_config.second_stride", (int, float), 0.5)
    if window != stride:
        raise UnsupportedModelError(
            f"config.json: audio_config.second_stride {stride} is not second_per_window {window}: windows that overlap "
            "are not carried"
        )
    return window


def _qformer(config: dict[str, Any], audio: dict[str, Any]) -> dict[str, Any]:
    where = "audio_config.qformer_config."
    out = _fields(
        config,
        where,
        ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
        {"hidden_act": "gelu", "layer_norm_eps": 1e-12},
    )
    position = config.get("position_embedding_type", "absolute")
    if position != "absolute":
        raise UnsupportedModelError(f"config.json: {where}position_embedding_type {position!r} is not carried")
    return out | {
        "cross_attention_frequency": _take(config, where + "cross_attention_freq", int),
        "encoder_hidden_size": _take(config, where + "encoder_width", int),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "use_qformer_text_input": False,
    }
