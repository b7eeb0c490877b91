"""A small byte-level BPE tokenizer in the files of a Qwen2 checkpoint folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)
CORPUS = [
    SYSTEM,
    "Which color is the shape in the video? Which shape moves through the picture? How high is the tone in the clip?",
    "What is heard while the shape moves? In which direction does the shape move? left to right, right to left",
    "A. red\nB. green\nC. blue\nD. yellow\nA. circle\nB. square\nC. triangle\nA. low\nB. middle\nC. high",
    "Answer with the option's letter from the given choices directly.\nsystem user assistant",
]


def build_tokenizer(special: dict[str, str], vocab_size: int = 600, corpus: Sequence[str] = CORPUS) -> Qwen2Tokenizer:
    """Byte-level BPE trained on `corpus`, wrapped as the Qwen2Tokenizer that a published folder gives.

    special: attribute of the tokenizer -> token, in the order of their ids.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bpe = Tokenizer(models.BPE())
    # Words, single digits, punctuation with its newlines, newlines: the split that Qwen2's tokenizer uses.
    split = r" ?[A-Za-z]+|\d| ?[^\sA-Za-z\d]+[\r\n]*|\s*[\r\n]+|\s+"
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    bpe.train_from_iterator([*corpus, *corpus], trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,  # type: ignore[arg-type]  # pairs, as the tokenizer in Rust takes them
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,  # type: ignore[arg-type]  # bytes spell everything, as in a published folder
        extra_special_tokens={**special, "im_start_token": "<|im_start|>"},
        model_max_length=32768,
    )


def save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, special: dict[str, str], template: str | None, folder: Path
) -> None:
    """Tokenizer files, old and new; `template`: for chat_template.json, None for no such file."""
    tokenizer.save_pretrained(folder)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    write_json(folder / "vocab.json", backend["vocab"])
    merges = [m if isinstance(m, str) else " ".join(m) for m in backend["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    added = {t.content: i for i, t in sorted(tokenizer.added_tokens_decoder.items())}
    write_json(folder / "added_tokens.json", added)
    named = {"eos_token": tokenizer.eos_token, "pad_token": tokenizer.pad_token, **special}
    write_json(folder / "special_tokens_map.json", named)
    if template is not None:
        write_json(folder / "chat_template.json", {"chat_template": template})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
