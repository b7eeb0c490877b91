"""A compiled engine: every stretch of layers an artifact of its own. Minutes of compiling: `make test-vllm-full`."""

import os

import pytest
from served import schedule_file


@pytest.mark.skipif(os.environ.get("AVFLOW_VLLM_FULL") != "1", reason="make test-vllm-full runs it")
def test_a_compiled_engine(asked, engine, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))  # what an earlier run compiled is not taken
    served = engine(avflow={"schedule": schedule_file("two layers", tmp_path)}, enforce_eager=False)
    requests = [one.request() for one in asked[:12]]
    assert served.generate(requests) == [one.answers["two layers"] for one in asked[:12]]
    assert served.free == served.free_at_start
