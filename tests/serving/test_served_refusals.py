"""What an engine with a schedule refuses, and what an engine without one is."""

import shutil

import pytest
from served import MODEL, SCHEDULES
from transformers import MistralConfig, Phi3Config, Qwen2Config
from vllm.config.compilation import CUDAGraphMode
from vllm.platforms import current_platform

from avflow import EvictionSchedule, InputError, Step
from avflow_vllm.names import OFF, RUNS
from avflow_vllm.refusals import check_config

EARLY = {"video": 2, "audio": 2}


@pytest.fixture(scope="module")
def config():
    """What an engine would be made of, that is taken as it is."""
    from vllm.engine.arg_utils import EngineArgs

    options = {"model": str(MODEL), "dtype": "float32", "enforce_eager": True, "max_model_len": 512}
    return EngineArgs(**options, additional_config={"avflow": EARLY}).create_engine_config()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_model_len": 256, "enable_lora": True}, "LoRA"),
        ({"disable_hybrid_kv_cache_manager": True}, "disabled hybrid"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "speculative decoding"),
        ({"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}}, "KV connector"),
        ({"avflow": {"video": 11}}, "0 .. 11, and the last after which leaving saves anything is 10"),
        ({"avflow": {"video": 2, "decode": "drop"}}, "no decode"),
        ({"avflow": {"schedule": "nowhere.json"}}, "nowhere.json"),
    ],
)
def test_engines_that_are_refused(options, message, engine):
    with pytest.raises(Exception, match=message):
        engine(**({"avflow": EARLY} | options))


