"""A large problem is planned by as many threads as torch.set_num_threads says, and by no more than there are cores."""

import multiprocessing
import os
import sys

import planning_threads
import pytest
import torch

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc"),
    pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda _: "1")(0)) < 2, reason="needs two cores"),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("way", ["by_problem", "by_operator"])
def test_threads_that_plan(way, threads):
    plan, before = getattr(planning_threads, way)(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert planning_threads.planners(plan) == threads
    finally:
        torch.set_num_threads(before)


def test_threads_that_plan_in_a_worker_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert [pool.apply(planning_threads.of_a_worker, (threads,)) for threads in (1, 2)] == [1, 2]
