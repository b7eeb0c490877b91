"""The scheduler's side: a KV cache spec of layers that hold fewer tokens, and the manager of its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id
from vllm.v1.core.single_type_kv_cache_manager import SingleTypeKVCacheManager, register_all_kvcache_specs
from vllm.v1.kv_cache_interface import AttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

from . import compat
from .plan import Plan

# By request id: a manager is told no more of a request. The request holds its plan, so that it goes with it.
PLANS: WeakValueDictionary[str, Plan] = WeakValueDictionary()


@dataclass(frozen=True, kw_only=True)
class EvictedAttentionSpec(AttentionSpec):
    """Of the layers of a segment, from 1 on. Not a FullAttentionSpec: that would be merged into the others' group."""

    segment: int

    def max_memory_usage_bytes(self, vllm_config: Any) -> int:
        longest = vllm_config.model_config.max_model_len  # a prompt from which nothing leaves
        return -(-longest // self.block_size) * self.page_size_bytes

    def is_uniform_with_collection(self, kv_cache_specs: dict[str, Any]) -> bool:
        """Whether all layers are of this segment: where tokens leave before layer 0, none is vLLM's own."""
        return all(getattr(spec, "segment", 0) == self.segment for spec in kv_cache_specs.values())


class PrefixTable:
    """Which blocks hold the tokens of a prefix that are there, for one KV cache group.

    A prefix is as long as a number of hash blocks. Per hash, the blocks that were written to since the hash before:
    (number in the request, block, its mark). The last one may be half full; who goes on from it gets a copy of its own.
    A mark is the hash by which the pool knows the block, which names the group, and when it got that here: a block that
    was given away since has another, even if it holds the same hash again.
    """

    def __init__(self) -> None:
        self.entries: dict[Any, list[tuple[int, Any, Any]]] = {}
        self._times: dict[int, int] = {}  # by block id
        self._clock = count()

    def put(self, pool: Any, group: int, digest: Any, touched: list[tuple[int, Any]]) -> None:
        if len(self.entries) > 4 * pool.num_gpu_blocks:
            self._shrink(2 * pool.num_gpu_blocks)
        for _, block in touched:
            if block.block_hash is None:
                compat.insert_block_hash(pool, make_block_hash_with_group_id(digest, group), block)
                self._times[block.block_id] = next(self._clock)
        self.entries.pop(digest, None)
        self.entries[digest] = [(number, block, self._mark(block)) for number, block in touched]

    def _mark(self, block: Any) -> tuple[Any, int]:
        return block.block_hash, self._times.get(block.block_id, -1)

    def get(self, digest: Any) -> list[tuple[int, Any, Any]] | None:
        """None where the prefix was never here, or a block of it has been given to somebody else since."""
        found = self.entries.get(digest)
        if found is None or any(b.block_hash is None or self._mark(b) != mark for _, b, mark in found):
            return None
        return found

    def _shrink(self, most: int) -> None:
        good = [digest for digest in self.entries if self.get(digest) is not None]
        self.entries = {digest: self.entries[digest] for digest in good[-most:]}


TABLES: WeakKeyDictionary[Any, dict[int, PrefixTable]] = WeakKeyDictionary()  # by block pool, then by group


class EvictedAttentionManager(SingleTypeKVCacheManager):
    """Counts the tokens that are there in its layers, where others count all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = TABLES.setdefault(self.block_pool, {}).setdefault(self.kv_cache_group_id, PrefixTable())
        self.done: dict[str, int] = {}  # per request: how many of its hash blocks are in the table, or staged
        self.staged: list[tuple[str, Any, list[tuple[int, Any]]]] = []  # of this step, whose rows are yet to be written
        self.scheduling = False

    def _count(self, request_id: str, tokens: int) -> int:
        plan = PLANS.get(request_id)
        return tokens if plan is None else plan.count(self.kv_cache_spec.segment, tokens)

    def _room(self, request_id: str, tokens: int) -> int:
        """One at least: the prompt's last token stays, and vLLM resumes no request that has no block of any group."""
        return max(1, self._count(request_id, tokens))

    # --- blocks -----------------------------------------------------------------------------------------------------

    def get_num_blocks_to_allocate(
        self,
        request_id: str,
        num_tokens: int,
        new_computed_blocks: Any,
        total_computed_tokens: int,
        num_local_computed_tokens: int,
        num_tokens_main_model: int,
        **more: Any,
    ) -> int:
        tokens, main = (self._room(request_id, n) for n in (num_tokens, num_tokens_main_model))
        computed, local = (self._count(request_id, n) for n in (total_computed_tokens, num_local_computed_tokens))
        return super().get_num_blocks_to_allocate(
            request_id, tokens, new_computed_blocks, computed, local, main, **more
        )

    def allocate_new_blocks(self, request_id: str, num_tokens: int, num_tokens_main_model: int) -> Any:
        tokens, main = (self._room(request_id, n) for n in (num_tokens, num_tokens_main_model))
        return super().allocate_new_blocks(request_id, tokens, main)

    # --- prefix cache -----------------------------------------------------------------------------------------------

    def new_step_starts(self) -> None:
        """What the last step wrote may be copied from now on."""
        for _, digest, touched in self.staged:
            self.table.put(self.block_pool, self.kv_cache_group_id, digest, touched)
        self.staged.clear()
        self.scheduling = True

    def take_pending_cow_copies(self) -> Any:
        self.scheduling = False  # vLLM asks for the copies once everything of a step is scheduled
        return super().take_pending_cow_copies()

    def cache_blocks(self, request: Any, num_tokens: int, *args: Any, **kwargs: Any) -> None:
        name, segment = request.request_id, self.kv_cache_spec.segment
        plan, blocks, size = PLANS.get(name), self.req_to_blocks[name], self.block_pool.hash_block_size
        start, stop = self.done.get(name, 0), min(num_tokens // size, len(request.block_hashes))
        if plan is None:
            return
        for i in range(start, stop):
            first, last = plan.count(segment, i * size), plan.count(segment, (i + 1) * size)
            touched = range(first // self.block_size, -(-last // self.block_size)) if last > first else ()
            self.staged.append((name, request.block_hashes[i], [(j, blocks[j]) for j in touched]))
        self.done[name] = max(start, stop)

    def add_local_computed_blocks(
        self, request_id: str, new_computed_blocks: Any, num_local_computed_tokens: int, external: int
    ) -> None:
        self.done[request_id] = num_local_computed_tokens // self.block_pool.hash_block_size
        local = self._count(request_id, num_local_computed_tokens)
        super().add_local_computed_blocks(request_id, new_computed_blocks, local, external)

    def pop_blocks_for_free(self, request_id: str) -> Any:
        self.done.pop(request_id, None)
        if self.scheduling:  # preempted in the step in which it was scheduled: its rows will not be written
            self.staged = [entry for entry in self.staged if entry[0] != request_id]
        return super().pop_blocks_for_free(request_id)

    @classmethod
    def find_longest_cache_hit(
        cls, block_hashes: Any, max_length: int, kv_cache_group_ids: Any, block_pool: Any, *args: Any, **kwargs: Any
    ) -> tuple[tuple[list[Any], ...], int]:
        size = block_pool.hash_block_size
        tables = [TABLES[block_pool][group] for group in kv_cache_group_ids]
        found: list[list[Any]] = [[] for _ in tables]
        for i in range(min(max_length // size, len(block_hashes))):
            longer = []
            for blocks, table in zip(found, tables, strict=True):
                touched = table.get(block_hashes[i])
                if touched is None or any(number > len(blocks) + k for k, (number, _, _) in enumerate(touched)):
                    return tuple(found), i * size
                blocks = list(blocks)
                for number, block, _ in touched:
                    blocks[number : number + 1] = [block]
                longer.append(blocks)
            found = longer
        return tuple(found), min(max_length // size, len(block_hashes)) * size


def install() -> None:
    """Registers the spec. The built-in ones first: vLLM registers them only as long as there is none at all."""
    register_all_kvcache_specs(None)
    KVCacheSpecRegistry.register(EvictedAttentionSpec, EvictedAttentionManager)
