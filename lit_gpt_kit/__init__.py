"""lit_gpt_kit: GPT language models from scratch, for people who live in PyTorch Lightning.

The public names are imported when they are first used, so that importing the package, and the
commands that need little, cost little.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lit_gpt_kit.callbacks.classification_metrics import (
        ClassificationMetrics as ClassificationMetrics,
    )
    from lit_gpt_kit.callbacks.generation_metrics import GenerationMetrics as GenerationMetrics
    from lit_gpt_kit.callbacks.sample_text import SampleText as SampleText
    from lit_gpt_kit.callbacks.throughput import Throughput as Throughput
    from lit_gpt_kit.checkpoints.load import load_model as load_model
    from lit_gpt_kit.data.classification import (
        ClassificationDataModule as ClassificationDataModule,
    )
    from lit_gpt_kit.data.instruction import InstructionDataModule as InstructionDataModule
    from lit_gpt_kit.data.text import TextDataModule as TextDataModule
    from lit_gpt_kit.errors import InputError as InputError
    from lit_gpt_kit.generation.generate import generate as generate
    from lit_gpt_kit.generation.sampling import SamplingConfig as SamplingConfig
    from lit_gpt_kit.model.config import GPTConfig as GPTConfig
    from lit_gpt_kit.model.execution import ExecutionConfig as ExecutionConfig
    from lit_gpt_kit.model.gpt import GPT as GPT
    from lit_gpt_kit.model.lora import LoRAConfig as LoRAConfig
    from lit_gpt_kit.optim.muon import MuonAdamW as MuonAdamW
    from lit_gpt_kit.optim.schedules import WarmupCosine as WarmupCosine
    from lit_gpt_kit.optim.schedules import WarmupLinear as WarmupLinear
    from lit_gpt_kit.optim.schedules import WarmupStableDecay as WarmupStableDecay
    from lit_gpt_kit.tasks.base import Task as Task
    from lit_gpt_kit.tasks.classification import SequenceClassification as SequenceClassification
    from lit_gpt_kit.tasks.language_modeling import LanguageModeling as LanguageModeling
    from lit_gpt_kit.tokenization.tokenizer import Tokenizer as Tokenizer
    from lit_gpt_kit.tokenization.training import TokenizerConfig as TokenizerConfig

_HOMES = {
    "ClassificationDataModule": "data.classification",
    "ClassificationMetrics": "callbacks.classification_metrics",
    "ExecutionConfig": "model.execution",
    "GPT": "model.gpt",
    "GPTConfig": "model.config",
    "GenerationMetrics": "callbacks.generation_metrics",
    "InputError": "errors",
    "InstructionDataModule": "data.instruction",
    "LanguageModeling": "tasks.language_modeling",
    "LoRAConfig": "model.lora",
    "MuonAdamW": "optim.muon",
    "SampleText": "callbacks.sample_text",
    "SamplingConfig": "generation.sampling",
    "SequenceClassification": "tasks.classification",
    "Task": "tasks.base",
    "TextDataModule": "data.text",
    "Throughput": "callbacks.throughput",
    "Tokenizer": "tokenization.tokenizer",
    "TokenizerConfig": "tokenization.training",
    "WarmupCosine": "optim.schedules",
    "WarmupLinear": "optim.schedules",
    "WarmupStableDecay": "optim.schedules",
    "generate": "generation.generate",
    "load_model": "checkpoints.load",
}
"""Where each public name lives."""

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lit_gpt_kit' has no attribute '{name}'")
    value = getattr(import_module(f"lit_gpt_kit.{_HOMES[name]}"), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return __all__
