"""Weights as safetensors beside a card in JSON that says enough to rebuild the network: NAME.safetensors + NAME.json.

Nothing here unpickles. A file is believed only after its card's SHA-256, its header's names, shapes and types, and the
finiteness of its values were checked against the network that the card names. The SHA-256 guards against damage and
mix-ups, not against somebody who rewrites both files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.records import read_json_object, some_names
from featherweight.utils import UserError, sha256_bytes, write_together

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = Path(__file__).parent / "weights_data"  # inside an installed wheel
if not WEIGHTS.is_dir():
    WEIGHTS = Path(__file__).parent.parent / "weights"  # in a checkout

RUN_WEIGHTS = "model.safetensors"  # in a run folder
MAX_CARD_BYTES = 1 << 20  # a card is about 1 kB; 1 MiB leaves room for thousands of class names
MAX_HEADER_BYTES = 1 << 20  # about 100 bytes a tensor: room for 10,000 tensors
MAX_WEIGHTS_BYTES = 256 << 20  # 4 bytes a value: 67 million values, far beyond any network here


@dataclass(frozen=True, kw_only=True)
class Card:
    """What weights are, and what it takes to use them. Raises UserError, naming the field, for an impossible value."""

    name: str
    model: str  # registered name of the network
    classes: tuple[str, ...]  # in the order of the outputs
    mean: tuple[float, float, float]  # per colour, as fractions of 1; subtracted …
    std: tuple[float, float, float]  # … and divided by
    input_size: int  # side of the square pictures it was trained on, in pixels
    dataset: str
    recipe: str
    train_images: int | None = None  # how many pictures it was trained on
    test_accuracy: float | None = None  # fraction, on all test pictures
    seed: int | None = None
    epochs: int | None = None
    parameters: int = 0  # all trainable ones; filled in by `save`
    weights_sha256: str = ""  # of the .safetensors file, filled in by `save`

    def __post_init__(self) -> None:
        for name in ("classes", "mean", "std"):  # JSON has lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        problem = _problem(self)
        if problem:
            raise UserError(f"card of weights: {problem}")

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }


def _problem(card: Card) -> str | None:
    """The first thing wrong with `card`, in words."""

    def whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63

    def numbers(value: Any, low: float) -> bool:  # low: what all must exceed
        return (
            isinstance(value, tuple)
            and len(value) == 3
            and all(
                isinstance(one, int | float) and not isinstance(one, bool) and low < one < math.inf for one in value
            )
        )

    for name in ("name", "model", "dataset", "recipe"):
        value = getattr(card, name)
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            return f"{name} must be text"
    classes = card.classes
    if (
        not isinstance(classes, tuple)
        or not classes
        or not all(isinstance(one, str) and one and one.isprintable() for one in classes)
    ):
        return "classes must be a list of names"
    if len(set(classes)) < len(classes):
        return "classes must be different names"
    if not numbers(card.mean, -math.inf) or not numbers(card.std, 0):
        return "mean and std must be three numbers each, std above 0"
    for name, least in (("input_size", 1), ("parameters", 0), ("train_images", 1), ("seed", 0), ("epochs", 0)):
        value = getattr(card, name)
        if not whole(value, least) and (value is not None or name in ("input_size", "parameters")):
            return f"{name} must be a whole number from {least}"
    accuracy = card.test_accuracy
    if accuracy is not None and (
        isinstance(accuracy, bool) or not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1
    ):
        return "test_accuracy must be a fraction, 0 to 1, or null"
    if not isinstance(card.weights_sha256, str) or not re.fullmatch("(?:[0-9a-f]{64})?", card.weights_sha256):
        return "weights_sha256 must be 64 hexadecimal digits"
    return None


def published() -> list[str]:
    """The names of the published weights, sorted: those that have both files."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors") if path.with_suffix(".json").is_file())


