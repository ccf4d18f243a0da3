"""One picture through one network: its classes, and which part of it speaks for the first of them.

Letters of the shapes: S the side of the network's input, H and W the height and width of what is shown, in pixels.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from featherweight.augment import normalize
from featherweight.explain.attribution import grad_cam
from featherweight.explain.layers import Layer, find_layer
from featherweight.explain.saliency import where_strongest
from featherweight.ship.classifier import Classifier
from featherweight.ship.predictor import Prediction, read_picture
from featherweight.utils import UserError

SHOWN = 320  # the longer of H and W: two side by side fill a column of the page
TOP = 5  # classes with a bar of their own
STRENGTH = 0.55  # of the colours over the picture, as in the figures of `featherweight explain`

# matplotlib's viridis (CC0) at 17 evenly spaced places; straight lines between them miss it by 6 of 255 at most.
_VIRIDIS = (
    *((68, 1, 84), (72, 24, 106), (71, 45, 123), (66, 64, 134), (59, 82, 139), (51, 99, 141), (44, 114, 142)),
    *((38, 129, 142), (33, 144, 140), (31, 159, 136), (40, 174, 128), (62, 188, 116), (93, 201, 99)),
    *((130, 211, 76), (171, 220, 50), (213, 226, 26), (253, 231, 37)),
)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a network made of a picture. Pictures are uint8."""

    top: tuple[tuple[str, float], ...]  # the best classes with their probabilities, best first
    others: int  # how many classes are not in `top`
    given: np.ndarray  # [S, S, 3]: exactly what the network got
    overlay: np.ndarray | None  # [H, W, 3]: the picture in grey under the Grad-CAM map of the first class
    strongest: str  # where that map is strongest, in words; without a map, why there is none


class Looker:
    """A trained network that can be asked about pictures from several threads at once.

    name: what people call it by.
    """

    def __init__(self, name: str, classifier: Classifier) -> None:
        self.name = name
        self.classifier = classifier
        self._layer: Layer | None = None
        self._one_at_a_time = threading.Lock()  # Grad-CAM hangs hooks on the network

    def look(self, picture: Path | str | bytes) -> Seen:
        """Classes and overlay. Raises PictureError for what is no picture, UserError for broken weights."""
        given = read_picture(picture, self.classifier.side)
        shown = read_picture(picture, SHOWN, keep_shape=True)
        with self._one_at_a_time:
            shares = self.classifier.probabilities(given[None])[0]
            try:
                heat = self._heat(given, int(shares.argmax()))
            except UserError as error:  # a network without any map still has its classes
                overlay, strongest = None, str(error)
            else:
                overlay, strongest = lay_over(shown, heat.numpy()), where_strongest(heat)
        found = Prediction.of(shares, self.classifier.classes, TOP)
        others = len(shares) - len(found.top)
        return Seen(top=found.top, others=others, given=given, overlay=overlay, strongest=strongest)

    def _heat(self, given: np.ndarray, label: int) -> torch.Tensor:
        """The Grad-CAM map, float32 [S, S] on the processor."""
        network, card, device = self.classifier.network, self.classifier.card, self.classifier.device
        if self._layer is None:
            self._layer = find_layer(network, None, (1, 3, card.input_size, card.input_size))
        pixels = normalize(torch.from_numpy(given[None]).to(device), card.mean, card.std)
        return grad_cam(network, self._layer.name, pixels, torch.tensor([label]))[0].float().cpu()


def lay_over(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """`heat`, float [S, S] from 0 up, in colours over `picture`, uint8 [H, W, 3], in grey → uint8 [H, W, 3].

    The map is scaled to its own largest value; one of zeros alone is all of the lowest colour.
    """
    wide = Image.fromarray(heat.astype(np.float32)).resize(picture.shape[1::-1], Image.Resampling.BILINEAR)
    top = float(heat.max())
    share = (np.asarray(wide) / top if top > 0 else np.zeros(picture.shape[:2])).clip(0, 1)
    grey = (picture @ np.array(_LUMA))[..., None]
    return np.rint(STRENGTH * colours(share) + (1 - STRENGTH) * grey).astype(np.uint8)


def colours(share: np.ndarray) -> np.ndarray:
    """Numbers 0 … 1, any shape, as viridis colours: float [..., 3], 0 … 255."""
    at = np.linspace(0, 1, len(_VIRIDIS))
    return np.stack([np.interp(share, at, channel) for channel in np.array(_VIRIDIS).T], axis=-1)
