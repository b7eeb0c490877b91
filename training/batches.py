"""Batches of packed scenes, made in the background. Batch i of a split is the same whenever it is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from families import SIDE, TEXTS
from lineups import LineupBatches
from torch.utils.data import DataLoader, Dataset

from avflow.media.images import TorchVideos
from avflow.models.wording import Wording
from avflow.prompts.sample import LETTERS, Sample
from avflow.synthetic import TASKS, Question, ask, frames_read, make_scene, waveform
from avflow.synthetic import picture as pictures
from avflow.synthetic import sound as sounds
from avflow.synthetic.scene import COLORS, DIRECTIONS, LEVELS, SHAPES, Scene

TASK_NAMES = list(TASKS)
LATE = ("number",)  # tasks that join later in the run


def block_text(question: Question, options: bool, before: str = "") -> str:
    """What follows the media in the prompt of this question; without options, an open-ended question."""
    sample = Sample("x", question.text, list(question.options) if options else None, question.answer, video="x.mp4")
    text = "".join(line for line, _, _ in Wording(TEXTS["system"], TEXTS["instruction"]).user_lines(sample))
    return f"{before}{text}<|im_end|>\n<|im_start|>assistant\n"


class Blocks:
    """Questions as token ids, padded to one length per kind."""

    def __init__(self, tokenizer, choices: int, open_: int, before: str = "") -> None:
        self.tokenizer, self.counts, self.before = tokenizer, (choices, open_), before
        self.pad = tokenizer.pad_token_id
        self.letters = [self._ids(letter)[0] for letter in LETTERS[:4]]
        self.words = {a: self._ids(a)[0] for task in TASKS.values() for a in task.answers}
        longest = [Question(t.name, t.question, t.answers[: t.shown], t.answers[0]) for t in TASKS.values()]
        self.lengths = tuple(max(len(self._ids(block_text(q, o, before))) for q in longest) for o in (True, False))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def pack(self, questions: list[Question]) -> dict[str, list]:
        """ids of all blocks, `last`: where each one's last token is, `targets`: the token that answers it.

        Choices come first. options: where the options' words are [choices][3], -1 for none; right: the right one.
        """
        ids, last, targets, options, right = [], [], [], [], []
        for i, q in enumerate(questions):
            choice = i < self.counts[0]
            found, length = self._ids(block_text(q, choice, self.before)), self.lengths[not choice]
            last.append(len(ids) + len(found) - 1)
            if choice:
                words = [len(ids) + found.index(self._ids(f" {o}")[0]) for o in q.options]
                options.append(words + [-1] * (3 - len(words)))
                right.append(q.options.index(q.answer))
            ids += found + [self.pad] * (length - len(found))
            targets.append(self.letters[q.options.index(q.answer)] if choice else self.words[q.answer])
        return {"ids": ids, "last": last, "targets": targets, "options": options, "right": right}


def training_scene(rng: np.random.Generator, split: str, kinds: Sequence[dict] = ()) -> Scene:
    """A scene of a picture and a sound, as often as `kinds` say (picture, sound, share; null: any); the rest is any."""
    at = rng.random()
    for kind in kinds:
        if at < kind["share"]:
            return make_scene(rng, split, kind["picture"], kind["sound"])
        at -= kind["share"]
    return make_scene(rng, split)


def questions_of(
    scene: Scene, rng: np.random.Generator, count: int, often: dict[str, float], without: tuple[str, ...] = ()
) -> list[Question]:
    """`count` questions that fit the scene; often: of the tasks that are asked more than once as often, how often."""
    names = [name for name in TASK_NAMES if TASKS[name].fits(scene) and name not in without]
    chance = np.array([often.get(name, 1.0) for name in names])
    return [ask(scene, str(rng.choice(names, p=chance / chance.sum())), rng) for _ in range(count)]


def labels_of(scene: Scene, family) -> dict[str, np.ndarray]:
    """For the probes: of every video token, four a step; of the family's times of every sound."""
    out: dict[str, list] = {
        k: [] for k in ("color", "shape", "number", "motion", "place", "alone", "pitch", "kind", "onset")
    }
    for t in family.step_times:
        seen = pictures.places(scene, t)
        shape, x, y, _ = seen[0]
        place = (2 * x / pictures.SIDE - 1, 2 * y / pictures.SIDE - 1)
        for _token in range(4):
            out["color"].append(list(COLORS).index(scene.color))
            out["shape"].append(SHAPES.index(shape))
            out["number"].append(len(seen) - 1)
            out["motion"].append(DIRECTIONS.index(scene.direction) if scene.direction else -100)
            out["place"].append(place)
            out["alone"].append(float(scene.picture != "crowd"))
    spans = sounds.spans(scene)
    for t in family.sound_times:
        span = next((s for s in spans if s.start <= t <= s.stop), None)
        kind, pitch = 0, 5
        if span is not None:
            kind = 1 + ("tone", "sweep", "noise").index(span.kind)
            if span.kind != "noise":
                share = (t - span.start) / (span.stop - span.start)
                f = span.low * ((span.high or span.low) / span.low) ** share
                pitch = int(np.argmin(abs(np.log(np.array(LEVELS) / f))))
        out["pitch"].append(pitch)
        out["kind"].append(kind)
        out["onset"].append(int(any(0 <= t - s.start < 0.08 for s in spans)))
    if family.slots > 1:
        out |= window_labels(out, family.slots)
    return {k: np.array(v, np.float32 if k in ("place", "alone") else np.int64) for k, v in out.items()}