@pytest.mark.parametrize(
    "config, message",
    [
        (Phi3Config(architectures=["Phi3ForCausalLM"]), "this model is a Phi3ForCausalLM"),
        (
            MistralConfig(architectures=["MistralForCausalLM"], sliding_window=64, num_hidden_layers=4),
            "together with a sliding window",
        ),
        (
            Qwen2Config(
                architectures=["Qwen2ForCausalLM"], use_sliding_window=True, max_window_layers=2, num_hidden_layers=4
            ),
            "together with a sliding window",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_models_that_are_refused_before_their_weights_are_looked_for(config, message, engine, tmp_path):
    config.save_pretrained(tmp_path)  # there are no weights
    with pytest.raises(Exception, match=message):
        engine(model=str(tmp_path), avflow={"media": 1}, skip_tokenizer_init=True, limit_mm_per_prompt=None)


@pytest.mark.parametrize("given", [None, {"media": 1}], ids=["plain", "evicting"])
def test_video_salmonn_is_refused_before_its_weights_are_looked_for(given, engine, tmp_path):
    for path in (MODEL.parent / "tiny-salmonn").iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, tmp_path)
    with pytest.raises(Exception, match="no video_SALMONN2_plus: its sound has .* Use transformers: avflow.load"):
        engine(model=str(tmp_path), avflow=given)


@pytest.mark.parametrize(
    "part, name, value, message",
    [
        ("parallel_config", "decode_context_parallel_size", 2, "context parallelism .decode"),
        ("parallel_config", "prefill_context_parallel_size", 2, "context parallelism .prefill"),
        ("parallel_config", "data_parallel_size", 2, "data parallelism"),
        ("parallel_config", "enable_dbo", True, "micro-batching"),
        ("cache_config", "kv_sharing_fast_prefill", True, "fast prefill"),
        ("model_config", "enable_prompt_embeds", True, "prompt embeddings"),
        ("compilation_config", "cudagraph_mode", CUDAGraphMode.FULL, "CUDA graphs of prompts"),
        ("", "lora_config", object(), "LoRA"),
        ("", "kv_transfer_config", object(), "a KV connector"),
        ("", "kv_events_config", object(), "KV cache events"),
    ],
)
def test_configurations_that_are_refused(part, name, value, message, config, monkeypatch):
    """Those of which a CPU starts no engine."""
    check_config(config)
    monkeypatch.setattr(getattr(config, part) if part else config, name, value)
    with pytest.raises(InputError, match=f"together with {message}"):
        check_config(config)


@pytest.mark.parametrize("mode", ["NONE", "PIECEWISE", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"])
def test_graphs_that_are_taken(mode, config, monkeypatch):
    monkeypatch.setattr(config.compilation_config, "cudagraph_mode", CUDAGraphMode[mode])
    check_config(config)


def test_breakable_graphs(config, monkeypatch):
    monkeypatch.setenv("VLLM_USE_BREAKABLE_CUDAGRAPH", "1")
    with pytest.raises(InputError, match="breakable CUDA graphs"):
        check_config(config)


def test_a_gpu_has_to_be_asked_for(config, monkeypatch):
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    with pytest.raises(InputError, match="verified on CPUs alone.*vllm_gpu.sh"):
        check_config(config)
    monkeypatch.setitem(config.additional_config, "avflow", {**EARLY, "untried": True})
    check_config(config)
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    with pytest.raises(InputError, match="Model Runner V1 on a GPU"):
        check_config(config)


def test_another_models_schedule(engine, tmp_path):
    for facts, message in (({"layers": 36}, "layers 36, this one has 12"), ({"model_type": "qwen3"}, "model_type")):
        path = tmp_path / "schedule.json"
        EvictionSchedule([Step("video", 2)], model=facts).save(path)
        with pytest.raises(Exception, match=message):
            engine(avflow={"schedule": str(path)})


def test_a_schedule_made_for_this_model(engine, tmp_path):
    import avflow

    model = avflow.load("tiny-omni")
    path = tmp_path / "schedule.json"
    EvictionSchedule(SCHEDULES["early"], model=EvictionSchedule.facts(model)).save(path)
    assert len(engine(avflow={"schedule": str(path)}).segments()) == 4


def test_requests_that_are_refused_leave_the_engine_as_it_was(asked, engine):
    served = engine(avflow=EARLY)
    for extra, more, message in (
        ({RUNS: "[[0,"}, {}, "no JSON"),
        ({RUNS: [[0, 10**6, "video"]]}, {}, "in order within"),
        ({OFF: "no"}, {}, "avflow_off"),
        (None, {"prompt_logprobs": 1}, "prompt_logprobs"),
    ):
        with pytest.raises(Exception, match=message):
            served.llm.generate([asked[0].request()], served.params(extra, **more), use_tqdm=False)
    assert served.generate([asked[0].request()]) == [asked[0].answers["early"]]
    assert served.free == served.free_at_start


def test_without_the_key_an_engine_is_vllms_own(asked, engine):
    served = engine()
    inner = served.runner.model.language_model
    assert type(inner.model).__name__ == "Qwen2Model" and len(served.segments()) == 1
    assert type(inner.model.layers[5].self_attn.attn).__name__ == "Attention"
    wrong = [
        got != one.answers[""]
        for got, one in zip(served.generate([a.request() for a in asked[:8]]), asked, strict=False)
    ]
    assert all(wrong), "vLLM's own positions of interleaved media are no longer one early: take the correction out"


def test_positions_alone(asked, engine):
    served = engine(avflow={})
    assert len(served.segments()) == 1
    assert served.generate([a.request() for a in asked]) == [a.answers[""] for a in asked]


def test_vllms_positions_by_the_switch(asked, engine):
    plain = engine().generate([a.request() for a in asked[:4]])
    assert engine(avflow={"positions": "vllm"}).generate([a.request() for a in asked[:4]]) == plain


def test_text_and_a_schedule_that_drops_nothing(asked, engine):
    text = [{"prompt": f"Name a color, number {i}, and say why you chose it."} for i in range(6)]
    want = engine(avflow={}).generate(text)
    served = engine(avflow=EARLY, enable_prefix_caching=True)
    assert served.generate(text) == want == served.generate(text)
    assert served.free == served.free_at_start
    served = engine(avflow={"image": 3})  # there is none
    assert served.generate([a.request() for a in asked[:8]]) == [a.answers[""] for a in asked[:8]]


def test_the_model_of_these_tests_is_the_shipped_one():
    assert (MODEL / "model.safetensors").is_file()
