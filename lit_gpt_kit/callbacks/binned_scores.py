"""Scores of a classifier that need its probabilities, from counts in bins: memory stays flat."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

MOST_BINS = 2**16
FEWEST_BINS = 2**10
BINS_OF_ALL_CLASSES = 2**18
FINEST_LOG_ODDS = 0.1
LARGEST_LOG_ODDS = 1e4
CALIBRATION_BINS = 15


class BinnedCurves(Metric):
    """ROC and precision-recall curves, each class against the others.

    Counts rows by log-odds, in bins that are equally wide in asinh of it: narrow around zero, where
    an untrained model's lie close together, and wider with the distance, so that any scale of
    logits fits. torchmetrics' binned curves take thresholds on probabilities, which put nearly all
    rows of a fine-tuned model into the first and the last bin, compare each row with each
    threshold, and count a class that is not there as an AUROC of 0.

    Rows of one bin count as equally likely. The largest errors measured, of AUROC and of average
    precision, on 5,000 made-up rows whose logits differ by hundredths up to hundreds: 1e-4 and 3e-4
    with up to four classes (65,536 bins each), 1e-4 and 1e-3 with 50, 2e-4 and 3e-3 with 200. Two
    classes whose log-odds are all 3 but for hundredths: 1e-4 and 3e-3. Log-odds beyond 10,000 are
    not told apart.

    Args:
        num_classes: of two exclusive classes, only the second has curves.
        is_multilabel: whether a row may have several labels.
    """

    full_state_update = False
    histogram: Tensor
    num_undefined: Tensor

    def __init__(self, num_classes: int, is_multilabel: bool) -> None:
        super().__init__()
        self.is_multilabel = is_multilabel
        self.first = 1 if num_classes == 2 and not is_multilabel else 0
        self.num_curves = num_classes - self.first
        fitting = BINS_OF_ALL_CLASSES // self.num_curves
        self.num_bins = max(FEWEST_BINS, min(MOST_BINS, fitting))
        counts = torch.zeros(self.num_curves, 2, self.num_bins, dtype=torch.int64)
        self.add_state("histogram", counts, dist_reduce_fx="sum")
        self.add_state("num_undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, log_odds: Float[Tensor, "rows classes"], target: Int[Tensor, "rows *classes"]
    ) -> None:
        """Add rows."""
        self.num_undefined += log_odds.isnan().any(dim=1).sum()
        truth = target if self.is_multilabel else F.one_hot(target, log_odds.shape[1])
        scores, truth = log_odds[:, self.first :], truth[:, self.first :]
        if not self.is_multilabel:
            # A guess among the classes, and so a model that knows little, comes to lie at zero.
            scores = scores + math.log(log_odds.shape[1] - 1)
        largest = math.asinh(LARGEST_LOG_ODDS / FINEST_LOG_ODDS)
        place = (torch.asinh(scores / FINEST_LOG_ODDS) / largest).nan_to_num(nan=0.0).clamp(-1, 1)
        bins = ((place + 1) / 2 * self.num_bins).long().clamp(max=self.num_bins - 1)
        curve = torch.arange(self.num_curves, device=bins.device)
        flat = ((curve * 2 + truth) * self.num_bins + bins).flatten()
        self.histogram.view(-1).index_add_(0, flat, torch.ones_like(flat))

    def compute(self) -> dict[str, Tensor]:
        """The curves, and the area under each.

        Returns:
            `false_positive_rate`, `recall` and `precision` (curves, points), from the highest
            threshold, which nothing reaches, to the lowest; `auroc` and `average_precision`
            (curves), NaN where the class or the others have no rows; and `num_undefined`, the rows
            with a NaN. On the CPU, in float64.
        """
        counts = F.pad(self.histogram.cpu().flip(-1).cumsum(-1), (1, 0)).double()
        false_positives, true_positives = counts[:, 0], counts[:, 1]
        false_positive_rate = false_positives / false_positives[:, -1:]
        recall = true_positives / true_positives[:, -1:]
        found = true_positives + false_positives
        precision = (true_positives / found).where(found > 0, 1.0)
        # As sklearn: a sum of steps, not a line between points, which would flatter.
        average_precision = (recall.diff() * precision[:, 1:]).sum(-1)
        has_others = false_positives[:, -1] > 0
        return {
            "false_positive_rate": false_positive_rate,
            "recall": recall,
            "precision": precision,
            "auroc": torch.trapezoid(recall, false_positive_rate),
            "average_precision": average_precision.where(has_others, torch.nan),
            "num_undefined": self.num_undefined.cpu(),
        }


class BinnedCalibration(Metric):
    """Expected calibration error: how far the model's confidence is from its accuracy.

    The mean of |accuracy - confidence| over 15 equal bins of confidence, weighted by their rows
    (Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3). Confidence is the probability
    of the class decided for; where rows have several labels, that of each label, and then accuracy
    is how often it applies. torchmetrics' version keeps the confidence of every row.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, is_multilabel: bool) -> None:
        super().__init__()
        self.is_multilabel = is_multilabel
        zeros = torch.zeros(CALIBRATION_BINS, 3, dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")

    def update(
        self,
        log_odds: Float[Tensor, "rows classes"],
        preds: Int[Tensor, "rows *classes"],
        target: Int[Tensor, "rows *classes"],
    ) -> None:
        """Add rows."""
        if self.is_multilabel:
            confidence, is_right = log_odds.sigmoid().flatten(), target.flatten()
        else:
            confidence, is_right = log_odds.amax(dim=1).sigmoid(), preds == target
        confidence = confidence.nan_to_num(nan=0.0)
        bins = (confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
        added = torch.stack([torch.ones_like(confidence), confidence, is_right], dim=1)
        self.sums.index_add_(0, bins, added.to(self.sums.dtype))

    def compute(self) -> dict[str, Tensor]:
        """`calibration_error`; and by bin `bin_count`, and, NaN in an empty bin, its means.

        Returns:
            `calibration_error` (), `bin_count`, `bin_confidence` and `bin_accuracy` (bins).
        """
        count, confidence, accuracy = self.sums.cpu().unbind(dim=1)
        return {
            "calibration_error": (accuracy - confidence).abs().sum() / count.sum(),
            "bin_count": count,
            "bin_confidence": confidence / count,
            "bin_accuracy": accuracy / count,
        }
