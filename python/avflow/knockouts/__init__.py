"""Edges between token groups that are cut: `Knockout`, its text forms, the presets of studies, windows of layers."""
