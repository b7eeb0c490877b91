"""avflow's eviction in vLLM: tokens leave mid-network, in the engine that serves. See docs/vllm.md.

Installed with `pip install "avflow[vllm]"`; vLLM finds `register` by its entry point `vllm.general_plugins`. It does
nothing to an engine whose `additional_config` has no key "avflow".
"""

from __future__ import annotations

_done = False


def register() -> None:
    """Called by vLLM once in each of its processes, before any configuration is made.

    Raises:
        InputError: a vLLM that this avflow was not written for.
    """
    global _done
    if _done:
        return
    from . import compat

    compat.check_version()
    from . import hooks

    hooks.install()
    _done = True
