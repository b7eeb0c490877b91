"""What a GPU's attention kernels are told: FlashAttention's and FlashInfer's own builders, driven on a CPU.

The kernels themselves are not here. Their place takes plain attention that reads the cache by what the builders say;
whoever is there must see those who are there, no later than itself, and nobody else.
"""

import sys
from types import ModuleType, SimpleNamespace

import interpreted
import numpy as np
import pytest
import torch
from served import MODEL

pytestmark = pytest.mark.skipif(not interpreted.V2, reason="set VLLM_USE_V2_MODEL_RUNNER=1: they need Triton")
BLOCK, HEADS, DIM, MOST = 16, 2, 8, 8  # MOST requests
# Per request: who of its prompt leaves, tokens before this step, tokens in it. Decodes first, as vLLM orders them.
BATCHES = {
    "prefill": [([(2, 20)], 0, 30), ([(0, 40)], 0, 50), ([], 0, 17)],
    "chunks": [([(2, 200)], 5, 20), ([(0, 18)], 16, 16), ([(10, 40)], 30, 32)],  # of the first one nothing stays
    "decodes and chunks": [([(0, 30)], 40, 1), ([(3, 9)], 20, 1), ([(2, 90)], 16, 16), ([(0, 30)], 16, 15)],
    "one row of each": [([(2, 20)], 0, 19), ([(0, 40)], 25, 16), ([(8, 31)], 8, 24)],
    "nobody": [([(0, 90)], 0, 30), ([(0, 90)], 16, 16)],
    "nobody leaves": [([], 3, 1), ([], 0, 20)],
}
DECODES = [([(0, 30)], 40, 1), ([(3, 9)], 5, 1), ([(0, 9)], 4, 1), ([(3, 9)], 33, 1)]  # two of one-token prefills


class Wrapper:
    """FlashInfer's, as far as it is asked here: what was planned, and the buffers that a graph would read."""

    def __init__(self, workspace, layout, **options):
        self.options, self.planned = options, {}

    def plan(self, **what):
        self.planned = what


