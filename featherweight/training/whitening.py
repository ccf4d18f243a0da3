"""A first layer that starts out decorrelating its patches, instead of at random, and one that stays so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from featherweight.augment import normalize
from featherweight.utils import UserError

PICTURES = 4096  # about a million patches of 32x32 pictures at stride 2: enough for a covariance of 27 values
FLOOR = 1e-2  # added to the variances, so that directions that hold next to nothing are not blown up


@torch.no_grad()
def whiten_first_layer(network: nn.Module, images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
    """Set the first convolution's kernels to the principal components of the patches it will see, scaled to variance 1.

    images: uint8 [N, H, W, 3], training pictures; the first 4,096 are looked at. Of the layer's O kernels the first
    half are the leading components, the second half the same negated, so that ReLU loses neither sign; kernels beyond
    twice the number of components keep their start. The running statistics of a norm behind it become those of what
    it is given. Source: the whitening layer of Keller Jordan 2024 (airbench, arXiv:2404.00498); there it is frozen,
    here it goes on learning where `freeze_first_layer` is not called.

    Raises UserError when the network does not begin with an ordinary convolution of the pictures' channels.
    """
    layer, norm = _first_layer(network)
    if layer is None or layer.in_channels != images.shape[3] or layer.groups != 1 or layer.dilation != (1, 1):
        raise UserError("whiten: the network does not begin with an ordinary convolution of the pictures; leave it out")
    kernel = (layer.kernel_size[0], layer.kernel_size[1])
    pictures = normalize(images[:PICTURES].cpu(), mean, std)
    products, count = 0.0, 0
    for some in pictures.split(PICTURES // 16):  # all patches at once would take 1.6 GB
        patches = F.unfold(some, kernel, stride=(layer.stride[0], layer.stride[1])).transpose(1, 2).flatten(0, 1)
        products, count = products + patches.double().T @ patches.double(), count + len(patches)
    variances, components = torch.linalg.eigh(products / count)  # in rising order
    # An eigenvector's sign is arbitrary: its largest entry is made positive, so that every machine starts alike.
    largest = components.abs().argmax(0)
    components = components * components.gather(0, largest[None]).sign()
    whitening = (components / (variances + FLOOR).sqrt()).flip(1).T.reshape(-1, *layer.weight.shape[1:])
    half = min(layer.out_channels // 2, len(whitening))
    chosen = whitening[:half].to(layer.weight.dtype)
    layer.weight[: 2 * half] = torch.cat([chosen, -chosen])
    if norm is not None and norm.running_mean is not None and norm.running_var is not None:
        outputs = [layer(some) for some in pictures.to(layer.weight.dtype).split(PICTURES // 16)]
        norm.running_mean.copy_(torch.stack([one.mean((0, 2, 3)) for one in outputs]).mean(0))
        norm.running_var.copy_(torch.stack([one.var((0, 2, 3), correction=0) for one in outputs]).mean(0))


def freeze_first_layer(network: nn.Module) -> list[nn.Module]:
    """Have the first convolution, and the batch norm behind it where there is one, learn no more; gives them back.

    A step is then spared their backward pass and the gradient to their map, the largest of all. The caller keeps the
    norm in evaluation mode, so that its statistics stay too. Raises UserError when the network has no convolution.
    """
    found: list[nn.Module] = [layer for layer in _first_layer(network) if layer is not None]
    if not found:
        raise UserError("freeze_first: the network has no convolution; leave it out")
    for layer in found:
        layer.requires_grad_(False)
    return found


def _first_layer(network: nn.Module) -> tuple[nn.Conv2d | None, nn.BatchNorm2d | None]:
    """The first convolution, and the batch norm that comes right behind it in the order of the network's layers."""
    layers = [module for module in network.modules() if not list(module.children())]
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            behind = layers[place + 1] if place + 1 < len(layers) else None
            return layer, behind if isinstance(behind, nn.BatchNorm2d) else None
    return None, None
