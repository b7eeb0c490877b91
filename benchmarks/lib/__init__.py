"""What several benchmarks share: clock, models, prompts, layouts, peers, result files."""
