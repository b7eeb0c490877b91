"""The claims on a CUDA device, bfloat16."""
