"""A folder in the layout that model hubs expect.

model.safetensors   the weights, byte for byte
model.json          their card: with it, commands and `featherweight.load` take the folder as they take a run
config.json         what other programs need to rebuild the network and to feed it
README.md           the model card, with its metadata header
predictor.py        pictures to classes without torch, for the .onnx files that may lie beside it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.ship.parity import Parity
from featherweight.utils import UserError, sha256_bytes, write_together
from featherweight.weights import RUN_WEIGHTS, Card

MODEL_TYPE = "featherweight"
_DATASETS = {"cifar10": "CIFAR-10", "digits": "scikit-learn's digits, scaled to 32x32"}


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the model card tells of an exported form."""

    file: str
    size: int  # bytes
    parity: Parity
    milliseconds: Mapping[int, float]  # pictures at a time → the quickest call


def write_folder(
    folder: Path | str, weights_path: Path, card: Card, forms: Mapping[str, Told] | None = None
) -> list[Path]:
    """Write the folder's files, all or none, and return their paths.

    weights_path: the .safetensors file that `card` belongs to. forms: by name ("fp32", "int8"), what the README shall
    tell of the .onnx files. Raises UserError when the weights are not the card's, when the folder
    cannot be written, and when it holds other files of these names.
    """
    folder = Path(folder)
    require_own(folder)
    try:
        data = weights_path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the weights {weights_path}: {error.strerror or error}") from error
    if sha256_bytes(data) != card.weights_sha256:
        raise UserError(f"{weights_path}: its SHA-256 is not the one in its card; restore both files")
    contents = {
        RUN_WEIGHTS: data,
        "model.json": _json(card.to_dict()),
        "config.json": _json(config(card)),
        "README.md": readme(card, forms or {}).encode(),
        "predictor.py": Path(__file__).with_name("predictor.py").read_bytes(),
    }
    paths = {folder / name: content for name, content in contents.items()}
    write_together(paths)
    return list(paths)


def require_own(folder: Path) -> None:
    """Raises UserError for a folder with a README or configuration that is not of a folder written here: a run's, say,
    or a project's own, which would be replaced."""
    there = [name for name in ("config.json", "README.md") if (folder / name).exists()]
    if not there:
        return
    try:
        found = json.loads((folder / "config.json").read_bytes())
        if found["model_type"] == MODEL_TYPE:
            return
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise UserError(
        f"{folder} holds another {there[0]}, which is kept; choose an empty folder for the model hub's files"
    )


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def config(card: Card) -> dict[str, Any]:
    """What rebuilds the network: `models.build(architecture, classes=num_labels)` takes the weights as they are."""
    return {
        "model_type": MODEL_TYPE,
        "architecture": card.model,
        "num_labels": len(card.classes),
        "id2label": {str(index): name for index, name in enumerate(card.classes)},
        "label2id": {name: index for index, name in enumerate(card.classes)},
        "num_channels": 3,
        "image_size": card.input_size,
        "rescale_factor": 1 / 255,
        "image_mean": list(card.mean),
        "image_std": list(card.std),
        "num_parameters": card.parameters,
    }


def readme(card: Card, forms: Mapping[str, Told]) -> str:
    """The model card: a metadata header in YAML, then what a person should know before using the network."""
    data = _DATASETS.get(card.dataset, card.dataset)
    accuracy = "not recorded" if card.test_accuracy is None else f"{100 * card.test_accuracy:.2f} %"
    trained = ", ".join(
        text
        for text, value in (
            (f"on {card.train_images or 0:,} pictures of {data}", card.train_images),
            (f"for {card.epochs} epochs", card.epochs),
            (f"with seed {card.seed}", card.seed),
        )
        if value is not None
    )
    side = card.input_size
    shown = f"""# {card.name}

A small image classifier: the network `{card.model}` with {card.parameters:,} parameters, for pictures of
{side} x {side} pixels. Accuracy on all test pictures of {data}, one view: **{accuracy}**.
Recipe `{card.recipe}`{", trained " + trained if trained else ""}.

Classes: {", ".join(card.classes)}.

## Use

```python
import featherweight
print(featherweight.load("path/to/this/folder").predict("cat.png"))
```
{_onnx_part(forms)}
In torch the network takes `(pixels / 255 - mean) / std`, shape [N, 3, {side}, {side}]; mean and deviation are in
`config.json`.

## Limits

Every picture is given one of the {len(card.classes)} classes, also a picture of something else. Pictures are
squeezed into {side} x {side} pixels: what is small is lost. Photographs unlike those of the data set are recognised
less often than the accuracy above says, and the confidence does not show it.
"""
    return _header(card, bool(forms)) + shown


def _onnx_part(forms: Mapping[str, Told]) -> str:
    if not forms:
        return ""
    rows = [
        f"| `{told.file}` | {form} | {told.size:,} | {100 * told.parity.accuracy:.2f} % | "
        f"{told.parity.agreeing:,} of {told.parity.images:,} | {told.parity.max_difference:.2g} | "
        + " | ".join(f"{milliseconds:.2f} ms" for milliseconds in told.milliseconds.values())
        + " |"
        for form, told in forms.items()
    ]
    first = next(iter(forms.values()))
    times = [f"a batch of {batch}" for batch in first.milliseconds]
    return "\n".join(
        [
            "",
            "Without torch (numpy, pillow and onnxruntime), with raw 0-255 pixels, normalisation and softmax inside:",
            "",
            "```",
            f"python predictor.py {first.file} cat.png",
            "```",
            "",
            f"| file | form | bytes | test accuracy | same class as torch | largest difference | {' | '.join(times)} |",
            f"|---|---|---:|---:|---:|---:|{'---:|' * len(times)}",
            *rows,
            "",
            "Times: of the quickest call, one thread, on the machine that exported it.",
            "",
        ]
    )


def _header(card: Card, onnx: bool) -> str:
    """The metadata header. Strings go in as JSON, which is YAML too, so no name can break out of its place."""
    tags = ["image-classification", "featherweight", "safetensors", *(["onnx"] if onnx else [])]
    lines = [
        "---",
        "license: mit",
        "library_name: featherweight",
        "pipeline_tag: image-classification",
        f"tags: {json.dumps(tags)}",
        f"datasets: {json.dumps([card.dataset])}",
    ]
    if card.test_accuracy is not None:
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": _DATASETS.get(card.dataset, card.dataset), "type": card.dataset, "split": "test"},
            "metrics": [{"type": "accuracy", "value": card.test_accuracy}],
        }
        index = [{"name": card.name, "results": [result]}]
        lines += ["metrics: [accuracy]", f"model-index: {json.dumps(index, ensure_ascii=False)}"]
    return "\n".join([*lines, "---", "", ""])
