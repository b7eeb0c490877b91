"""Voxtral: one sound of up to 40 min. mistral-common makes ids of its chat, labelled by the bytes that they spell."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError, UnsupportedModelError
from ..media.audio import SAMPLE_RATE
from ..prompts.labels import Span
from .processor_chat import ProcessorFamily, ReadMedium
from .processor_labels import byte_offsets, label_around
from .registry import register

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .base import Model
    from .chat_text import Part

# A turn as it reads. Each of these marks is one token, which no text of a sample makes: mistral-common spells it out.
TURN, TURN_END, SOUND = "<s>[INST]", "[/INST]", "[BEGIN_AUDIO][AUDIO]"


@register
class Voxtral(ProcessorFamily):
    """Checkpoint folders of VoxtralForConditionalGeneration (mistralai/Voxtral-Mini-3B-2507)."""

    model_types = ("voxtral",)
    model_class = "VoxtralForConditionalGeneration"
    processor_class = "VoxtralProcessor"
    reads = ("audio",)
    sound_token = 0.08

    def load_processor(self, folder: str, **options: Any) -> Any:
        from transformers.utils import is_mistral_common_available, is_soundfile_available

        if not (is_mistral_common_available() and is_soundfile_available()):
            raise UnsupportedModelError(
                f"the tokenizer of checkpoint {folder!r} is read by the package mistral-common, which is not there, "
                "older than transformers asks for, or without soundfile: pip install 'mistral-common[audio]'"
            )
        return super().load_processor(folder, **options)

    def most_seconds(self, model: Model) -> float:
        return 2400.0

    def special_texts(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        return list(tokenizer.all_special_tokens)

    def render(self, model: Model, system: str | None, parts: list[Part]) -> tuple[str, list[Span]]:
        if system is not None:
            raise InputError("Voxtral's chat has no system text beside a sound: leave system out")
        text, spans = TURN, []
        for part in parts:
            added = SOUND if isinstance(part, str) else part.text
            if not isinstance(part, str):
                spans.append(Span(len(text), len(text) + len(added), part.group, part.item))
            text += added
        return text + TURN_END, spans

    def call(self, model: Model, text: str, read: ReadMedium) -> dict[str, Any]:
        user, _, begun = text.removeprefix(TURN).partition(TURN_END)
        before, after = ([{"type": "text", "text": part}] * bool(part) for part in user.split(SOUND))
        chat = [{"role": "user", "content": [*before, _wav(read), *after]}]
        inputs = dict(model.processor.apply_chat_template(chat))
        # Not every transformers passes a begun answer on; mistral-common would make the same ids of it.
        more = model.processor.tokenizer(begun, add_special_tokens=False)["input_ids"]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([more], dtype=torch.int64)], 1)  # [1, N]
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        return inputs

    def label_text(
        self, model: Model, text: str, spans: list[Span], ids: list[int], mark: str
    ) -> tuple[list[str], list[int]]:
        from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy

        tekken = model.processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer
        spelled = [tekken.id_to_byte_piece(token, SpecialTokenPolicy.KEEP) for token in ids]
        whole = b"".join(spelled).decode("utf-8", errors="replace")
        return label_around(whole, byte_offsets(spelled), text, spans, mark)


def _wav(read: ReadMedium) -> dict[str, str]:
    """The sound as a part of a chat: a file of 32-bit floats, so that no sample is rounded on the way."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, read.media.sound, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return {"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()}
