"""The contestants of `python -m tests.benchmarks`: one small file each, one process each.

`python -m tests.benchmarks.contestants.NAME ASSIGNMENT` takes an `Assignment` as JSON and answers
with one line of JSON. Nothing here may import `tests.conftest`: it has every shape of the network
checked as it runs, which is slow.
"""
