"""Keys of a request's extra arguments: `extra_args` in Python, `vllm_xargs` over HTTP."""

RUNS = "avflow_runs"  # [[start, stop, group], ...] or with an item: what the prompt's tokens are
OFF = "avflow_off"  # 1: nothing leaves
LEAVES = "avflow_leaves"  # [[start, stop, layer], ...]: written by door.py alone, never by a client
