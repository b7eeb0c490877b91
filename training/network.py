"""The small model, its first weights, and its forward over packed questions.

Questions about one scene share its picture and sound: media stand before the question, so their states do not depend on
it. A row of a batch is the shared prompt up to the end of the media, then blocks of one question each. A block sees the
shared part and itself, at the positions it would have if it stood alone: the same numbers, at a third of the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from families import TEXTS
from torch import nn
from transformers import AttentionInterface

from avflow.models.compat import find_text_model
from avflow.synthetic import TASKS
from avflow.synthetic.lineup import PAIRS
from avflow.tiny.tokenizer import build_tokenizer


def make_tokenizer(family):
    """Byte-level BPE in which every word of the question set is one token."""
    words = {a for task in TASKS.values() for a in task.answers}
    asked = [t.question for t in TASKS.values() if t.name != "number"]  # which is asked in words of the others
    corpus = [t for question in asked for t in (question, f"{question}\n")]
    corpus += [*words, *(f"A. {w}\nB. {w}\nC. {w}\n" for w in words), *TEXTS.values(), "system\nuser\nassistant\n"]
    return build_tokenizer(family.tokens, vocab_size=520, corpus=sorted(corpus))


def make_model(family, tokenizer, sizes: dict) -> nn.Module:
    """The exact architecture in small, with weights for training from scratch (torch's own random state)."""
    hf = family.build(tokenizer, sizes)
    layers = find_text_model(hf).config.num_hidden_layers
    with torch.no_grad():
        for name, p in hf.named_parameters():
            if not p.requires_grad:
                continue
            if p.ndim >= 2:
                small = (2 * layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                p.normal_(0.0, small / p[0].numel() ** 0.5)
            elif name.endswith("bias"):
                p.zero_()
        hf.get_input_embeddings().weight.normal_(0.0, 0.7)
        hf.lm_head.weight.normal_(0.0, 0.02)
    return hf


def deepen(shallow, deep, times: int) -> None:
    """Give `deep` the weights of `shallow`: each layer becomes `times` layers, each of which adds its share.

    Nearly the same function, spread over more layers, so that a window of layers means something (growing a trained
    stack: Du et al. 2024, arXiv 2405.15319; here each copy's output is divided, so that training goes on from there).
    """
    decoder = find_text_model(shallow)
    layers = next(name for name, module in shallow.named_modules() if module is decoder) + ".layers."
    weights = {}
    for name, value in shallow.state_dict().items():
        if not name.startswith(layers):
            weights[name] = value
            continue
        number, rest = name.removeprefix(layers).split(".", 1)
        share = times if rest in ("self_attn.o_proj.weight", "mlp.down_proj.weight") else 1
        for copy in range(times):
            weights[f"{layers}{int(number) * times + copy}.{rest}"] = value / share
    deep.load_state_dict(weights)


@dataclass(frozen=True)
class Head:
    """What all prompts begin with: everything up to the end of the media. ids [P], positions [3, P] (t, h, w)."""

    ids: torch.Tensor
    positions: torch.Tensor
    video_id: int
    audio_id: int

    @classmethod
    def of(cls, family, model, prompt) -> Head:
        """From one prompt of the question set, as model.prepare gives it: all its clips are alike in length."""
        config, ids = model.hf.config, prompt.input_ids
        p = int((ids == config.vision_end_token_id).nonzero()[0]) + 1
        return cls(ids[:p], family.positions(model, prompt)[:, :p], config.video_token_id, config.audio_token_id)


def causal_blocks(count: int, length: int, p: int) -> tuple[int, int, torch.Tensor]:
    """`count` blocks of `length` tokens behind `p` shared ones, and the mask [length, p + length] of each."""
    own = torch.ones(length, length, dtype=torch.bool).tril()
    return count, length, torch.cat([torch.ones(length, p, dtype=torch.bool), own], 1)


def _packed(module, query, key, value, attention_mask, scaling=None, packing=None, **_):
    """The head attends causally, each block to the head and itself. q [B, H, N, d] -> [B, N, H, d]."""
    p, groups = packing
    out = [F.scaled_dot_product_attention(*(x[:, :, :p] for x in (query, key, value)), is_causal=True, enable_gqa=True)]
    at = p
    for count, length, mask in groups:
        q, k, v = (_blocks(x, at, count, length) for x in (query, key, value))
        k, v = (torch.cat([x[:, None, :, :p].expand(-1, count, -1, -1, -1).flatten(0, 1), own], 2)
                for x, own in ((key, k), (value, v)))  # fmt: skip
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)  # [B * count, H, length, d]
        found = found.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)
        out.append(found)
        at += count * length
    return torch.cat(out, 2).transpose(1, 2), None


