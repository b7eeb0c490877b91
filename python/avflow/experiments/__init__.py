"""What one asks of a model: sweeps, generated text, attention shares and maps, the answer lens, sinks, pathways."""