def published_of(model: str) -> str | None:
    """The published name of a network's weights: its own, else, of those that other recipes gave, the most accurate."""
    names = published()
    if model in names:
        return model
    cards = {name: read_card(WEIGHTS / f"{name}.json") for name in names if name.startswith(model)}
    of_it = [name for name, card in cards.items() if card.model == model]
    return max(of_it, key=lambda name: cards[name].test_accuracy or 0, default=None)


def resolve(name_or_path: Path | str) -> Path:
    """The .safetensors file meant by a published name, a network's name, a .safetensors file, or a run folder.

    A published name comes first, then a network's; write ./NAME for a folder of the same name. Raises UserError when
    nothing is meant.
    """
    text = os.fspath(name_or_path)
    if text and (name := published_of(text)) is not None:
        return WEIGHTS / f"{name}.safetensors"
    path = Path(text)
    with contextlib.suppress(OSError, ValueError):  # a name too long or with a NUL byte is no file
        if path.is_dir() and (path / RUN_WEIGHTS).is_file():
            return path / RUN_WEIGHTS
        if path.is_dir():
            raise UserError(
                f"{path}: this folder holds no {RUN_WEIGHTS}; is its run finished? "
                "`featherweight train --resume` carries on"
            )
        if path.is_file() and path.suffix == ".safetensors":
            return path
        if path.is_file():
            raise UserError(f"{path}: not a .safetensors file; no other kind of weights is read here")
    names = ", ".join(published()) or "none yet"
    raise UserError(f"no weights at {text!r}; give a .safetensors file, a run folder, or a published name ({names})")


