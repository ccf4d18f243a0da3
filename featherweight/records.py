"""One run ↔ one JSON file: `result.json` in its run folder, `results/*.json` for the published ones.

Names in `results/`: `RECIPE.json` is the run whose weights are published (as `weights/RECIPE.safetensors`);
`RECIPE-seedN.json` is the run of the same recipe with seed N whose weights are not. One recipe's records must agree in
everything a seed does not change, so a row of the README never mixes recipes, networks or data.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.utils import UserError, write_atomic

RESULTS = Path(__file__).parent / "results_data"  # inside an installed wheel
if not RESULTS.is_dir():
    RESULTS = Path(__file__).parent.parent / "results"  # in a checkout

LAST_EPOCH = "none: last epoch"  # `selection` of a run whose last state was tested, as every published one's
MAX_BYTES = 4 << 20  # a record is a few kilobytes
MAX_DEPTH = 20  # of nesting inside `config` and `extras`


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one run gave. Raises UserError, naming the field, for a value of a wrong type or out of range.

    A run that never read its test pictures has `test_images` 0 and neither `test_accuracy` nor `test_loss`; such a
    record may lie in a run folder but not in `results/`.
    """

    recipe: str
    model: str
    parameters: int  # trainable
    multiply_adds: int  # per picture
    receptive_field: int | list[int]  # pixels, just before global pooling; [height, width] where they differ
    rules_passed: bool
    seed: int
    epochs: int
    train_images: int
    test_images: int
    test_accuracy: float | None  # fraction
    test_loss: float | None  # nats
    selection: str  # how the state that was tested was chosen: LAST_EPOCH, or in words
    wall_seconds: float  # everything
    train_seconds: float  # first step to last, compilation included, evaluation and loading not
    device: str  # cpu, cuda or mps, then the hardware's name
    threads: int
    torch: str  # version
    commit: str  # empty outside a checkout
    data_sha256: str
    weights: str  # path or name; empty where they were not kept
    weights_sha256: str
    # what a run may add
    dataset: str | None = None
    per_class: dict[str, float | None] | None = None  # on the test pictures; None for a class that has none
    calibration_error: float | None = None
    val_images: int | None = None
    val_accuracy: float | None = None
    val_loss: float | None = None
    rules_failed: list[str] | None = None
    precision: str | None = None
    command: str | None = None
    date: str | None = None  # ISO 8601
    config: dict[str, Any] | None = None  # resolved
    extras: dict[str, Any] | None = None  # anything else worth keeping

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise UserError(f"record of recipe {reprlib.repr(self.recipe)}: {problem}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "record") -> Record:
        """The record in `values`. Raises UserError, beginning with `where`, for missing, unknown or wrong fields."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = [str(key) for key in values if key not in known]
        missing = [name for name, field in known.items() if field.default is dataclasses.MISSING and name not in values]
        if missing or unknown:
            word, names = ("is missing", missing) if missing else ("has unknown", unknown)
            raise UserError(
                f"{where}: the record {word} {some_names(names)}; expected the fields that `featherweight train` writes"
            )
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The contract's fields in their order, then those additions that are set."""
        values = dataclasses.asdict(self)
        return {
            field.name: values[field.name]
            for field in dataclasses.fields(self)
            if field.default is dataclasses.MISSING or values[field.name] is not None
        }

    @classmethod
    def read(cls, path: Path | str) -> Record:
        """The record in the file `path`. Raises UserError, naming file and field, when it is none."""
        return cls.from_dict(read_json_object(path, limit=MAX_BYTES, what="record"), str(path))

    def write(self, path: Path | str) -> None:
        """Write the record as JSON, whole or not at all. Raises UserError when it cannot be written."""
        write_atomic(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_words(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_json(value: Any, depth: int = MAX_DEPTH) -> bool:
    if depth and isinstance(value, dict):
        return all(_is_json(key) and isinstance(key, str) and _is_json(item, depth - 1) for key, item in value.items())
    if depth and isinstance(value, list | tuple):
        return all(_is_json(item, depth - 1) for item in value)
    if isinstance(value, str):
        return not re.search("[\ud800-\udfff]", value)  # half a surrogate pair cannot be written as UTF-8
    return value is None or isinstance(value, bool) or _is_number(value)


def _whole_from(least: int) -> tuple[Any, str]:
    return (lambda value: _is_whole(value) and value >= least), f"a whole number from {least}"


_WORDS = (_is_words, "printable text")
_TEXT = ((lambda value: isinstance(value, str) and value.isprintable()), "printable text, or empty")
_FRACTION = (_is_fraction, "a fraction, 0 to 1")
_NOT_NEGATIVE = ((lambda value: _is_number(value) and value >= 0), "a number not below 0")
_SHA256 = ((lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)), "64 hexadecimal digits")
_OBJECT = (
    (lambda value: isinstance(value, dict) and _is_json(value)),
    f"an object of plain JSON values, at most {MAX_DEPTH} deep",
)

_CHECKS: dict[str, tuple[Any, str]] = {
    "recipe": _WORDS,
    "model": _WORDS,
    "parameters": _whole_from(0),
    "multiply_adds": _whole_from(0),
    "receptive_field": (
        lambda value: (
            (_is_whole(value) and value >= 1)
            or (
                isinstance(value, list | tuple)
                and len(value) == 2
                and all(_is_whole(side) and side >= 1 for side in value)
            )
        ),
        "a whole number of pixels from 1, or [height, width]",
    ),
    "rules_passed": (lambda value: isinstance(value, bool), "true or false"),
    "seed": _whole_from(0),
    "epochs": _whole_from(0),
    "train_images": _whole_from(1),
    "test_images": _whole_from(0),
    "test_accuracy": _FRACTION,
    "test_loss": _NOT_NEGATIVE,
    "selection": _WORDS,
    "wall_seconds": _NOT_NEGATIVE,
    "train_seconds": _NOT_NEGATIVE,
    "device": (
        lambda value: isinstance(value, str) and re.match(r"(cpu|cuda|mps)\b", value),
        "cpu, cuda or mps and the hardware's name",
    ),
    "threads": _whole_from(1),
    "torch": _WORDS,
    "commit": _TEXT,
    "data_sha256": _SHA256,
    "weights": _TEXT,
    "weights_sha256": _SHA256,
    "dataset": _WORDS,
    "per_class": (
        lambda value: (
            isinstance(value, dict)
            and all(_is_words(key) and (item is None or _is_fraction(item)) for key, item in value.items())
        ),
        "an object of fractions by class",
    ),
    "calibration_error": _FRACTION,
    "val_images": _whole_from(1),
    "val_accuracy": _FRACTION,
    "val_loss": _NOT_NEGATIVE,
    "rules_failed": (lambda value: isinstance(value, list | tuple) and all(map(_is_words, value)), "a list of names"),
    "precision": _WORDS,
    "command": _WORDS,
    "date": _WORDS,
    "config": _OBJECT,
    "extras": _OBJECT,
}


def _problem(record: Record) -> str | None:
    """The first thing wrong with `record`, in words."""
    tested = _is_whole(record.test_images) and record.test_images > 0
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        check, wanted = _CHECKS[field.name]
        if field.name in ("test_accuracy", "test_loss") and not tested:
            check, wanted = (lambda value: value is None), "null, since test_images is 0"
        elif value is None and field.default is None:
            continue
        if not check(value):
            return f"{field.name} is {reprlib.repr(value)}, but must be {wanted}"
    if record.train_seconds > record.wall_seconds:
        return f"train_seconds is {record.train_seconds}, more than the {record.wall_seconds} of wall_seconds"
    return None


@dataclass(frozen=True, kw_only=True)
class Group:
    """All published runs of one recipe, in the order of their seeds."""

    recipe: str
    records: tuple[Record, ...]
    published: Record | None  # the run whose weights are published: RECIPE.json

    @property
    def accuracies(self) -> list[float]:
        return [record.test_accuracy for record in self.records if record.test_accuracy is not None]

    @property
    def count(self) -> int:
        return len(self.records)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation with n - 1 in the denominator; None for a single run, which says nothing of the spread."""
        return statistics.stdev(self.accuracies) if self.count > 1 else None

    @property
    def minimum(self) -> float:
        return min(self.accuracies)

    @property
    def shown(self) -> Record:
        """The run that speaks for the group where one has to: the published one, else that of the lowest seed."""
        return self.published or self.records[0]


def load_all(folder: Path | str) -> dict[str, Record]:
    """The records of the `*.json` files directly in `folder`, by the files' stems, sorted.

    Raises UserError when there is no such folder, and for a file that is no record, was never tested, or whose name
    does not follow the scheme above.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder of records at {folder}; give the right one with --results")
    found = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stem):
        record = Record.read(path)
        if path.stem not in (record.recipe, f"{record.recipe}-seed{record.seed}"):
            raise UserError(
                f"{path}: holds recipe {record.recipe}, seed {record.seed}; name it {record.recipe}.json "
                f"if its weights are published, else {record.recipe}-seed{record.seed}.json"
            )
        if record.test_accuracy is None:
            raise UserError(f"{path}: test_accuracy is null; a published run has read its test pictures")
        found[path.stem] = record
    return found


_SAME_IN_A_GROUP = (
    "model",
    "parameters",
    "multiply_adds",
    "receptive_field",
    "rules_passed",
    "epochs",
    "train_images",
    "test_images",
    "selection",
    "data_sha256",
    "dataset",
)


def group_by_recipe(records: Mapping[str, Record]) -> list[Group]:
    """The groups of `records` (as `load_all` gives them), sorted by recipe.

    Raises UserError when two records of one recipe have the same seed, or differ in what a seed does not change.
    """
    by_recipe: dict[str, list[Record]] = {}
    for record in records.values():
        by_recipe.setdefault(record.recipe, []).append(record)
    groups = []
    for recipe, members in sorted(by_recipe.items()):
        members.sort(key=lambda record: record.seed)
        for name in ("seed", *_SAME_IN_A_GROUP):
            values = [getattr(record, name) for record in members]
            if name == "seed" and len(set(values)) < len(values):
                raise UserError(f"records of {recipe}: two runs have the same seed; keep one of them")
            if name != "seed" and any(value != values[0] for value in values):
                raise UserError(
                    f"records of {recipe}: {name} differs between its runs ({_listed(values)}); "
                    "runs that differ in more than the seed are different recipes"
                )
        groups.append(Group(recipe=recipe, records=tuple(members), published=records.get(recipe)))
    return groups


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))


def read_json_object(path: Path | str, *, limit: int, what: str) -> dict[str, Any]:
    """The JSON object in the file `path`, which a `what` should hold.

    Raises UserError when the file is not there, is larger than `limit` bytes, or holds anything but one object of
    standard JSON (NaN, a key given twice and bottomless nesting included).
    """
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read the {what} {path}: {reason}; check the path, or restore the file") from error
    if len(data) > limit:
        raise UserError(f"{path}: larger than {limit} bytes, so it is no {what}")
    try:
        values = json.loads(data, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a {what} in JSON ({error}); restore it or write it anew") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds {type(values).__name__}, but a {what} is a JSON object; restore it")
    return values


def some_names(names: Iterable[str]) -> str:
    """A few of `names`, quoted and shortened, for a message of one line however hostile the file they came from."""
    names = list(names)
    shown = ", ".join(repr(name if len(name) <= 80 else name[:77] + "…") for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is given twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
