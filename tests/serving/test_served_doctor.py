"""`avflow doctor --vllm`, where there is a vLLM; tests/cli has it where there is none."""

import json
import subprocess
import sys


def test_what_is_there_and_what_is_refused():
    command = [sys.executable, "-m", "avflow.cli.main", "doctor", "--vllm", "--json"]
    facts = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=300).stdout)
    found = facts["vLLM"]
    assert found["vLLM"].startswith("0.32") and found["plug-in"] == "registered" and found["device"] == "cpu"
    assert found["a schedule"] == "taken" and not any("vLLM" in text for text in facts["problems"])
    assert "Qwen3ForCausalLM" in found["architectures"]
    assert any("pipeline parallelism" in what for what in found["refused with a schedule"])
