"""The networks by name: an explicit table, one file per architecture. Each is imported only when it is built."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from featherweight.utils import UserError

if TYPE_CHECKING:
    from torch import nn

# name → (module in this folder, class)
_TABLE = {
    "separable_100k": ("separable_100k", "Separable100k"),
    "dilated_160k": ("dilated_160k", "Dilated160k"),
    "c1c2c3c4_strided": ("c1c2c3c4_strided", "C1C2C3C4Strided"),
    "c1c2c3c4_dilated": ("c1c2c3c4_dilated", "C1C2C3C4Dilated"),
    "feather_quick": ("feather_quick", "FeatherQuick"),
    "feather_100k": ("feather_100k", "Feather100k"),
    "feather_200k": ("feather_200k", "Feather200k"),
    "teacher": ("teacher", "Teacher"),
}


def names() -> list[str]:
    """The registered names, in the table's order."""
    return list(_TABLE)


def check_name(name: str) -> None:
    """UserError, with the choices, unless `name` is a registered network's."""
    if name not in _TABLE:
        raise UserError(f"no network is called {name!r}; choose one of {', '.join(_TABLE)}")


def build(name: str, classes: int = 10) -> nn.Module:
    """A new network with random weights, [N, 3, H, W] → [N, classes].

    The output is logits, but log-probabilities where the network has a true `log_probabilities` attribute.
    Raises UserError for a name that is not registered.
    """
    check_name(name)
    module, cls = _TABLE[name]
    return getattr(importlib.import_module(f"featherweight.models.{module}"), cls)(classes=classes)