@pytest.fixture(scope="module")
def flashinfer():
    def seq_lens(indptr, last, size):
        return torch.clamp(indptr[1:] - indptr[:-1] - 1, min=0) * size + last

    names = {
        "flashinfer": {
            "BatchDecodeWithPagedKVCacheWrapper": type("Decode", (Wrapper,), {}),
            "BatchPrefillWithPagedKVCacheWrapper": type("Prefill", (Wrapper,), {}),
            "BatchAttentionWithAttentionSinkWrapper": None,
            "BatchPrefillWithRaggedKVCacheWrapper": None,
            "nvfp4_quantize_append_paged_kv_cache_with_slot_mapping": None,
            "get_seq_lens": seq_lens,
        },
        "flashinfer.decode": {"fast_decode_plan": None, "trtllm_batch_decode_with_kv_cache": None},
        "flashinfer.prefill": {"trtllm_batch_context_with_kv_cache": None},
        "flashinfer.utils": {"FP4Tensor": None},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, values in names.items():
            module = ModuleType(name)
            vars(module).update(values)
            patch.setitem(sys.modules, name, module)
        from vllm.v1.attention.backends import flashinfer

        yield flashinfer
    del sys.modules["vllm.v1.attention.backends.flashinfer"]


@pytest.fixture(scope="module")
def config():
    from vllm.engine.arg_utils import EngineArgs

    made = EngineArgs(
        model=str(MODEL),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=MOST,
        block_size=BLOCK,
        limit_mm_per_prompt={"video": 0, "audio": 0, "image": 0},
        additional_config={"avflow": {"video": 2}},
    ).create_engine_config()
    made.avflow_has_state = True
    return made


@pytest.fixture(params=["FlashAttention", "FlashInfer", "FlashInfer, Hopper's decode"])
def builder(request, config, monkeypatch):
    """Of a later segment's layers."""
    from vllm.config import set_current_vllm_config
    from vllm.config.compilation import CUDAGraphMode

    from avflow_vllm.attention import narrowed
    from avflow_vllm.kv import EvictedAttentionSpec

    monkeypatch.setattr(config.compilation_config, "cudagraph_mode", CUDAGraphMode.FULL_AND_PIECEWISE)
    monkeypatch.setattr(config.compilation_config, "max_cudagraph_capture_size", MOST)
    if request.param == "FlashAttention":
        from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend as backend
    else:
        module = request.getfixturevalue("flashinfer")
        backend, hopper = module.FlashInferBackend, "Hopper" in request.param
        alike = SimpleNamespace(sm_scale=1.0, window_left=-1, logits_soft_cap=0.0, has_sinks=False)
        alike.has_same_window_lefts = alike.has_same_all_params = True
        monkeypatch.setattr(module, "infer_global_hyperparameters", lambda layers: alike)
        monkeypatch.setattr(module, "can_use_trtllm_attention", lambda *heads, is_prefill: hopper and not is_prefill)
        kernel = module.FlashInferDecodeKernel.XQA
        made = module.FlashInferMetadataBuilder
        monkeypatch.setattr(made, "_get_flashinfer_trtllm_api_decode_kernel", staticmethod(lambda: kernel))
        monkeypatch.setattr(made, "_get_workspace_buffer", lambda self: None)
        monkeypatch.setattr(made, "kv_cache_layout", None)
        monkeypatch.setattr(module, "get_flashinfer_layout_string", lambda layout: "NHD")
        monkeypatch.setattr(module, "_is_xqa_head_dim_supported", lambda dim: True)
        monkeypatch.setattr(module, "fast_plan_decode", lambda wrapper, **what: wrapper.plan(**what))
    spec = EvictedAttentionSpec(
        block_size=BLOCK, num_kv_heads=HEADS, head_size=DIM, head_size_v=DIM, dtype=torch.float32, segment=1
    )
    with set_current_vllm_config(config):
        yield narrowed(backend).get_builder_cls()(spec, ["layer"], config, torch.device("cpu"))


class Batch:
    """A step of several requests in a segment after a boundary, with a cache that holds what was before."""

    def __init__(self, requests, padded=0):
        from avflow_vllm import step
        from avflow_vllm.plan import Plan

        torch.manual_seed(1)
        self.scheduled = np.array([new for _, _, new in requests])
        self.computed = np.array([before for _, before, _ in requests])
        self.plans = [Plan((0,), [(start, stop, 0) for start, stop in runs], 100) for runs, _, _ in requests]
        self.size = max(len(requests), padded)
        self.tokens = max(int(self.scheduled.sum()), padded)
        table = torch.randperm(100)[: self.size * 8].reshape(self.size, 8).int()
        self.table = torch.zeros(MOST, 8, dtype=torch.int32)
        self.table[: self.size] = table
        self.slots = torch.full((256,), 7, dtype=torch.int64)
        group = SimpleNamespace(kv_cache_spec=SimpleNamespace(segment=1), layer_names=["layer"])
        self.now = step.plan_batch(self.plans, self.computed, self.scheduled, [1], "cpu")
        step.place(self.now, [group], lambda number: (self.table, BLOCK))
        total = self.computed + self.scheduled
        self.keys = [torch.randn(n, HEADS, DIM) for n in total]  # of every token; values are keys
        self.queries = torch.randn(self.tokens, HEADS, DIM)
        self.cache = torch.randn(100, BLOCK, HEADS, DIM)
        for i, plan in enumerate(self.plans):
            for rank, token in enumerate(plan.there(1, 0, int(self.computed[i]))):
                self.cache[self.table[i, rank // BLOCK], rank % BLOCK] = self.keys[i][token]

    def common(self):
        """As vLLM makes it: of all rows; padding requests have none."""
        from vllm.v1.attention.backend import CommonAttentionMetadata

        starts = np.cumsum([0, *self.scheduled, *[0] * (self.size - len(self.scheduled))], dtype=np.int32)
        total = torch.zeros(self.size, dtype=torch.int32)
        total[: len(self.scheduled)] = torch.from_numpy(self.computed + self.scheduled)
        return CommonAttentionMetadata(
            query_start_loc=torch.from_numpy(starts),
            query_start_loc_cpu=torch.from_numpy(starts),
            seq_lens=total,
            num_reqs=self.size,
            num_actual_tokens=self.tokens,
            max_query_len=int(self.scheduled.max()),
            max_seq_len=int(total.max()),
            block_table_tensor=self.table[: self.size],
            slot_mapping=self.slots[: self.tokens],
            seq_lens_cpu_upper_bound=total,
            positions=torch.arange(self.tokens),
            is_prefilling=torch.ones(self.size, dtype=torch.bool),
            req_idx=np.arange(self.size),
        )

    def rows(self):
        """[(row, request, token)] of those that are there."""
        before = np.concatenate([[0], np.cumsum(self.scheduled)])
        out = []
        for i, plan in enumerate(self.plans):
            start = int(self.computed[i])
            there = plan.there(1, start, start + int(self.scheduled[i]))
            out += [(int(token) - start + int(before[i]), i, int(token)) for token in there]
        return out

    def expected(self):
        """float [rows that are there, HEADS, DIM]"""
        out = []
        for row, i, token in self.rows():
            seen = self.keys[i][self.plans[i].there(1, 0, token + 1)]
            out.append(attend(self.queries[row][None], seen)[0])
        return torch.stack(out) if out else torch.zeros(0, HEADS, DIM)

    def store(self, slots, rows):
        """What the kernel that fills the cache does with the keys of these rows [(row, request, token)]."""
        for slot, (_, i, token) in zip(slots.tolist(), rows, strict=True):
            if slot >= 0:
                self.cache[slot // BLOCK, slot % BLOCK] = self.keys[i][token]


def attend(queries, keys):
    """[n, HEADS, DIM] of the last n of keys' tokens, causal."""
    n, m = len(queries), len(keys)
    scores = torch.einsum("nhd,mhd->hnm", queries, keys)
    scores.masked_fill_(torch.arange(m)[None] > torch.arange(n)[:, None] + m - n, float("-inf"))
    return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), keys)


def paged(batch, queries, starts, lengths, blocks):
    """blocks: per request the ids of its blocks."""
    out = []
    for i, length in enumerate(lengths):
        keys = batch.cache[torch.as_tensor(blocks[i]).long()].reshape(-1, HEADS, DIM)[:length]
        out.append(attend(queries[starts[i] : starts[i + 1]], keys))
    return torch.cat(out) if out else queries[:0]


def run(batch, metadata, queries):
    """Attention as the metadata of either backend say."""
    if hasattr(metadata, "block_table"):
        starts = metadata.query_start_loc.tolist()
        assert len(starts) == len(metadata.seq_lens) + 1
        return paged(batch, queries, starts, metadata.seq_lens.tolist(), metadata.block_table)
    out, first = [], metadata.num_decode_tokens
    if metadata.num_decodes:
        assert metadata.num_decodes == metadata.num_decode_tokens  # its kernel takes one query of each
        given, starts = metadata.decode, range(metadata.num_decodes + 1)
        if hasattr(given, "block_tables"):
            assert given.q_len_per_req == 1
            out.append(paged(batch, queries[:first], starts, given.seq_lens.tolist(), given.block_tables))
        else:
            out.append(pages(batch, queries[:first], starts, given.wrapper))
    if metadata.num_prefills:
        starts = metadata.prefill.wrapper.planned["qo_indptr"].tolist()
        out.append(pages(batch, queries[first:], starts, metadata.prefill.wrapper))
    return torch.cat(out)


def pages(batch, queries, starts, wrapper):
    """By FlashInfer's lists of pages: those that were planned, or a graph's buffers."""
    plan, options = wrapper.planned, wrapper.options
    if options.get("use_cuda_graph"):
        indptr, indices, last = (options[f"paged_kv_{name}_buffer"] for name in ("indptr", "indices", "last_page_len"))
    elif "indptr_cpu" in plan:
        indptr, indices, last = plan["indptr_cpu"], plan["indices"], plan["last_page_len_cpu"]
    else:
        indptr, indices, last = plan["paged_kv_indptr"], plan["paged_kv_indices"], plan["paged_kv_last_page_len"]
    indptr = indptr.tolist()
    blocks = [indices[a:b].tolist() for a, b in zip(indptr, indptr[1:], strict=False)]
    lengths = [max(0, len(own) - 1) * BLOCK + int(n) for own, n in zip(blocks, last, strict=True)]
    return paged(batch, queries, starts, lengths, blocks)


def build(builder, batch, monkeypatch):
    from avflow_vllm import attention

    monkeypatch.setattr(attention, "current", batch.now)
    try:
        return builder.build(0, batch.common())
    finally:
        monkeypatch.setattr(attention, "current", None)


@pytest.mark.parametrize("name", BATCHES)
def test_rows_that_are_there(name, builder, monkeypatch):
    batch = Batch(BATCHES[name])
    metadata = build(builder, batch, monkeypatch)
    rows, part = batch.rows(), metadata.avflow
    assert (part.rows is None) == (name == "nobody leaves")
    index = torch.arange(batch.tokens) if part.rows is None else part.rows
    assert index.tolist() == [row for row, _, _ in rows]
    assert len(metadata.avflow_slots) == len(rows)
    if not rows:  # no layer of the segment runs
        return
    assert metadata.num_actual_tokens == len(rows)
    batch.store(metadata.avflow_slots, rows)
    found = run(batch, metadata, batch.queries[index])
    torch.testing.assert_close(found, batch.expected())


def test_a_full_graph_of_decodes(builder, monkeypatch):
    """Captured with other requests, then replayed: kernels read what the capture saw, at the same addresses."""
    batch = Batch(DECODES, padded=6)
    assert batch.now.whole and batch.now.parts[1].rows is not None
    common = batch.common()
    common.seq_lens = torch.ones(batch.size, dtype=torch.int32)
    common.query_start_loc = common.query_start_loc_cpu = torch.arange(batch.size + 1, dtype=torch.int32)
    common.seq_lens_cpu_upper_bound = common.seq_lens
    captured = builder.build_for_cudagraph_capture(common)
    metadata = build(builder, batch, monkeypatch)
    assert not hasattr(metadata, "avflow")  # the model runs all rows
    rows = batch.rows()
    assert [row for row, _, _ in rows] == [0, 3]
    slots = batch.slots[: batch.tokens]
    assert slots[[1, 2, 4, 5]].tolist() == [-1] * 4  # two that left, two of padding
    batch.store(slots[[0, 3]], rows)
    found = run(batch, captured, batch.queries)
    torch.testing.assert_close(found[[0, 3]], batch.expected())
    if hasattr(captured, "seq_lens"):
        assert captured.seq_lens.data_ptr() == builder.avflow_lengths.data_ptr() == metadata.seq_lens.data_ptr()
        assert captured.slot_mapping.data_ptr() == batch.slots.data_ptr() == metadata.slot_mapping.data_ptr()
