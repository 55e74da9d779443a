"""Finished models on other people's benchmarks."""
