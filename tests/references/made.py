"""A small reference, and the configuration that it fits, for tests."""

from typing import Any

from lit_gpt_kit.references.matching import shaping_settings
from lit_gpt_kit.references.reference import Reference, build_band

FINGERPRINT = "0f" * 32
TOKENS = (100.0, 200.0, 300.0)
SEEDS = ((3.0, 2.0, 1.0), (3.1, 2.1, 1.1), (3.2, 2.2, 1.2))
"""Standard deviation 0.1 everywhere: a band reaches 0.4969 to both sides."""


def make_config(**changes: Any) -> dict[str, Any]:
    """A resolved configuration; `changes` go into the part that has such a key."""
    trainer = {"max_steps": 30, "precision": "bf16-mixed", "devices": "auto", "callbacks": None}
    gpt = {"num_layers": 5, "dropout": 0.1, "use_bias": False}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001, "fused": True}}
    data = {"sources": ["a.txt"], "val_fraction": 0.1, "batch_size": 2, "seed": None}
    for key, value in changes.items():
        parts = (trainer, gpt, optimizer["init_args"], data)
        part: Any = next((part for part in parts if key in part), trainer)
        part[key] = value
    return {
        "seed_everything": changes.get("seed_everything", 0),
        "trainer": trainer,
        "model": {"class_path": "lit_gpt_kit.LanguageModeling",
                  "init_args": {"gpt": gpt, "optimizer": optimizer}},
        "data": {"class_path": "lit_gpt_kit.TextDataModule", "init_args": data},
    }  # fmt: skip


def make_reference(name: str = "small", **changes: Any) -> Reference:
    """What `make_config(**changes)` gives with three seeds."""
    return Reference(
        name,
        num_seeds=len(SEEDS),
        curves={m: build_band(TOKENS, SEEDS) for m in ("val/loss", "train/loss")},
        tokens_per_step=10,
        data_fingerprint=FINGERPRINT,
        settings=shaping_settings(make_config(**changes)),
        provenance={},
        seeds=dict.fromkeys(("val/loss", "train/loss"), SEEDS),
    )
