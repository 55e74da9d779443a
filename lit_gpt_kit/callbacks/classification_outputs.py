"""What a classifier's step returns, read as rows that can be scored."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.loss import IGNORE_INDEX

WANTED = (
    "return {'logits': ..., 'labels': ...} from it: logits (batch, classes) with labels (batch) "
    "for one label a row, both (batch, classes) for several, both (batch) for yes or no"
)


@dataclass(frozen=True)
class ScoredRows:
    """The rows of a batch that have labels.

    Attributes:
        log_odds: of each class against all others together, in nats. Unlike a probability, which
            is 1 to all its digits long before a fine-tuned model is done, it tells sure from surer.
        decisions: the class of each row; or, where a row has several labels, 0 or 1 for each class.
        labels: the truth, in the shape of `decisions`.
    """

    log_odds: Float[Tensor, "rows classes"]
    decisions: Int[Tensor, "rows *classes"]
    labels: Int[Tensor, "rows *classes"]

    @property
    def num_classes(self) -> int:
        """Number of classes; two for yes or no."""
        return self.log_odds.shape[1]

    @property
    def is_multilabel(self) -> bool:
        """Whether a row may have several labels, or none."""
        return self.labels.ndim > 1


def read_outputs(outputs: Any, step: str) -> ScoredRows:
    """The rows of a step's outputs; those whose labels are all IGNORE_INDEX are left out.

    Args:
        outputs: what the step returned.
        step: its name, for messages.

    Raises:
        InputError: it is something else, or the shapes or values fit no kind of classification.
    """
    is_dict = isinstance(outputs, dict)
    logits, labels = (outputs.get(name) if is_dict else None for name in ("logits", "labels"))
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
        raise InputError(
            f"ClassificationMetrics cannot score what {step} returns ({_describe(outputs)}); "
            f"{WANTED}"
        )
    shapes = f"logits {tuple(logits.shape)} with labels {tuple(labels.shape)}"
    logits, labels = (_without_column(tensor.detach()) for tensor in (logits, labels))
    logits, classes = logits.float(), labels.long()
    is_multilabel = logits.ndim == 2 and classes.shape == logits.shape
    is_one_of = logits.ndim == 2 and classes.shape == logits.shape[:1]
    is_yes_or_no = logits.ndim == 1 and classes.shape == logits.shape
    if not (is_multilabel or is_one_of or is_yes_or_no):
        raise InputError(f"ClassificationMetrics cannot score {shapes} of {step}; {WANTED}")
    if is_yes_or_no:
        logits = torch.stack([torch.zeros_like(logits), logits], dim=1)
    largest = 1 if is_multilabel else logits.shape[1] - 1
    _check_labels(labels, classes, largest, step)
    is_row = classes != IGNORE_INDEX
    is_row = is_row.any(dim=1) if is_multilabel else is_row
    logits, classes = logits[is_row], classes[is_row]
    if is_multilabel:
        return ScoredRows(logits, (logits > 0).long(), classes)
    return ScoredRows(log_odds(logits), logits.argmax(dim=1), classes)


def log_odds(logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
    """log(p / (1 - p)) of the softmax, exact where p rounds to 1."""
    log_p = logits.log_softmax(dim=1)
    odds = log_p - torch.log(-torch.expm1(log_p))
    # Only the likeliest class can have 1 - p too small for these digits.
    best = logits.max(dim=1, keepdim=True)
    others = logits.scatter(1, best.indices, float("-inf")).logsumexp(dim=1, keepdim=True)
    return odds.scatter(1, best.indices, best.values - others)


def _check_labels(labels: Tensor, classes: Tensor, largest: int, step: str) -> None:
    is_allowed = (classes >= 0) & (classes <= largest) & (classes == labels)
    if classes.ndim > 1:
        is_allowed |= (classes == IGNORE_INDEX).all(dim=1, keepdim=True)
    else:
        is_allowed |= classes == IGNORE_INDEX
    if not is_allowed.all():
        wrong = labels[~is_allowed][0].item()
        raise InputError(
            f"a label of {step} is {wrong}; labels run from 0 to {largest}, or are {IGNORE_INDEX} "
            "in a row that does not count"
        )


def _without_column(tensor: Tensor) -> Tensor:
    return tensor.squeeze(1) if tensor.ndim == 2 else tensor


def _describe(outputs: Any) -> str:
    if not isinstance(outputs, dict):
        return "nothing" if outputs is None else f"a {type(outputs).__name__}"
    return f"a dict of {', '.join(map(repr, outputs)) or 'nothing'}"
