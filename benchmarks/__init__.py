"""Benchmarks of avflow beside the peers that a claim names; `python benchmarks` lists them."""
