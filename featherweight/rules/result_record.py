"""The accuracy rule: what a result record claims, and whether it may be believed. No torch here.

A record is refused, whatever its accuracy, when the figure was not measured on the test images once and for all:
scored on training images, on a wrong number of images, or with the epoch chosen by the test accuracy.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeGuard

from featherweight.rules.wording import one_line
from featherweight.utils import UserError

_BYTES = 10_000_000
_TEST_WORDS = re.compile(r"(?<![a-z])test(ing|set|data|loader)?(?![a-z])", re.IGNORECASE)  # also in test_accuracy
_NOT_TEST = re.compile(r"train|val(id)?|\b(no|not|without)\b|[+&]", re.IGNORECASE)  # "train and test", "not test"
_DENIAL = re.compile(r"\b(no|not|never|none|without|untouched|unseen|once)\b", re.IGNORECASE)
_BEST = re.compile(r"\b(best|highest|max(imum)?|lowest|min(imum)?|peak|top|early)\b", re.IGNORECASE)
_BEST_TEST = re.compile(  # "no validation, so best on the test set" is a confession all the same
    _BEST.pattern + r"(\W+(?!val|held|hold|dev|no\b|not\b|never|without)\w+){0,5}?\W+test", re.IGNORECASE
)
_HELD_OUT = re.compile(r"\b(val(id|idation)?|held[ -]?out|hold[ -]?out)\b", re.IGNORECASE)
_TRAIN_WORDS = re.compile(r"^(train|training|trainset|train[_ -]?set)$", re.IGNORECASE)
_SCORED_ON = ("evaluation_set", "evaluated_on", "evaluation_split", "eval_set", "eval_split", "split", "test_split")


def read_record(path: Path | str) -> dict[str, Any]:
    """A result record (JSON object). Raises UserError when it cannot be read or is not one."""
    path = Path(path)
    try:
        if path.stat().st_size > _BYTES:
            raise UserError(f"the record {path} is over {_BYTES:,} bytes; give a result.json")
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read the record {path}: {error.strerror}; give the path of a result.json") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the record {path} is not JSON ({error}); give a result.json") from error
    if not isinstance(data, dict):
        raise UserError(f"the record {path} is not a JSON object; give a result.json")
    return data


def problem_of(
    record: dict[str, Any],
    *,
    test_images: int,
    train_images_at_most: int,
    parameters: int | None = None,
    dataset: str = "",
) -> str | None:
    """Why a record's accuracy does not count, in one sentence; None when it does.

    test_images: how many images the test set has; parameters: those of the network that is checked with it; dataset:
    what the record must name as its data set where it names one (`cifar10` is also met by "CIFAR-10").
    """
    named = record.get("dataset")
    if dataset and named and not _same_set(named, dataset):
        return f"the record is of another data set: {one_line(named, 40)}, not {dataset}"
    for check in (_on_training_images, _counts, _selection, _figure):
        problem = check(record, test_images, train_images_at_most)
        if problem:
            return problem
    claimed = record.get("parameters")
    if parameters is not None and claimed is not None and str(claimed) != str(parameters):
        return f"the record is of another network: it has {one_line(claimed, 20)} parameters, this one {parameters}"
    return None


def _same_set(named: object, dataset: str) -> bool:
    """Whether a data set's name is `dataset`, whatever its spelling and what follows: CIFAR-10, not CIFAR-100."""
    spelt, wanted = (re.sub(r"[^a-z0-9]", "", str(name).lower()) for name in (named, dataset))
    return re.match(re.escape(wanted) + r"(?!\d)", spelt) is not None


