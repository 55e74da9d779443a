"""How one model is laid over devices, applied from outside: the network never knows."""

from lit_gpt_kit.parallel.strategy import ShardedStrategy

__all__ = ["ShardedStrategy"]