def _blocks(x: torch.Tensor, at: int, count: int, length: int) -> torch.Tensor:
    """[B, H, N, d] -> [B * count, H, length, d]"""
    x = x[:, :, at : at + count * length].unflatten(2, (count, length))
    return x.transpose(1, 2).flatten(0, 1)


def _at(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows `index` [B, n] of x [B, N, hidden]: [B, n, hidden]."""
    return torch.gather(x, 1, index[..., None].expand(-1, -1, x.shape[-1]))


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Every state at a root mean square of 1: layers differ in length."""
    return F.rms_norm(x, x.shape[-1:])


class Packed(nn.Module):
    """A model's forward over packed rows, and the towers' probes."""

    def __init__(self, family, hf, head: Head, lengths: tuple[int, int], counts: tuple[int, int]) -> None:
        super().__init__()
        self.family, self.hf, self.head = family, hf, head
        AttentionInterface.register("avflow_packed", _packed)
        hf.set_attn_implementation({"text_config": "avflow_packed"})
        p = len(head.ids)
        start = int(head.positions.max()) + 1
        parts, groups = [head.positions], []
        for length, count in zip(lengths, counts, strict=True):
            parts.append((start + torch.arange(length)).repeat(count).expand(3, -1))
            groups.append(causal_blocks(count, length, p))
        self.positions = torch.cat(parts, 1)  # [3, N]
        self.packing = (p, groups)
        hidden = hf.config.text_config.hidden_size
        self.choice = nn.Linear(hidden, 1)
        self.eyes, self.ears = nn.Linear(hidden, 6 + 4 + 4 + 2 + 4), nn.Linear(hidden, family.slots * (6 + 4 + 2))
        self.windows = nn.Linear(hidden, 6 + 4 + 3) if family.slots > 1 else None
        self.pair = nn.Linear(hidden, len(PAIRS))

    def see_and_hear(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Video or images [media, V, hidden] and sounds [sounds, A, hidden] as the decoder gets them."""
        video = self.family.see(self.hf, batch["patches"], batch["grid"])
        audio = self.family.hear(self.hf, batch["mel"])
        return video.view(len(batch["grid"]), -1, video.shape[-1]), audio.view(len(batch["mel"]), -1, video.shape[-1])

    def answers(self, batch: dict, video: torch.Tensor, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, questions, vocab] at the last token of every block; loss of which option is right, read linearly.

        The latter off the options' words half way through the layers: it teaches to compare them with what is seen and
        heard while the last layers still guess letters.
        """
        b, p = video.shape[0], len(self.head.ids)
        ids = torch.cat([self.head.ids.expand(b, -1), batch["ids"]], 1)  # [B, N]
        x = self._embed(ids, self.head.video_id, video, audio)
        hidden = self._decode(x, self.positions, self.packing)
        options = batch["options"]  # [B, choices, 3]
        words = _at(hidden[(len(hidden) - 1) // 2], options.clamp(min=0).flatten(1) + p)
        scores = self.choice(_unit(words)).view(options.shape).masked_fill(options < 0, -1e4)
        logits = self.hf.lm_head(_at(hidden[-1], batch["last"] + p))  # of normed states
        return logits, F.cross_entropy(scores.flatten(0, 1), batch["right"].flatten())

    def lineup_answers(
        self, rows, batch: dict, sights: torch.Tensor, tones: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `answers`, of interleaved items laid out as `rows` (lineups.LineupRows) say: logits [B, 4, vocab], loss.

        And the loss of which pair each image and each sound belongs to, read by one linear map off both, a quarter of
        the way through the layers. In a trial on these items alone, 98 % of held-out ones were right after 300 steps
        with it, 51 % without.
        """
        n, b = len(rows.targets), len(batch["colors"])
        image_id = self.hf.config.image_token_id
        x = self._embed(rows.ids.expand(b, -1), image_id, sights, tones)
        hidden = self._decode(x, rows.positions, rows.packing)
        layers = len(hidden) - 1
        scores = self.choice(_unit(hidden[layers // 2][:, rows.letters.flatten()])).view(b * n, n)
        choice = F.cross_entropy(scores, torch.arange(n).repeat(b))
        pair = torch.zeros(())
        for kind in (image_id, self.head.audio_id):
            at = (rows.ids == kind).nonzero()[:, 0]  # four media of as many tokens each
            found = self.pair(_unit(hidden[layers // 4][:, at]))
            colors = batch["colors"].repeat_interleave(len(at) // n, 1)
            pair = pair + F.cross_entropy(found.flatten(0, 1), colors.flatten()) / 2
        return self.hf.lm_head(hidden[-1][:, rows.last]), choice, pair

    def _embed(self, ids: torch.Tensor, seen_id: int, seen: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        x = self.hf.get_input_embeddings()(ids)
        x = x.masked_scatter((ids == seen_id)[..., None], seen.to(x.dtype))
        return x.masked_scatter((ids == self.head.audio_id)[..., None], heard.to(x.dtype))

    def _decode(self, x: torch.Tensor, positions: torch.Tensor, packing: tuple) -> tuple[torch.Tensor, ...]:
        """States [B, N, hidden] of x after 0, 1, .. layers; the last ones normed."""
        out = find_text_model(self.hf)(
            inputs_embeds=x,
            position_ids=positions[:, None].expand(-1, x.shape[0], -1),
            attention_mask=torch.zeros(1, 1, 1, 1),  # one of four dimensions is passed on as it is; nothing looks at it
            packing=packing,
            use_cache=False,
            output_hidden_states=True,
        )
        return (*out.hidden_states[:-1], out.last_hidden_state)

    def probe_loss(self, batch: dict, video: torch.Tensor, audio: torch.Tensor, motion: bool) -> torch.Tensor:
        """What every video token's frames show and every audio token's time lets hear, read off linearly.

        motion: also where the shape is moving to, from one of the token's two frames to the other.
        """
        color, shape, number, place, way = self.eyes(video).split([6, 4, 4, 2, 4], -1)
        heard = self.ears(audio).unflatten(-1, (self.family.slots, -1)).flatten(1, 2)  # [B, times, 12]
        pitch, kind, onset = heard.split([6, 4, 2], -1)
        labels = batch["labels"]
        found = {"color": color, "shape": shape, "number": number, "pitch": pitch, "kind": kind, "onset": onset}
        found |= {"motion": way} if motion and (labels["motion"] >= 0).any() else {}
        if self.windows is not None:
            parts = self.windows(audio).split([6, 4, 3], -1)
            found |= dict(zip(("most_pitch", "most_kind", "onsets"), parts, strict=True))
        loss = sum(F.cross_entropy(f.flatten(0, 1), labels[name].flatten()) for name, f in found.items())
        off = (place - labels["place"]).square().sum(-1) * labels["alone"]
        return loss + 4 * off.sum() / labels["alone"].sum().clamp(min=1)
