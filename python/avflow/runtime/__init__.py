"""Knockout and eviction inside the model's own forward and generate: `avflow.knockout`, `avflow.evict`."""
