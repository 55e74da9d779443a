"""SequenceClassification: which of several labels a text has."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.linear import Linear  # nn.Linear may be another class: linear_kinds.py

from lit_gpt_kit.errors import InputError, did_you_mean
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.execution import ExecutionConfig
from lit_gpt_kit.model.lora import LoRAConfig
from lit_gpt_kit.model.loss import IGNORE_INDEX
from lit_gpt_kit.tasks.base import OptimizerFactory, ScheduleFactory, Task
from lit_gpt_kit.tasks.mean_loss import MeanLoss


class SequenceClassification(Task):
    """A GPT whose last token says which label a text has, or which of several labels.

    The head reads the last real token of each row, which has seen all others (Radford et al. 2018,
    section 3.2). Batches are those of `ClassificationDataModule`.

    Logs `train/loss` (of the whole global batch), `train/lr`, `train/grad_norm`, `train/tokens`,
    and `val/loss` over the whole split. `validation_step` and `test_step` return `logits` and
    `labels`, of which the callback `ClassificationMetrics` makes accuracy, F1, AUROC and pictures.

    Args:
        gpt: the network; with `pretrained`, only its `dropout` counts.
        optimizer: any torch optimiser; it gets a group of parameters for each part (hidden
            matrices, embeddings, head, vectors), and its weight decay falls on matrices alone.
        lr_schedule: learning-rate schedule, stepped every optimiser step; constant by default.
        pretrained: the MODEL to start from: a Hugging Face folder or hub name, a .gguf, a run
            folder or a .ckpt.
        lora: train adapters of this kind, and the head, instead of all weights.
        freeze: patterns of names of weights that stay as they are, such as `model.blocks.[0-3].*`.
        layer_lr_decay: the learning rate of each layer is that of the layer above times this.
        class_weights: how much a row counts, by its label; "balanced" weighs all labels alike
            however many rows they have. Where a row may have several labels, how much it counts
            that it has this one.
        label_names: the labels in the order of their numbers; by default the data's.
        is_multi_label: a row may have several labels; by default as the data says.
        max_bad_steps: stop after so many steps in a row whose loss or gradient is not finite; 0 is
            never.
        execution: how the network is run in training: compiled, activations made twice.
    """

    predicts_tokens = False

    def __init__(
        self,
        gpt: GPTConfig = GPTConfig(),  # noqa: B008
        optimizer: OptimizerFactory = lambda params: torch.optim.AdamW(params, lr=5e-5, fused=True),
        lr_schedule: ScheduleFactory | None = None,
        pretrained: str | None = None,
        lora: LoRAConfig | None = None,
        freeze: Sequence[str] = (),
        layer_lr_decay: float = 1.0,
        class_weights: Literal["balanced"] | dict[str, float] | None = None,
        label_names: Sequence[str] | None = None,
        is_multi_label: bool = False,
        max_bad_steps: int = 10,
        execution: ExecutionConfig = ExecutionConfig(),  # noqa: B008
    ) -> None:
        super().__init__(
            gpt,
            optimizer,
            lr_schedule,
            pretrained,
            lora,
            freeze,
            layer_lr_decay,
            max_bad_steps,
            execution,
        )
        # A label that is a number may be written as one in YAML.
        self.class_weights = (
            {str(name): weight for name, weight in class_weights.items()}
            if isinstance(class_weights, Mapping)
            else class_weights
        )
        self.label_names = None if label_names is None else tuple(label_names)
        self.is_multi_label = is_multi_label
        self.head: nn.Linear | None = None
        self.label_weights: Tensor | None
        self.register_buffer("label_weights", None, persistent=False)
        self.val_loss = MeanLoss()
        self.test_loss = MeanLoss()

    def complete_model(self) -> None:
        """Build the head, when the data module has already said its labels.

        Raises:
            InputError: balanced weights are asked for, and nobody knows how often labels occur.
        """
        # The next token is nobody's concern; a tied head is the embedding, and that is trained.
        if not self.gpt.tie_embeddings:
            self.network.lm_head.requires_grad_(False)
        data: Any = getattr(self._trainer, "datamodule", None)
        names = getattr(data, "label_names", None)
        if names is not None:
            self.label_names = self.label_names or tuple(names)
            is_multi_label = bool(getattr(data, "is_multi_label", False))
            self.is_multi_label = self.is_multi_label or is_multi_label
        if self.label_names is not None:
            self._build_head(self.label_names)
            if self.class_weights == "balanced" and self._is_fitting():
                if not hasattr(data, "label_counts"):
                    raise InputError(
                        "class_weights='balanced' needs a data module with label_counts; give a "
                        "weight for each label"
                    )
                self._weigh(balance(self.label_names, data.label_counts))

    def _build_head(self, label_names: Sequence[str]) -> None:
        # In single precision like every weight that is trained, whatever the frozen ones are in.
        self.head = Linear(
            self.gpt.embed_dim,
            len(label_names),
            bias=False,
            device=self.network.device,
            dtype=torch.float32,
        )
        nn.init.normal_(self.head.weight, std=self.gpt.init_std)
        if isinstance(self.class_weights, Mapping):
            self._weigh(self.class_weights)

    def _weigh(self, weights: Mapping[str, float]) -> None:
        names = self.label_names or ()
        for name, weight in weights.items():
            if name not in names:
                hint = did_you_mean(name, names)
                raise InputError(f"class_weights names '{name}', which is no label{hint}")
            if not 0 <= weight < math.inf:
                raise InputError(f"class_weights: {weight} of '{name}' must be at least 0")
        by_number = [float(weights.get(name, 1.0)) for name in names]
        device = self.network.device
        # Of a network that is yet to be laid over devices nothing is anywhere.
        self.label_weights = torch.tensor(
            by_number, device="cpu" if device.type == "meta" else device
        )

    def suggest(self, run_dir: str) -> str:
        """Labels for texts that have none."""
        return (
            f"lit-gpt predict --config {run_dir}/config.yaml --ckpt_path {run_dir} "
            "--data.predict_sources='[FILE]'"
        )

    # ---- one step ----

    def forward(
        self, input_ids: Int[Tensor, "batch seq"], last_token: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch labels"]:
        """Scores (logits) of the labels.

        Args:
            input_ids: token ids, padded at the end.
            last_token: where the last real token of each row stands.
        """
        if self.head is None:
            raise InputError(
                "the labels are not known; train with a data module that has label_names, give "
                "label_names, or start from a checkpoint"
            )
        hidden = self.network.hidden_states(input_ids)
        rows = torch.arange(len(last_token), device=last_token.device)
        logits: Tensor = self.head(hidden[rows, last_token].to(self.head.weight.dtype))
        return logits

    def compute_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Summed nats, and the number of rows, each by its weight; of labels where there may be
        several.
        """
        return self.label_loss(self(batch["input_ids"], batch["last_token"]), batch["labels"])

    def label_loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of scores, and what it is divided by."""
        logits = logits.float()
        is_real = labels != IGNORE_INDEX
        if self.is_multi_label:
            truth = labels.clamp(min=0).float()
            loss = F.binary_cross_entropy_with_logits(
                logits, truth, pos_weight=self.label_weights, reduction="none"
            )
            return (loss * is_real).sum(), is_real.sum()
        weights = self.label_weights
        loss = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX, reduction="sum")
        if weights is None:
            return loss, is_real.sum()
        return loss, weights[labels[is_real]].sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Scores and labels, for the callbacks that make metrics of them."""
        return self._evaluate("val", self.val_loss, batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Scores and labels, for the callbacks that make metrics of them."""
        return self._evaluate("test", self.test_loss, batch)

    def _evaluate(self, split: str, mean: MeanLoss, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self(batch["input_ids"], batch["last_token"]).float()
        mean.update(*self.label_loss(logits, batch["labels"]))
        self.log(f"{split}/loss", mean, prog_bar=True, batch_size=len(logits))
        return {"logits": logits, "labels": batch["labels"]}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """What the network takes each row for.

        Returns:
            By column, a value a row: `row`, its number; `text`; `label`, the likeliest, or the list
            of those more likely than not where there may be several; `probability`, of that label
            or by label; `probabilities`, by label.
        """
        assert self.label_names is not None, "the labels are known once the head is built"
        logits = self(batch["input_ids"], batch["last_token"]).float()
        scores = logits.sigmoid() if self.is_multi_label else logits.softmax(-1)
        columns: dict[str, Any] = {"row": batch["row"], "text": batch["texts"]}
        by_label = [dict(zip(self.label_names, row, strict=True)) for row in scores.tolist()]
        if self.is_multi_label:
            columns["label"] = [[n for n, p in row.items() if p > 0.5] for row in by_label]
        else:
            likeliest = [max(row.items(), key=lambda item: item[1]) for row in by_label]
            columns["label"] = [name for name, _ in likeliest]
            columns["probability"] = [probability for _, probability in likeliest]
        columns["probabilities"] = by_label
        return columns

    # ---- checkpoints ----

    def saved_settings(self) -> dict[str, Any]:
        """The task's, and the labels."""
        names, weights = self.label_names, self.label_weights
        return {
            **super().saved_settings(),
            "label_names": None if names is None else list(names),
            "is_multi_label": self.is_multi_label,
            "class_weights": None
            if names is None or weights is None
            else dict(zip(names, weights.tolist(), strict=True)),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint has these labels, or learn them from it.

        Raises:
            InputError: it has others, or none.
        """
        saved = checkpoint["hyper_parameters"]
        names = saved.get("label_names")
        if names is None:
            raise InputError("the checkpoint is of no classification: it has no labels")
        if self.label_names is not None and tuple(names) != self.label_names:
            raise InputError(
                f"the checkpoint tells apart {', '.join(names)}, the data "
                f"{', '.join(self.label_names)}; train on the same labels, in the same order"
            )
        self.label_names = tuple(names)
        self.is_multi_label = saved["is_multi_label"]
        if self.head is None:
            self._build_head(self.label_names)
        if self.class_weights == "balanced" and self.label_weights is None:
            self._weigh(saved["class_weights"] or {})
        super().on_load_checkpoint(checkpoint)


def balance(names: Sequence[str], counts: Sequence[int]) -> dict[str, float]:
    """Weights with which every label counts alike, and a row one on the average."""
    per_label = sum(counts) / len(counts)
    return {name: per_label / max(1, count) for name, count in zip(names, counts, strict=True)}
