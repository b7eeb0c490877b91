"""How many threads plan a problem: the process's own are counted while one is planned."""

from __future__ import annotations

import os
import threading

import torch

from avflow_ext import AttentionProblem, Cut, Tokens, cut_columns

ROWS = 12288  # with 64 query heads a row is a tile, and these are 2.25 times the pairs of tiles that a thread is worth
HEADS = 64


def columns():
    at = torch.arange(ROWS)
    return Tokens(at, at % 7, at // 3 % 50), [Cut(source=1, target=2, scope="other_items")]


def by_problem():
    tokens, cuts = columns()
    return lambda: AttentionProblem(tokens, cuts=cuts).packed(HEADS)


def by_operator():
    tokens, cuts = columns()
    rows, rules = torch.from_numpy(tokens.matrix), cut_columns(cuts)
    return lambda: torch.ops.avflow.pack(rows, *rules, HEADS, 1)


def planners(plan) -> int:
    """Threads at work in `plan`, which lets go of the interpreter: the one that calls it, and those it starts."""
    before = set(os.listdir("/proc/self/task"))
    one = threading.Thread(target=plan)
    one.start()
    most = 0
    while one.is_alive():
        most = max(most, len(set(os.listdir("/proc/self/task")) - before))
    one.join()
    return most


class PlanningJob:
    """A job of a run whose every sample is a plan; it measures who plans."""

    device = "cpu"

    def load(self):
        return None

    def begin(self, model):
        pass

    def limit_memory(self, most):
        pass

    def prepare(self, model, sample):
        return None, 0.0

    def measure(self, model, prompt, begun):
        return planners(by_problem())


def of_a_worker(threads: int) -> int:
    """Of a run's worker that has that many threads."""
    import pickle

    from avflow.runs.workers.worker import SampleWorker

    worker = SampleWorker(pickle.dumps(PlanningJob()), threads, "cpu", share=1)
    worker.ready()
    return worker.record(None)
