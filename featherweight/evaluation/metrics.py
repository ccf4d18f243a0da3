"""Figures of a classifier as pure functions on tensors. Letters of the shapes: N pictures, C classes.

`outputs` are floating-point [N, C], logits or log-probabilities alike: every figure here depends on them only through
argmax and log-softmax, and log-softmax is idempotent (exp of log-probabilities sums to 1, so the log of that sum, which
a second log-softmax would subtract, is 0). `labels` are int64 [N], each in 0 … C-1. Sums are taken in float64.
"""

from __future__ import annotations

import torch

CALIBRATION_BINS = 15  # as in Guo et al. 2017


def predictions(outputs: torch.Tensor) -> torch.Tensor:
    """The class with the largest output: [N, C] → int64 [N]. Raises ValueError for other shapes or no pictures."""
    if outputs.ndim != 2 or 0 in outputs.shape:
        raise ValueError(f"outputs must be [N, C] with N, C > 0, not {list(outputs.shape)}")
    return outputs.argmax(1)


def accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The fraction of pictures given their own label: float64, 0-d."""
    return (predictions(outputs) == _checked(outputs, labels)).double().mean()


def confusion_matrix(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How often label i was called j, in row i, column j: int64 [C, C]. Its entries sum to N."""
    classes = outputs.shape[-1]
    pairs = _checked(outputs, labels) * classes + predictions(outputs)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def per_class_accuracy(confusion: torch.Tensor) -> torch.Tensor:
    """The fraction of each class's pictures given their own label (recall), from `confusion_matrix`: float64 [C].

    NaN for a class without pictures.
    """
    return confusion.diagonal().double() / confusion.sum(1).double()


def negative_log_likelihood(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean of -log p(label), in nats: float64, 0-d. No label smoothing, whatever the training loss was."""
    log_probabilities = outputs.double().log_softmax(1)
    return -log_probabilities.gather(1, _checked(outputs, labels)[:, None]).mean()


def expected_calibration_error(
    outputs: torch.Tensor, labels: torch.Tensor, bins: int = CALIBRATION_BINS
) -> torch.Tensor:
    """How far confidence is from accuracy, 0 (calibrated) … 1: float64, 0-d. Guo et al. 2017 (arXiv:1706.04599), eq. 3.

    The confidence of a picture is its largest softmax probability. With M equal-width bins, B_m holding the pictures
    whose confidence lies in ((m-1)/M, m/M]:

        ECE = Σ_m |B_m|/N · | accuracy(B_m) − mean confidence(B_m) |
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    right = (predictions(outputs) == _checked(outputs, labels)).double()
    confidence = outputs.double().softmax(1).amax(1)
    inner = torch.arange(1, bins, dtype=torch.float64, device=outputs.device) / bins
    which = torch.bucketize(confidence, inner)  # bin m: inner[m-1] < confidence <= inner[m]
    # |B_m|/N · |accuracy − confidence| = |Σ over B_m of (right − confidence)| / N, so empty bins need no care
    gaps = torch.zeros(bins, dtype=torch.float64, device=outputs.device).index_add_(0, which, right - confidence)
    return gaps.abs().sum() / len(labels)


def _checked(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if labels.dtype != torch.int64 or labels.shape != outputs.shape[:1]:
        raise ValueError(f"labels must be int64 {list(outputs.shape[:1])}, not {labels.dtype} {list(labels.shape)}")
    return labels
