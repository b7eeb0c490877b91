"""A question as the model reads it: `Sample`, `Prompt`, token groups, labels."""
