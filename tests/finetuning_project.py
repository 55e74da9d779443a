"""A tiny project to fine-tune in: a pretrained model, labelled texts, conversations."""

import json
from pathlib import Path
from typing import Any

from tests.transformers_models import build, save

LABELS = ("cat", "dog", "eel")
TRAINER = """\
seed_everything: 0
trainer:
  accelerator: cpu
  max_steps: 4
  log_every_n_steps: 1
  val_check_interval: 2
  check_val_every_n_epoch: null
  logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: logs}}
"""
CLASSIFY = f"""\
{TRAINER}
model:
  class_path: lit_gpt_kit.SequenceClassification
  init_args:
    pretrained: base
    class_weights: balanced
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.01}}}}
data:
  class_path: lit_gpt_kit.ClassificationDataModule
  init_args: {{sources: [rows.jsonl], val_fraction: 0.2, batch_size: 4, cache_dir: cache}}
"""
CHAT = f"""\
{TRAINER}
model:
  class_path: lit_gpt_kit.LanguageModeling
  init_args:
    pretrained: base
    lora: {{rank: 4}}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.01}}}}
data:
  class_path: lit_gpt_kit.InstructionDataModule
  init_args: {{sources: [chats.jsonl], batch_size: 4, cache_dir: cache}}
"""


def write_jsonl(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def save_base(folder: Path) -> Path:
    """A pretrained model: a Hugging Face folder with a byte tokenizer."""
    return save(build("llama", "multi-head", max_position_embeddings=256), folder)


def write_finetuning_project(folder: Path) -> Path:
    """classify.yaml and chat.yaml, their rows, and texts without labels; all but the base."""
    (folder / "classify.yaml").write_text(CLASSIFY)
    (folder / "chat.yaml").write_text(CHAT)
    rows = [
        {"text": f"{'cdce'[i % 4] * 3} {i}", "label": LABELS[[0, 1, 0, 2][i % 4]]}
        for i in range(40)
    ]
    write_jsonl(folder / "rows.jsonl", *rows)
    write_jsonl(folder / "new.jsonl", *({"text": text} for text in ("eee 7", "a long text", "cc")))
    chats = [{"prompt": f"say {i}", "completion": f"{i} it is"} for i in range(40)]
    write_jsonl(folder / "chats.jsonl", *chats)
    return folder
