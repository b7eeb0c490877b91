"""Statistics of means over samples: intervals, and tests that hold for all of many cells at once. Arrays only."""