def _on_training_images(record: dict[str, Any], test_images: int, most: int) -> str | None:
    for key in _SCORED_ON:
        value = record.get(key)
        value = " ".join(map(str, value)) if isinstance(value, list) else value
        if isinstance(value, str) and (not _TEST_WORDS.search(value) or _NOT_TEST.search(value)):
            where = "the training images" if _TRAIN_WORDS.match(value.strip()) else repr(one_line(value, 60))
            return f"scored on {where} ({key}), not on the test images"
    scored, trained = record.get("test_images"), record.get("train_images")
    if scored is not None and scored == trained and scored != test_images:
        return f"scored on the training images: {scored} scored, {trained} trained on"
    hashes = _hashes(record)
    shared = set(hashes["train"]) & set(hashes["test"])
    if shared:
        return f"scored on training images: both sets have the hash {sorted(shared)[0][:12]}…"
    overlap = record.get("shared_images", record.get("overlap", 0))
    if overlap and str(overlap).strip().lower() not in ("0", "none", "no"):
        return f"{one_line(overlap, 40)} of the images scored were trained on"
    return None


def _hashes(record: dict[str, Any]) -> dict[str, list[str]]:
    """Digests of the training and test images, as `data_sha256 = {train, test}` or `train_sha256`, `test_sha256`."""
    found: dict[str, list[str]] = {"train": [], "test": []}
    whole = record.get("data_sha256")
    for name, digests in found.items():
        for value in (record.get(f"{name}_sha256"), whole.get(name) if isinstance(whole, dict) else None):
            digests.extend([value] if isinstance(value, str) else value if isinstance(value, list) else [])
        digests[:] = [digest.strip().lower() for digest in digests if isinstance(digest, str) and digest.strip()]
    return found


def _counts(record: dict[str, Any], test_images: int, most: int) -> str | None:
    scored, trained = record.get("test_images"), record.get("train_images")
    if not _whole(scored):
        return "it does not say how many images were scored (test_images)"
    if scored != test_images:
        dropped = " (was the last batch dropped?)" if 0 < test_images - scored < 1024 else ""
        return f"scored on {scored} images, not on the {test_images} test images{dropped}"
    if not _whole(trained) or trained == 0:
        return "it does not say how many images were trained on (train_images)"
    if trained > most:
        return f"trained on {trained} images where there are {most} for training: the test images are among them"
    return None


def _selection(record: dict[str, Any], test_images: int, most: int) -> str | None:
    how = record.get("selection")
    if not isinstance(how, str) or not how.strip():
        return "it does not say how the epoch was selected (selection)"
    for clause in re.split(r"[;,.:()]", how):  # "the test set was not looked at" is no confession
        confessed = _TEST_WORDS.search(clause) and not _DENIAL.search(clause)
        if confessed or _BEST_TEST.search(clause):
            return f"selected on the test set ({one_line(how, 120)!r})"
        if _BEST.search(clause) and not _DENIAL.search(clause) and not _HELD_OUT.search(how):
            return f"its selection {one_line(how, 120)!r} does not say on which images the best was chosen"
    if not re.match(r"\s*none\b|.*\b(last|final|fixed)\b", how, re.IGNORECASE) and not _HELD_OUT.search(how):
        return f"its selection {one_line(how, 120)!r} does not say that the test set had no part in it"
    return None


def _figure(record: dict[str, Any], test_images: int, most: int) -> str | None:
    accuracy: Any = record.get("test_accuracy")
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float) or accuracy != accuracy:
        return "it has no test_accuracy"
    if not 0 <= accuracy <= 1:
        return f"test_accuracy must be a fraction from 0 to 1, not {one_line(accuracy, 20)}"
    correct = accuracy * test_images
    decimals = len(repr(float(accuracy)).partition(".")[2])
    rounding = 0.5 * 10.0 ** -min(decimals, 15) * test_images + 1e-3  # how far the figure's own rounding can be off
    if abs(correct - round(correct)) > rounding:
        return f"{accuracy} of {test_images} images is no whole number of images"
    stated = record.get("correct")
    if _whole(stated) and abs(stated - correct) > rounding:
        return f"{stated} correct of {test_images} is not {accuracy}"
    return None


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