def read_card(path: Path | str) -> Card:
    """The card in the JSON file `path`. Raises UserError, naming file and field, when it is none."""
    values = read_json_object(path, limit=MAX_CARD_BYTES, what="card")
    known = {field.name: field for field in dataclasses.fields(Card)}
    unknown = [key for key in values if key not in known]
    required = [name for name, field in known.items() if field.default is dataclasses.MISSING]
    missing = [name for name in (*required, "parameters", "weights_sha256") if name not in values]
    if missing or unknown:
        word, names = ("is missing", missing) if missing else ("has unknown", unknown)
        raise UserError(f"{path}: the card {word} {some_names(names)}; restore the card saved with the weights")
    try:
        return Card(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def clean_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state of `network` under its own names: contiguous copies on the CPU, every floating-point value float32.

    Prefixes left by wrappers are taken off: `module.` (DataParallel, DistributedDataParallel, AveragedModel, whose
    counter `n_averaged` goes too) and `_orig_mod.` (torch.compile, at any depth).
    """
    import torch

    state = {re.sub(r"(^|(?<=\.))_orig_mod\.", "", name): value for name, value in network.state_dict().items()}
    while state and all(name.startswith("module.") for name in state if name != "n_averaged"):
        if set(state) == {"n_averaged"}:
            break
        state = {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
    clean = {}
    for name, value in state.items():
        value = value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype)
        clean[name] = value.clone(memory_format=torch.contiguous_format)  # of its own, so that nothing is shared
    return clean


def save(folder_or_path: Path | str, network: nn.Module, card: Card) -> Path:
    """Write `network`'s weights and `card` side by side and return the path of the weights.

    A path that ends in .safetensors is used as it is; anything else is a folder, where the card's name names the files.
    The card's `parameters` and `weights_sha256` are filled in. Both files are complete on the disk before either
    replaces an older one. Raises UserError when weights are not finite or the files cannot be written, ValueError when
    the card states another number of parameters.
    """
    import torch
    from safetensors.torch import save as serialise

    path = Path(folder_or_path)
    if path.suffix != ".safetensors":
        if not re.fullmatch(r"\w[\w.+-]*", card.name):
            raise UserError(f"{card.name!r} cannot name a file of weights: use letters, digits and . _ + - alone")
        path = path / f"{card.name}.safetensors"
    state = clean_state(network)
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"weights not saved to {path}: {broken[0]} holds values that are not finite; train again")
    data = serialise(state, metadata={"format": "pt"})  # one entry alone: more would be written in a random order
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if card.parameters not in (0, parameters):
        raise ValueError(f"the card states {card.parameters} parameters, the network has {parameters}")
    card = dataclasses.replace(card, parameters=parameters, weights_sha256=sha256_bytes(data))
    write_together(
        {
            path: data,
            path.with_suffix(".json"): (json.dumps(card.to_dict(), indent=2, ensure_ascii=False) + "\n").encode(),
        }
    )
    return path


def load(name_or_path: Path | str) -> tuple[nn.Module, Card]:
    """The network that the card names, holding the weights, in evaluation mode on the CPU, and the card.

    name_or_path: as for `resolve`. Raises UserError, one line, for anything that is not exactly what the card and the
    network ask for. Leaves torch's random state as it was.
    """
    import torch

    from featherweight import models

    path = resolve(name_or_path)
    card = read_card(path.with_suffix(".json"))
    if card.model not in models.names():
        raise UserError(
            f"{path.with_suffix('.json')}: no network is called {reprlib.repr(card.model)}; "
            f"known are {', '.join(models.names())}"
        )
    data = _read_verified(path, card)
    with torch.random.fork_rng(devices=[]):
        network = models.build(card.model, classes=len(card.classes))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if parameters != card.parameters:
        raise UserError(
            f"{path.with_suffix('.json')}: says {card.parameters} parameters, but {card.model} with "
            f"{len(card.classes)} classes has {parameters}; the card belongs to another network"
        )
    network.load_state_dict(_read_tensors(path, data, network.state_dict()))
    return network.eval(), card


def _read_verified(path: Path, card: Card) -> bytes:
    """The bytes of `path`, read once, not too many and as the card's SHA-256 says."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_WEIGHTS_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot read the weights {path}: {reason}; check the path, or restore the file") from error
    if len(data) > MAX_WEIGHTS_BYTES:
        raise UserError(f"{path}: larger than {MAX_WEIGHTS_BYTES >> 20} MiB, so it holds no weights of a network here")
    if sha256_bytes(data) != card.weights_sha256:
        raise UserError(
            f"{path}: its SHA-256 is not the one in {path.with_suffix('.json').name}; it is truncated, "
            "damaged or of another run: restore both files"
        )
    return data


def _read_tensors(path: Path, data: bytes, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors in `data`, exactly those of `expected` in name, shape and type, all finite."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    header = _read_header(path, data)
    missing, extra = expected.keys() - header.keys(), header.keys() - expected.keys()
    if missing or extra:
        word, names = ("lack", missing) if missing else ("hold the unknown", extra)
        raise UserError(
            f"{path}: the weights {word} {some_names(sorted(names))}; they belong to another network or version"
        )
    for name, tensor in expected.items():
        entry = header[name] if isinstance(header[name], dict) else {}
        found, wanted = [entry.get("dtype"), entry.get("shape")], [_kind(tensor), list(tensor.shape)]
        if found != wanted:
            raise UserError(
                f"{path}: {name} is {reprlib.repr(found)}, but the network needs {wanted}; "
                "the weights belong to another network"
            )
    try:
        state = parse(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path}: not a sound safetensors file ({str(error)[:120]}); restore it") from error
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: {broken[0]} holds values that are not finite; the training that gave it failed")
    return state


def _kind(tensor: torch.Tensor) -> str:
    """The name that safetensors gives the type in which `clean_state` stores `tensor`."""
    return "F32" if tensor.is_floating_point() else {"torch.int64": "I64", "torch.bool": "BOOL"}[str(tensor.dtype)]


def _read_header(path: Path, data: bytes) -> dict[str, Any]:
    """The header's entries by tensor name. Layout: 8 bytes of header length, little-endian; JSON; the values."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise UserError(f"{path}: not a safetensors file (its header would be {length} bytes long); restore it")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:  # ValueError: also text that is not UTF-8
        raise UserError(f"{path}: not a safetensors file (its header is not JSON); restore it") from error
    if not isinstance(header, dict):
        raise UserError(f"{path}: not a safetensors file (its header is not a JSON object); restore it")
    header.pop("__metadata__", None)
    return header
