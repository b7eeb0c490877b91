"""Blocks and threads: a block holds for its own thread or task, others are refused, and nobody's tokens change."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch
from evict_cases import SCHEDULE, model, prompt
from transformers import LogitsProcessor

import avflow

ELSEWHERE = "of another thread or task .*wait, with a lock, or load a model for each"


def tokens(case, count: int = 4) -> list[int]:
    how = dict(do_sample=False, max_new_tokens=count, min_new_tokens=count)
    return model("qwen3").hf.generate(**case.inputs, **how)[0, -count:].tolist()


def evicting(case):
    return avflow.evict(model("qwen3"), SCHEDULE, groups=case.groups, items=case.items)


def in_thread(call):
    """What it gives or raises in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_another_thread_is_refused():
    """Whatever it calls; before it was evicted too, without a word."""
    case, text = prompt("qwen3"), tiny.text_prompt(64)
    plain = tokens(case)
    calls = {
        "generate": lambda: tokens(case),
        "forward": lambda: model("qwen3").hf(**case.inputs),
        "decoder": lambda: model("qwen3").text_model(input_ids=case.inputs["input_ids"]),
        "sweep": lambda: avflow.sweep(model("qwen3"), [text], knockouts=["video->last"], select="all"),
        "lens": lambda: avflow.answer_lens(model("qwen3"), [text]),
        "knockout": lambda: avflow.knockout(model("qwen3"), "video->last").__enter__(),
        "evict": lambda: evicting(case).__enter__(),
    }
    with evicting(case):
        evicted = tokens(case)
        for call in calls.values():
            with pytest.raises(avflow.InputError, match=ELSEWHERE):
                in_thread(call)
        assert tokens(case) == evicted
    assert in_thread(calls["generate"]) == plain != evicted
    assert in_thread(calls["forward"]).logits.shape[1] == case.n


def test_a_model_in_training_mode_is_not_shared():
    """Its dropout is switched off for all threads, and comes back with the first that ends."""
    hf = model("qwen3").hf
    hf.train()
    try:
        with pytest.warns(avflow.AvflowWarning, match="training mode"), avflow.knockout(model("qwen3"), "video->last"):
            with pytest.raises(avflow.InputError, match=ELSEWHERE):
                in_thread(lambda: avflow.generate(model("qwen3"), tiny.text_prompt(64)))
        assert hf.training
    finally:
        hf.eval()
        model("qwen3").warned.discard("training")


def test_a_server_with_a_lock():
    """4 threads, 50 answers each, one of them evicting: each has the tokens of a thread alone."""
    cases = [prompt("qwen3", seed, 1 + seed) for seed in range(4)]
    lock = threading.Lock()

    def answer(which: int, count: int = 3) -> list[int]:
        with lock:
            if which:
                return tokens(cases[which], count)
            with evicting(cases[0]):
                return tokens(cases[0], count)

    alone = [answer(which) for which in range(4)]
    assert alone[0] != tokens(cases[0], 3)
    together = threading.Barrier(4)

    def serve(which: int) -> list[list[int]]:
        together.wait(60)  # no thread takes two of the four
        return [answer(which) for _ in range(50)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(serve, range(4)))
    assert found == [[one] * 50 for one in alone]


def test_a_server_without_a_lock_never_answers_wrong():
    """What is not refused is right."""
    cases = [prompt("qwen3", seed, 1 + seed) for seed in range(4)]

    def answer(which: int) -> list[int] | None:
        try:
            if which:
                return tokens(cases[which], 3)
            with evicting(cases[0]):
                return tokens(cases[0], 3)
        except avflow.InputError:
            return None

    alone = [answer(which) for which in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: (n % 4, answer(n % 4)), range(120)))
    assert all(got in (None, alone[which]) for which, got in found)
    assert any(got for _, got in found)
    assert [answer(which) for which in range(4)] == alone  # and the model is as it was


def test_a_streamer_in_a_copied_context():
    """transformers' own recipe: generate in a thread, text in this one."""
    from transformers import TextIteratorStreamer

    omni = avflow.load("tiny-omni")
    ids = omni.processor.tokenizer("<|im_start|>user\nHow many stars are there in the sky above?<|im_end|>\n")
    inputs = {name: torch.tensor([values]) for name, values in ids.items()}
    n = inputs["input_ids"].shape[1]
    groups = ["system"] * 3 + ["question_text"] * (n - 4) + ["last"]
    how = dict(do_sample=False, max_new_tokens=8, min_new_tokens=8)
    plain = omni.hf.generate(**inputs, **how)[0, n:].tolist()
    with avflow.evict(omni, {"question_text": 0}, groups=groups):
        whole = omni.hf.generate(**inputs, **how)[0, n:].tolist()
        streamer = TextIteratorStreamer(omni.processor.tokenizer, skip_prompt=True, timeout=60)
        inside = dict(target=contextvars.copy_context().run, args=(omni.hf.generate,))
        thread = threading.Thread(**inside, kwargs=dict(**inputs, **how, streamer=streamer))
        thread.start()
        streamed = "".join(streamer)
        thread.join()
    assert streamed == omni.processor.tokenizer.decode(whole) and whole != plain


class Waiting(LogitsProcessor):
    """Lets the other thread run while this one is in the middle of generate."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self, input_ids, scores):
        self.reached.set()
        assert self.go_on.wait(60)
        return scores


def test_two_threads_of_one_block_take_turns():
    case, waiting = prompt("qwen3"), Waiting()
    with evicting(case):
        evicted = tokens(case)
        run = contextvars.copy_context().run
        first = dict(logits_processor=[waiting], do_sample=False, max_new_tokens=4, min_new_tokens=4)
        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(run, lambda: model("qwen3").hf.generate(**case.inputs, **first))
            assert waiting.reached.wait(60)
            try:
                with pytest.raises(avflow.InputError, match="two threads generate with one model within one block"):
                    tokens(case)
            finally:
                waiting.go_on.set()
            assert started.result()[0, -4:].tolist() == evicted
        assert tokens(case) == evicted


def test_tasks():
    """A task that was there before the block is refused, one that starts in it and `to_thread` are within it."""
    case = prompt("qwen3")
    plain = tokens(case)

    async def main() -> tuple[list[int], list[int]]:
        opened, done = asyncio.Event(), asyncio.Event()

        async def outsider() -> str:
            await opened.wait()
            try:
                tokens(case)
            except avflow.InputError as error:
                return str(error)
            finally:
                done.set()
            return "nothing"

        other = asyncio.create_task(outsider())
        await asyncio.sleep(0)
        with evicting(case):
            opened.set()
            await done.wait()
            assert "of another thread or task" in await other
            within = asyncio.create_task(asyncio.to_thread(tokens, case))
            return await within, await asyncio.to_thread(tokens, case)

    one, two = asyncio.run(main())
    assert one == two != plain
    assert tokens(case) == plain
