"""A Python that need not import torch and Lightning anew: most of what a `lit-gpt` process costs.

Each process is one of its own, forked from one that has imported the libraries and nothing of ours.
"""
