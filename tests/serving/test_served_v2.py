"""What Model Runner V2 alone has. VLLM_USE_V2_MODEL_RUNNER=1 runs all other tests of this folder with it, too."""

import interpreted
import pytest
from served import schedule_file
from test_served_tokens import SETTINGS, few_blocks

from avflow import InputError

pytestmark = pytest.mark.skipif(not interpreted.V2, reason="set VLLM_USE_V2_MODEL_RUNNER=1")


def test_by_the_models_own_state(asked, engine):
    """And without a schedule vLLM's own; nothing of the runner is patched."""
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    from vllm.v1.worker.gpu.model_states.default import DefaultModelState

    served = engine(avflow={"video": 2, "audio": 2})
    assert isinstance(served.runner, GPUModelRunner)
    assert type(served.runner.model_state).__name__ == "EvictingModelState"
    assert not any(hasattr(value, "__wrapped__") and "avflow" in str(value) for value in vars(GPUModelRunner).values())
    assert served.generate([asked[0].request()]) == [asked[0].answers["early"]]
    assert served.runner.model_state.plans == {} or len(served.runner.model_state.plans) == 1
    for plain in (None, {}):
        assert type(engine(avflow=plain).runner.model_state) is DefaultModelState


@pytest.fixture
def ahead(monkeypatch):
    """The scheduler is one step ahead, as by default on GPUs; vLLM switches that off on CPUs."""
    from vllm.platforms.cpu import CpuPlatform

    original = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls, vllm_config):
        original(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", classmethod(check_and_update_config))


@pytest.mark.parametrize("setting", ["batch", "prefix cache", "few blocks"])
def test_scheduled_ahead(setting, asked, engine, ahead, tmp_path):
    options = dict(SETTINGS[setting])
    if setting == "few blocks":
        options |= few_blocks("early", asked)
    served = engine(avflow={"schedule": schedule_file("early", tmp_path)}, **options)
    assert type(served.scheduler).__name__ == "AsyncScheduler" and served.core.batch_queue is not None
    for _ in range(2):
        assert served.generate([one.request() for one in asked]) == [one.answers["early"] for one in asked]
    assert (served.seen["hits"] > 0) == (setting == "prefix cache")
    assert (served.seen["preempted"] > 0) == (setting == "few blocks")
    assert served.free == served.free_at_start


def test_a_model_without_the_state_is_not_served(engine, monkeypatch):
    from avflow_vllm.model import HasModelState

    monkeypatch.delattr(HasModelState, "get_model_state_cls")
    with pytest.raises(Exception, match="has no avflow state for Model Runner V2"):
        engine(avflow={"video": 2})


def test_graphs_of_prompts_that_vllm_chose_late(engine, monkeypatch):
    from vllm.config.compilation import CUDAGraphMode

    runner = engine(avflow={"video": 2}).runner
    given = runner.kv_cache_config, runner.block_tables
    runner.model_state.initialize_kv_cache(*given)
    monkeypatch.setattr(runner.compilation_config, "cudagraph_mode", CUDAGraphMode.FULL)
    with pytest.raises(InputError, match="set cudagraph_mode to FULL_AND_PIECEWISE"):
        runner.model_state.initialize_kv_cache(*given)
