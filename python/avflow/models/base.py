"""A model as the rest of avflow sees it, and the one small class that a model family has to fill in."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ..checks import each, shown
from ..errors import InputError, UnsupportedModelError
from ..prompts.groups import GroupTable
from ..prompts.label_hook import Labels, apply_labels
from ..prompts.prompt import Prompt
from ..prompts.sample import Sample
from .batch import Batch, batch_prompts
from .compat import find_text_model
from .empty_model import empty_model
from .head import is_plain, own_logits
from .prepare_options import check_prepare_options, check_taken

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from .compat import GenerativeModel


class Family:
    """What differs between model families. One small subclass each, registered with `models.register`."""

    model_types: tuple[str, ...] = ()  # values of config.model_type that belong to it
    takes_candidates = False  # prepares interleaved items: several images and sounds in turns
    # Groups that `label` tells from ids just as `prepare` does. The user's text is one group to it, whatever its parts.
    told_by_ids: tuple[str, ...] = ("system", "video", "audio", "image", "template", "last", "answer")

    frames_apart = True  # text or marks may stand between the frames of one video

    def serves(self, config: dict[str, Any]) -> bool:
        """Whether a config (config.json as a dict) of one of `model_types` is this family's: some share a type."""
        return True

    def thinker(self, hf: nn.Module) -> nn.Module:
        """The part that reads the prompt and predicts the answer: `hf` itself, or one of its parts."""
        return hf

    def load_hf(self, folder: str, dtype: torch.dtype | str, device: str, **options: Any) -> nn.Module:
        """The transformers model from a local folder or a hub name.

        Args:
            dtype: or "auto". device: where it comes to, unless `options` hold a device_map.
            options: those of `avflow.load` that are given, for from_pretrained. A family that leaves them out of its
                signature serves where none is given.
        """
        raise UnsupportedModelError(f"{type(self).__name__} cannot load {folder!r}: load it and use avflow.wrap")

    def make_empty(self, folder: str, config: dict[str, Any], **options: Any) -> nn.Module:
        """The model without its weights, on the meta device; `config`: config.json. options: as of `load_processor`."""
        return empty_model(folder, config, options)

    def load_processor(self, folder: str, **options: Any) -> Any:
        """The processor (or tokenizer) from a local folder or a hub name.

        options: those of checkpoints.HUB_OPTIONS that are given, and trust_remote_code.
        """
        raise UnsupportedModelError(f"{type(self).__name__} has no processor: pass one to avflow.wrap")

    def prepare(self, model: Model, sample: Sample, **options: Any) -> Prompt:
        """The sample as the model reads it, with every token labelled. A family names its own options."""
        raise UnsupportedModelError(
            f"{type(self).__name__} prepares no samples: build avflow.Prompt(input_ids=..., groups=..., answer_ids=...)"
        )

    def logits(self, model: Model, hidden: torch.Tensor) -> torch.Tensor:
        """The model's logits [1, rows, vocab] from hidden states [1, rows, D] as a decoder layer gives them."""
        normed = model.norm(hidden)
        if model.plain_head is None:
            model.plain_head = is_plain(model)
        return model.lm_head(normed) if model.plain_head else own_logits(model, normed)

    def count_videos(self, model: Model, input_ids: torch.Tensor) -> int:
        """How many videos the ids [N] of a prompt hold: rows of the forward's video_grid_thw that belong to it."""
        return 0

    def patches(self, model: Model) -> list[tuple[Any, str, Any]]:
        """Attributes (object, name, value) to set while avflow runs the model: same results, less waiting."""
        return []

    quicker = patches  # its name before 0.2

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "patches" in vars(cls):
            cls.quicker = cls.patches
        elif "quicker" in vars(cls):
            warnings.warn(
                f"{cls.__name__}.quicker: call it patches; the old name goes with the next release",
                DeprecationWarning,
                stacklevel=2,
            )
            cls.patches = cls.quicker  # type: ignore[method-assign]  # the subclass's method under its new name

    def label(
        self, model: Model, input_ids: torch.Tensor, video_grid_thw: torch.Tensor | None = None
    ) -> tuple[list[str], list[int]]:
        """Group names and items of a prompt, from its ids [N], and from its videos' grids int [videos, 3] if known.

        Raises:
            UnsupportedModelError: the ids of this family do not tell.
        """
        raise UnsupportedModelError(
            f"{type(self).__name__} cannot label tokens from their ids: pass groups=[...], one name per token"
        )


