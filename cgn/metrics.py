"""AUC, localisation (Sec. IV-E) and Frechet distance (Sec. IV-D, IV-F)."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from sklearn.metrics import roc_auc_score

from cgn.data.boxes import Box, iou

IOU_THRESHOLD = 0.1  # Sec. IV-E
CAM_THRESHOLD = 0.2


def auc(y: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve, in [0, 1]; ties count half.

    Raises:
        ValueError: a score is not finite, or there is only one class.
    """
    labels, scores = np.asarray(y), np.asarray(score, np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite but some are not")
    if len(np.unique(labels)) != 2:
        raise ValueError(f"an AUC needs both classes but the labels are {np.unique(labels).tolist()}")
    return float(roc_auc_score(labels, scores))


def box_from_cam(
    cam: NDArray[np.floating], size: int | tuple[int, int], threshold: float = CAM_THRESHOLD
) -> Box:
    """Sec. IV-E. Box of the largest region above `threshold` times the maximum of the resized map.

    Args:
        cam: `(h, w)` class activation map.
        size: of the image in pixels, a side or `(width, height)`.
        threshold: as a share of the map's maximum.

    Returns:
        `x0, y0, x1, y1` in pixels of the image, x1 and y1 exclusive; the empty box `(0, 0, 0, 0)` if no value
        of the map is positive (reading 26).
    """
    width, height = (size, size) if isinstance(size, int) else size
    large = cv2.resize(np.ascontiguousarray(cam, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    peak = float(large.max())
    if not peak > 0:
        return (0.0, 0.0, 0.0, 0.0)
    region = (large > threshold * peak).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
    x, y, w, h, _ = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())].tolist()
    return (float(x), float(y), float(x + w), float(y + h))


def best_iou(box: Box, truths: Sequence[Box]) -> float:
    """The largest IoU with any of the annotated boxes; NaN if there are none."""
    return max((iou(box, truth) for truth in truths), default=float("nan"))


def top1_localization_error(
    ious: ArrayLike, correct_class: ArrayLike | None = None, threshold: float = IOU_THRESHOLD
) -> float:
    """Table II, reading 20. Share of the annotated images in which the lesion was missed.

    Args:
        ious: `(n,)` best IoU of each image's predicted box; NaN if nothing is annotated.
        correct_class: `(n,)` bool, whether the class is correct as well; None to count the location only.
        threshold: the smallest IoU that counts as localised.

    Returns:
        Error in [0, 1], over the annotated images; NaN if there are none.
    """
    overlap = np.asarray(ious, np.float64)
    annotated = ~np.isnan(overlap)
    if not annotated.any():
        return float("nan")
    localized = overlap[annotated] >= threshold
    if correct_class is not None:
        localized &= np.asarray(correct_class, bool)[annotated]
    return float(1 - localized.mean())


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Sec. IV-D, [12]. Frechet distance of two Gaussians fitted to `(n, d)` and `(m, d)` features.

    `|mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2))`. The last trace is computed as the sum of
    the singular values of `S_a^(1/2) S_b^(1/2)`, which is real for singular covariances too.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"two (n, d) arrays of at least 2 rows and equal d are needed but got {a.shape}, {b.shape}"
        )
    # With X centred and scaled, S = X^T X, and the singular values are those of X_a X_b^T. With X = QR they
    # are also those of R_a R_b^T, whose sides are the smaller of X's rows and columns.
    x_a, x_b = ((m - m.mean(0)) / np.sqrt(len(m) - 1) for m in (a, b))
    shared = linalg.svdvals(np.linalg.qr(x_a).R @ np.linalg.qr(x_b).R.T).sum()
    means = np.square(a.mean(0) - b.mean(0)).sum()
    return float(max(means + np.square(x_a).sum() + np.square(x_b).sum() - 2 * shared, 0.0))