def window_labels(labels: dict[str, list], slots: int) -> dict[str, list]:
    """Of each audio token as a whole: what is heard longest in it, silence only if nothing else; how many onsets.

    They give pitch and onsets a code that does not depend on where in the token's time they are.
    """
    out: dict[str, list] = {"most_pitch": [], "most_kind": [], "onsets": []}
    begins = (np.diff(labels["onset"], prepend=0) > 0).astype(int)  # an onset is labelled for 80 ms: two times
    for at in range(0, len(begins), slots):
        pitch, kind = (labels[name][at : at + slots] for name in ("pitch", "kind"))
        out["most_pitch"].append(max(range(5), key=pitch.count) if min(pitch) < 5 else 5)
        out["most_kind"].append(max(range(1, 4), key=kind.count) if max(kind) else 0)
        out["onsets"].append(min(int(begins[at : at + slots].sum()), 2))
    return out


class Batches(Dataset):
    """Batch number -> tensors, as model.prepare gives them but for the codec's noise. picture: its settings.

    lineups: batches of interleaved items, which every batch from number `lineups_from` on holds too ("lineups"); it
    then has as many scenes as lineups of a task.
    """

    def __init__(
        self, family, blocks: Blocks, extractor, picture: dict, split: str, seed: int, scenes: int, late=0,
        often: dict[str, float] | None = None, kinds: Sequence[dict] = (), balanced=False,
        lineups: LineupBatches | None = None, lineups_from=0,
    ):  # fmt: skip
        self.family = family
        self.blocks, self.extractor, self.split, self.seed, self.scenes = blocks, extractor, split, seed, scenes
        self.videos, self.late, self.balanced = TorchVideos(picture), late, balanced
        self.often, self.kinds = often or {}, kinds
        self.lineups, self.lineups_from = lineups, lineups_from

    def __getitem__(self, number: int) -> dict:
        if self.lineups is None or number < self.lineups_from:
            return self._clips(number, self.scenes)
        return self._clips(number, self.lineups.scenes) | {"lineups": self.lineups[number]}

    def _clips(self, number: int, count_scenes: int) -> dict:
        rng = np.random.default_rng([self.seed, self.split == "train", number])
        rows, scenes, tasks = [], [], []
        for i in range(count_scenes):
            count = sum(self.blocks.counts)
            if self.balanced:  # for evaluation: every task as often, one question of a scene counts
                task = TASKS[TASK_NAMES[(number * count_scenes + i) % len(TASK_NAMES)]]
                scene = make_scene(rng, self.split, str(rng.choice(task.pictures)), str(rng.choice(task.sounds)))
                questions = [ask(scene, task.name, rng) for _ in range(count)]
            else:
                scene = training_scene(rng, self.split, self.kinds)
                questions = questions_of(scene, rng, count, self.often, LATE if number < self.late else ())
            rows.append(self.blocks.pack(questions))
            tasks.append([TASK_NAMES.index(q.task) for q in questions])
            scenes.append(scene)
        frames = [frames_read(s, SIDE, self.family.frames) for s in scenes]
        video = self.videos(frames, {"shortest_edge": SIDE**2, "longest_edge": SIDE**2})
        found = [labels_of(s, self.family) for s in scenes]
        return {
            "patches": video["pixel_values_videos"],
            "grid": video["video_grid_thw"],
            "mel": self.family.mel(self.extractor, [waveform(s) for s in scenes]),
            "labels": {k: torch.from_numpy(np.stack([f[k] for f in found])) for k in found[0]},
            **{k: torch.tensor([row[k] for row in rows]) for k in rows[0]},
            "tasks": torch.tensor(tasks),
        }


def stream(batches: Batches, numbers: range, workers: int) -> Iterator[dict]:
    """The batches of `numbers` in order."""
    return iter(
        DataLoader(
            batches, batch_size=None, sampler=numbers, num_workers=workers, prefetch_factor=4 if workers else None
        )
    )