class Model:
    """A transformers model with its processor, and where its decoder's parts are.

    Attributes:
        hf: the transformers model that reads the prompt. family: its `Family`. processor: or None.
        text_model, layers, norm, lm_head: the decoder stack, its layers, its last norm, the output matrix.
        config: the decoder's config. groups: the `GroupTable` of this model's prompts.
        check, check_every: what runs do where they are not the model's own forward ("error", "warn", "off"); N: every
            N-th prompt is compared, beside the first of each kind. As `check=` of `avflow.sweep`, for good.
    """

    def __init__(self, hf: nn.Module, family: Family, processor: Any = None) -> None:
        self.hf = cast("GenerativeModel", family.thinker(hf))
        self.family = family
        self.processor = processor
        self.text_model = find_text_model(self.hf)
        self.layers = self.text_model.layers
        self.norm = self.text_model.norm
        self.config: PreTrainedConfig = self.text_model.config
        self.groups = GroupTable()
        self.tracker: Any = None  # of the avflow.knockout and avflow.evict blocks that are open
        self.warned: set[str] = set()  # what was warned of: once per model
        # What runs do where they are not the model's own forward: see models.proof.
        self.check = "error"
        self.check_every: int | None = None  # every so many prompts one is compared, beside the first of each kind
        self.read = 0  # prompts that were counted for that
        self.proofs: dict[Any, Any] = {}  # by kind of prompt, what was compared with the model's own forward
        self.plain_head: bool | None = None  # whether nothing follows the output matrix; None: not tried yet
        if self._head() is None:
            raise UnsupportedModelError(
                f"{type(hf).__name__} has no lm_head: load the class that predicts tokens (...ForCausalLM or "
                "...ForConditionalGeneration)"
            )

    def _head(self) -> nn.Module | None:
        head = self.hf.get_output_embeddings() if hasattr(self.hf, "get_output_embeddings") else None
        return getattr(self.hf, "lm_head", None) if head is None else head

    @property
    def lm_head(self) -> nn.Module:
        """Asked for each time: `hf.resize_token_embeddings` and PEFT put another module in its place."""
        return cast("nn.Module", self._head())

    @property
    def device(self) -> torch.device:
        return self.text_model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.text_model.embed_tokens.weight.dtype

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def n_heads(self) -> int:
        return self.config.num_attention_heads

    @property
    def n_kv_heads(self) -> int:
        return getattr(self.config, "num_key_value_heads", None) or self.n_heads

    @property
    def head_dim(self) -> int:
        return getattr(self.config, "head_dim", None) or self.config.hidden_size // self.n_heads

    @property
    def vocab(self) -> int:
        return self.config.vocab_size

    def prepare(self, sample: Sample, labels: Any = None, **options: Any) -> Prompt:
        """The sample as the model reads it: media decoded, every token labelled; encodes nothing yet.

        Args:
            labels: a function (prompt, sample) that labels tokens anew, avflow.Labels, or "file.py:function"; after
                the sample's own `labels`. The groups that they name are added to the model's.
            options: of the family; they come before the sample's own `wording`.

        Raises:
            InputError: no Sample, an option out of range; what the family cannot read; labels that do not fit.
        """
        if not isinstance(sample, Sample):
            raise InputError(f"sample = {shown(sample)}: pass an avflow.Sample")
        options = {**(sample.wording or {}), **options}
        check_prepare_options(options)
        check_taken(self.family.prepare, options, type(self.family).__name__)
        hook = Labels.of(labels)
        if (sample.candidates or sample.tagged) is not None and not self.family.takes_candidates:
            raise UnsupportedModelError(
                f"sample {sample.id!r} has {'candidates' if sample.tagged is None else 'tags'}, images and sounds in "
                f"turns, which {type(self.family).__name__} does not lay out"
            )
        return apply_labels(self.family.prepare(self, sample, **options), hook, self.groups, self.text)

    def prepare_batch(self, samples: Iterable[Sample | Prompt], **options: Any) -> Batch:
        """Several samples as one batch, left-padded, for `hf` and `hf.generate`; `avflow.evict(groups=batch)` takes it.

        Args:
            samples: at least one; a prompt of `prepare` stands for its sample. options: as of `prepare`.

        Raises:
            InputError: as `prepare`; no sample; samples that one forward cannot read together.
        """
        given = each(samples)
        if given is None:
            raise InputError(f"samples = {shown(samples)}: pass a list of avflow.Sample")
        prompts = [one if isinstance(one, Prompt) else self.prepare(one, **options) for one in given]
        return batch_prompts(prompts, self._pad_id(), self.device)

    def _pad_id(self) -> int:
        """Any id would do, no row sees it; but a medium's own would be counted."""
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        ids = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        return next((found for found in ids if isinstance(found, int)), 0)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """As `Family.logits`."""
        return self.family.logits(self, hidden)

    def text(self, ids: list[int]) -> str:
        """Token ids as text; the numbers themselves where there is no tokenizer."""
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        if tokenizer is None or not hasattr(tokenizer, "decode"):
            return " ".join(str(i) for i in ids)
        return tokenizer.decode(ids)

    def __repr__(self) -> str:
        return (
            f"avflow.Model({type(self.hf).__name__}, {self.n_layers} layers, {self.n_heads}/{self.n_kv_heads} heads of "
            f"{self.head_dim}, {self.dtype}, {self.device})"
        )


def check_model(model: Any) -> None:
    """Raises InputError for what is no Model: a name, or the transformers model itself."""
    if not (isinstance(model, Model) or hasattr(model, "n_layers")):  # or one that behaves like it
        raise InputError(f"model = {shown(model)}: pass what avflow.load or avflow.wrap gives")
