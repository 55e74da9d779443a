"""Files to batches: sources -> documents -> tokens on disk -> rows -> batches."""
