"""One hand-made output of each kind of `featherweight bench`, with figures that are easy to reckon with."""

from __future__ import annotations

import copy
from typing import Any

MACHINE = {
    "device": "cpu Abacus 2",
    "processor": "Abacus 2",
    "cores": 2,
    "threads": 2,
    "torch": "2.13.0",
    "python": "3.11.0",
    "system": "Linux x86_64",
    "memory_bytes": 8_000_000_000,
    "load_before": 0.25,
    "load_after": 1.5,
    "others_share": 0.021,
    "stolen_share": 0.004,
}

_SHARES = {"waiting": 0.5, "augmentation": 0.0, "forward": 0.2, "backward": 0.25, "optimiser": 0.05, "other": 0.0}

RAW_NETWORK = {
    "model": "separable_100k",
    "recipe": "separable_100k",
    "dataset": "cifar10",
    "batch_size": 128,
    "parameters": 99_968,
    "multiply_adds": 50_000_000,
    "matrix_rates": {"fp32": [240e9, 200e9, 220e9], "bf16": [400e9, 480e9, 470e9]},
    "loops": [
        {
            "name": "plain loop",
            "precision": "fp32",
            "fused": False,
            "augmentation": "albumentations, 2 workers",
            "multiply_adds": 50_000_000,
            "operations": 300_000_000,
            "turns": [100.0, 120.0, 80.0],
            "peak_memory_bytes": 1_500_000_000,
            "device_memory_bytes": None,
            "shares": _SHARES,
        },
        {
            "name": "batched",
            "precision": "bf16",
            "fused": True,
            "augmentation": "batched",
            "multiply_adds": 50_000_000,
            "operations": 300_000_000,
            "turns": [400.0, 600.0, 360.0],
            "peak_memory_bytes": 900_000_000,
            "device_memory_bytes": None,
            "shares": _SHARES,
        },
        {
            "name": "none",
            "precision": "bf16",
            "fused": True,
            "augmentation": "none",
            "multiply_adds": 50_000_000,
            "operations": 300_000_000,
            "turns": [500.0, 500.0, 500.0],
            "peak_memory_bytes": 900_000_000,
            "device_memory_bytes": None,
            "shares": _SHARES,
        },
    ],
}
PRODUCT = {"size": 2048, "fp32": 240e9, "bf16": 480e9}


def speed_output() -> dict[str, Any]:
    from featherweight.bench.speed import FORMULA, summarise

    return {
        "command": "featherweight bench --model separable_100k",
        "kind": "speed",
        "machine": dict(MACHINE),
        "repeats": 3,
        "seconds": 6.0,
        "flops_formula": FORMULA,
        "matrix_product": dict(PRODUCT),
        "networks": [summarise(copy.deepcopy(RAW_NETWORK), PRODUCT)],
    }


def run(seed: int, accuracy: float, seconds: float, target: float) -> dict[str, Any]:
    from featherweight.bench.time_to import figures

    record = {
        "seed": seed,
        "train_seconds": seconds,
        "wall_seconds": seconds + 5,
        "epochs": 15,
        "precision": "bf16",
        "train_images": 50_000,
        "test_images": 10_000,
        "test_accuracy": accuracy,
        "data_sha256": "0" * 64,
        "commit": "",
    }
    return figures({"record": record, "flops": 2e13, "device_memory": None}, 1_250_000_000, target)


def time_output() -> dict[str, Any]:
    from featherweight.bench.time_to import summarise

    runs = [run(0, 0.849, 100.0, 0.85), run(1, 0.853, 110.0, 0.85)]
    return {
        "command": "featherweight bench --time-to 0.85 --seeds 0 1",
        "kind": "time_to",
        "machine": dict(MACHINE),
        "target": 0.85,
        "recipe": "feather_quick",
        "model": "feather_quick",
        "dataset": "cifar10",
        "protocol": "the whole recipe",
        **summarise(runs, 0.85),
        "runs": runs,
    }


def predict_output() -> dict[str, Any]:
    from featherweight.bench.predict import figures

    return {
        "command": "featherweight bench predict",
        "kind": "predict",
        "machine": dict(MACHINE),
        "weights": "feather_quick",
        "model": "feather_quick",
        "pictures": "cifar10",
        "repeats": 2,
        "seconds": 1.0,
        "forms": [
            {"form": "torch_fp32", "batch_size": 1, **figures([[0.001], [0.002]], 1), "agreement": 1.0},
            {"form": "torch_fp32", "batch_size": 256, **figures([[0.1], [0.1]], 256), "agreement": 1.0},
        ],
        "unavailable": [{"form": "onnx_int8", "reason": "onnxruntime is not installed"}],
    }


def equal_output() -> dict[str, Any]:
    from featherweight.bench.equal import compare

    def runs(precision: str, seconds: float, *accuracies: float) -> list[dict[str, Any]]:
        return [
            {"seed": seed, "precision": precision, "accuracy": accuracy, "images": 5000, "seconds": seconds}
            for seed, accuracy in enumerate(accuracies)
        ]

    found = {"plain loop": runs("fp32", 700.0, 0.60, 0.61, 0.62), "batched": runs("bf16", 90.0, 0.61, 0.60, 0.63)}
    found["albumentations"] = runs("bf16", 700.0, 0.61, 0.60, 0.63)
    return {
        "command": "featherweight bench --equal-epochs 2 --model separable_100k --forms batched",
        "kind": "equal_epochs",
        "machine": dict(MACHINE),
        "epochs": 2,
        "seeds": [0, 1, 2],
        "learning_rate": 0.01,
        "momentum": 0.9,
        "met": True,
        "networks": [
            {"model": "separable_100k", "dataset": "cifar10", "batch_size": 128, "loops": compare(found)},
        ],
    }
