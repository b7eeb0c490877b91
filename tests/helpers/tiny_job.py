"""Jobs of a tiny real model whose prompts are made up from the samples' ids: for processes that start quickly."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from avflow.errors import InputError, MediaError
from avflow.prompts.sample import Sample
from avflow.runs.look_job import LookJob
from avflow.runs.plan_job import PlanJob
from avflow.runs.sweep_job import SweepJob

PATHS = ["video->question", "question->last", "cross:video"]


class TinyModel:
    """Wraps a model. A sample "deadly..." kills its process, "once..." the first time; "broken..." has no media."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def prepare(self, sample, **options):
        import tiny

        if sample.id.startswith("broken"):
            raise MediaError(f"cannot decode {sample.video}")
        if sample.id.startswith("once"):
            try:
                os.close(os.open(Path(sample.video), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        if sample.id.startswith("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        if sample.id.startswith("slow"):
            time.sleep(0.3)
        prompt = tiny.av_prompt("interleaved", seconds=2, id=sample.id, seed=len(sample.id), option_ids=[7, 9])
        prompt.task = sample.task
        return prompt


class TinyLoad:
    """Before a job's class: its model is the tiny one. A `model` "dies" kills its process, "refused" is no folder."""

    def load(self):
        from avflow.models.compat import declare_torchvision

        declare_torchvision()  # before transformers, as avflow.load does
        import tiny

        import avflow

        if self.model == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.model == "refused":
            raise InputError("no folder 'refused'")
        return TinyModel(avflow.wrap(tiny.thinker()))


class TinyJob(TinyLoad, SweepJob):
    pass


class TinyLook(TinyLoad, LookJob):
    pass


class TinyPlan(TinyLoad, PlanJob):
    pass


def samples(ids, folder="/nowhere"):
    return [Sample(id=i, question="?", options=["red", "blue"], answer="A", video=f"{folder}/{i}.mp4") for i in ids]


def job(path, **options) -> TinyJob:
    """Over a JSONL file of samples."""
    return TinyJob(options.pop("model", "tiny"), path, list(PATHS), window=3, select="all", **options)


def write(path, ids) -> Path:
    path.write_text("\n".join(s.to_json() for s in samples(ids, path.parent)) + "\n")
    return path
