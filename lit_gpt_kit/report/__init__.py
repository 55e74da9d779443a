"""Pictures of runs: what their folders hold, as one page."""
