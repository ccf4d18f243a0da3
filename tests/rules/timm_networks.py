"""Networks of timm, as they are. timm imports torchvision for its pictures and its feature hooks, not for its networks;
where there is no torchvision that fits torch (there is none for CPU-only builds), empty modules stand in for it.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
import warnings
from typing import Any

NAMES = (
    "resnet18",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "densenet121",
    "efficientnet_b0",
    "regnetx_002",
    "regnety_002",
    "ghostnet_100",
    "convnext_atto",
    "mnasnet_100",
)


class _Names(type):
    """Of a class that has every attribute: each its own name (for enumerations)."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Empty(types.ModuleType):
    """A module with every name in it: each a class that does nothing."""

    __version__ = "0.0"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


class _Finder:
    """Finds every module of torchvision, empty."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> Any:
        if name.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, _Finder, is_package=True)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: Any) -> types.ModuleType:
        return _Empty(spec.name)

    @staticmethod
    def exec_module(module: types.ModuleType) -> None:
        pass


def create(name: str) -> Any:
    """The network `name` of timm with random weights, in evaluation mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision  # type: ignore[import-not-found]  # noqa: F401
        except Exception:
            sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
        timm = importlib.import_module("timm")
        return timm.create_model(name, pretrained=False).eval()
