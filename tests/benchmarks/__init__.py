"""Measurements. Each module prints its table; docs/benchmarks.md keeps them with their commands."""
