"""What vLLM is told of us: models and the KV cache spec by its registries; and where it has no registry, five methods
that do what they did, and a little more for an engine with a schedule."""

from __future__ import annotations

from functools import wraps
from typing import Any

from avflow.errors import InputError

from . import attention, compat, door, kv, metrics
from .plan import plan_of
from .refusals import check_config
from .runner_v1 import batch_plan
from .settings import Settings, read_settings


def _settings(vllm_config: Any) -> Settings | None:
    """Of an engine from which something may leave; read once for each."""
    if not hasattr(vllm_config, "avflow_settings"):
        settings = read_settings(vllm_config.additional_config)
        vllm_config.avflow_settings = settings if settings is not None and settings.boundaries else None
    return vllm_config.avflow_settings


def install() -> None:
    from vllm.model_executor.models.registry import ModelRegistry

    for architecture, where in (compat.MODELS | compat.UNSERVED).items():
        ModelRegistry.register_model(architecture, where)
    kv.install()
    _config()
    _door()
    _scheduler()
    _runner()


def _config() -> None:
    """MODELS_CONFIG_MAP would only show us the models that we know."""
    from vllm.config import VllmConfig

    original = VllmConfig.try_verify_and_update_config

    @wraps(original)
    def try_verify_and_update_config(self: Any) -> None:
        original(self)
        check_config(self)

    VllmConfig.try_verify_and_update_config = try_verify_and_update_config


def _door() -> None:
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor

    original = InputProcessor.process_inputs

    @wraps(original)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(self, *args, **kwargs)
        settings = _settings(self.vllm_config)
        if settings is not None:
            try:
                ids = compat.placeholder_ids(self.vllm_config)
                door.admit(settings, ids, request, compat.items_of(self.vllm_config))
            except InputError as error:
                raise VLLMValidationError(str(error)) from error  # which the server answers with status 400
            metrics.WAITING.put(request)
        return request

    InputProcessor.process_inputs = process_inputs


def _scheduler() -> None:
    """Its cache managers are told a request's id, and nothing else of it."""
    from vllm.v1.core.sched.scheduler import Scheduler

    original = Scheduler.add_request

    @wraps(original)
    def add_request(self: Any, request: Any) -> None:
        settings = _settings(self.vllm_config)
        if settings is not None:
            plan = plan_of(settings.boundaries, request.sampling_params, request.num_prompt_tokens)
            request.avflow_plan = kv.PLANS[request.request_id] = plan
        original(self, request)

    Scheduler.add_request = add_request


def _runner() -> None:
    """V1 has no hook for what the requests of a batch are."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    prepare, build = GPUModelRunner._prepare_inputs, GPUModelRunner._build_attention_metadata

    @wraps(prepare)
    def _prepare_inputs(self: Any, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        out = prepare(self, scheduler_output, num_scheduled_tokens)
        settings = _settings(self.vllm_config)
        attention.current = None if settings is None else batch_plan(self, settings, num_scheduled_tokens)
        return out

    @wraps(build)
    def _build_attention_metadata(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return build(self, *args, **kwargs)
        finally:
            attention.current = None

    GPUModelRunner._prepare_inputs = _prepare_inputs
    GPUModelRunner._build_attention_metadata = _build_attention_metadata
