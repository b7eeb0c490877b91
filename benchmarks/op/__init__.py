"""One operation or one part at a time."""
