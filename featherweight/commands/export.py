"""`featherweight export`: trained weights → ONNX, fp32 and int8, written only once they were measured beside torch."""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.terminal import Progress, note, print_json, print_table
from featherweight.utils import UserError, require_place

if TYPE_CHECKING:
    from featherweight.datasets import PictureSet
    from featherweight.ship.classifier import Classifier
    from featherweight.ship.parity import Parity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("weights", metavar="WEIGHTS_OR_RUN", help="a published name, a .safetensors file or a run's folder")
    add("--int8", action="store_true", help="also a form of 8-bit weights and activations, about a third of the size")
    add(
        "--max-loss",
        type=_points,
        default=0.5,
        metavar="POINTS",
        help="how many points of accuracy int8 may lose (default: 0.5)",
    )
    add("--out", type=Path, help="the .onnx file, or a folder (default: model.onnx in a run, NAME.onnx here)")
    add(
        "--hub-folder",
        type=Path,
        metavar="DIR",
        help="also a folder for a model hub; the .onnx files go there too, unless --out says otherwise",
    )
    add("--data-dir", type=Path, help="where the data set is looked for first")
    add("--json", action="store_true", help="print the figures as JSON")
    parser.epilog = (
        "The ONNX file takes pixels, uint8 [batch, S, S, 3] (red, green, blue, 0 to 255), and gives probabilities: "
        "normalisation and softmax are inside, classes and card in its metadata. Beside it FILE.onnx.json says what "
        "was measured on all test pictures. int8 is calibrated on 1,000 training pictures. Exits with 1, and writes "
        "nothing, when fp32 differs from torch by over 0.0001 or int8 loses over --max-loss."
    )


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of points from 0 to 100")
    return value


@dataclass(frozen=True, kw_only=True)
class Form:
    """One exported form, still in memory."""

    name: str  # fp32 or int8
    path: Path  # where it is to lie
    model: bytes
    parity: Parity

    def to_dict(self) -> dict[str, Any]:
        return {"form": self.name, "path": str(self.path), "bytes": len(self.model), **self.parity.to_dict()}


def run(args: argparse.Namespace) -> int:
    from featherweight import weights
    from featherweight.ship import classifier
    from featherweight.ship.hub import require_own
    from featherweight.ship.onnx_forms import require_packages
    from featherweight.ship.parity import problem_with

    require_packages()
    source = weights.resolve(args.weights)
    network = classifier.load(args.weights)
    path = _place(args, source, network.card.name)
    for place in (path, args.hub_folder and args.hub_folder / "config.json"):
        require_place(place)
    if args.hub_folder:
        require_own(args.hub_folder)
    test, calibration = _pictures(network, args)
    forms, latency = _make(network, path, test, calibration)
    problems = [
        f"{form.name} {text}" for form in forms if (text := problem_with(form.parity, form.name, args.max_loss))
    ]
    for problem in problems:
        note(f"not exported: {problem}")
    if not problems:
        _write(forms, network, latency, calibration)
        if args.hub_folder:
            _write_hub_folder(args.hub_folder, source, network, forms, latency)
    asked = forms[-1]
    if args.json:
        print_json(
            {
                **asked.to_dict(),
                "passed": not problems,
                "card": None if problems else str(_card_path(asked.path)),
                "forms": [form.to_dict() for form in forms],
                "latency": latency,
                "hub_folder": str(args.hub_folder) if args.hub_folder and not problems else None,
            }
        )
    else:
        _tell(forms, latency, f"{network.card.name} ({network.card.model}) beside torch, {len(test):,} test pictures")
        for form in forms if not problems else ():
            print(f"{form.path}, its figures in {_card_path(form.path).name}")
    return int(bool(problems))


def _place(args: argparse.Namespace, source: Path, name: str) -> Path:
    """Where the fp32 form is to lie; the int8 form lies beside it."""
    if not re.fullmatch(r"\w[\w.+-]*", name):  # a card is input: its name must not lead elsewhere
        name = "model"
    if args.out is None:
        if args.hub_folder:
            return args.hub_folder / "model.onnx"
        return source.with_name("model.onnx") if source.parent == Path(args.weights) else Path(f"{name}.onnx")
    if args.out.suffix == ".onnx" and not args.out.is_dir():
        return args.out
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file, not a folder; name a folder or a .onnx file")
    return args.out / f"{name}.onnx"


def _pictures(network: Classifier, args: argparse.Namespace) -> tuple[PictureSet, PictureSet | None]:
    """The test pictures, and for int8 the training pictures it is calibrated on: the first by content hash, which is
    an order that knows nothing of the classes."""
    from featherweight import datasets
    from featherweight.ship.onnx_forms import CALIBRATION_IMAGES

    card = network.card
    if card.dataset not in datasets.NAMES:
        raise UserError(
            f"the weights are of the data set {card.dataset}, which is not known here; nothing to measure on"
        )
    test = datasets.load_test(card.dataset, args.data_dir)
    if test.classes != card.classes or test.images.shape[1] != card.input_size:
        raise UserError(
            f"the card's classes or input size are not those of {card.dataset}; nothing to measure parity on"
        )
    if not args.int8:
        return test, None
    training = datasets.split_train(datasets.load_train(card.dataset, args.data_dir))[0]
    return test, training.subset(range(min(CALIBRATION_IMAGES, len(training))))


def _make(
    network: Classifier, path: Path, test: PictureSet, calibration: PictureSet | None
) -> tuple[list[Form], dict[str, Any]]:
    """The forms with their parity on `test`, and the latencies of all of them and of torch."""
    import torch

    from featherweight.ship.onnx_forms import to_int8, to_onnx
    from featherweight.ship.parity import compare, latency_turns, measure_latency, probabilities_of
    from featherweight.ship.predictor import Predictor

    with _part("writing the network as ONNX"):
        models = {"fp32": to_onnx(network.network, network.card)}
    if calibration is not None:
        with _part(f"quantising to int8, calibrated on {len(calibration):,} training pictures"):
            models["int8"] = to_int8(models["fp32"], calibration.images.numpy(), network.card)
    runners = {name: Predictor(model, threads=torch.get_num_threads()) for name, model in models.items()}
    images, labels = test.images.numpy(), test.labels.numpy()
    with Progress("measuring parity", len(images) * (1 + len(models))) as progress:
        expected = probabilities_of(network, images, progress.step)
        given = {name: probabilities_of(runner, images, progress.step) for name, runner in runners.items()}
    alone = {"torch": network, **{name: Predictor(model, threads=1) for name, model in models.items()}}
    with Progress("measuring latencies", latency_turns(len(alone)), "turns") as progress:
        latency = measure_latency(alone, images, step=progress.step)
    places = {"fp32": path, "int8": path.with_name(f"{path.stem}-int8.onnx")}
    forms = [
        Form(name=name, path=places[name], model=model, parity=compare(expected, given[name], labels))
        for name, model in models.items()
    ]
    return forms, latency


def _part(title: str) -> Progress:
    """Tell of a part of the work that is one call, so that nobody knows how far it is; a bar counts its seconds."""
    note(title)
    return Progress(title, None, "")


def _card_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _write(forms: list[Form], network: Classifier, latency: dict[str, Any], calibration: PictureSet | None) -> None:
    """Every form and its card, all or none of them."""
    from featherweight.ship.parity import versions
    from featherweight.utils import describe_device, sha256_bytes, write_together

    contents = {}
    for form in forms:
        card = network.card.to_dict() | {
            "onnx": {
                "file": form.path.name,
                "form": form.name,
                "bytes": len(form.model),
                "sha256": sha256_bytes(form.model),
                "input": f"pixels: uint8 [batch, {network.side}, {network.side}, 3], red, green, blue, 0 to 255",
                "output": f"probabilities: float32 [batch, {len(network.classes)}], in the order of the classes",
                "parity": form.parity.to_dict(),
                "calibration": _calibration(calibration) if form.name == "int8" else None,
                "latency": {batch: {one: of[one] for one in ("torch", form.name)} for batch, of in latency.items()},
                "device": describe_device(network.device),
                "latency_threads": 1,
                "versions": versions(),
            }
        }
        contents[form.path] = form.model
        contents[_card_path(form.path)] = (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode()
    write_together(contents)


def _calibration(pictures: PictureSet | None) -> dict[str, Any] | None:
    if pictures is None:
        return None
    return {
        "images": len(pictures),
        "split": "train",
        "sha256": pictures.digest(),
        "method": "min-max, static, per channel, weights of 7 bits in int8, activations uint8",
    }


def _write_hub_folder(
    folder: Path, source: Path, network: Classifier, forms: list[Form], latency: dict[str, Any]
) -> None:
    from featherweight.ship.hub import Told, write_folder

    told = {
        form.name: Told(
            file=form.path.name,
            size=len(form.model),
            parity=form.parity,
            milliseconds={int(batch.removeprefix("batch_")): of[form.name]["ms"] for batch, of in latency.items()},
        )
        for form in forms
        if form.path.parent.resolve() == folder.resolve()
    }
    write_folder(folder, source, network.card, told)


def _tell(forms: list[Form], latency: dict[str, Any], title: str) -> None:
    rows = [["torch", "", f"{100 * forms[0].parity.torch_accuracy:.2f}", "", "", *_times(latency, "torch")]]
    rows += [
        [
            form.name,
            f"{len(form.model):,}",
            f"{100 * form.parity.accuracy:.2f}",
            f"{form.parity.agreeing:,}",
            f"{form.parity.max_difference:.1e}",
            *_times(latency, form.name),
        ]
        for form in forms
    ]
    columns = ["form", "bytes", "%", "agree", "differ"]
    columns += [f"{unit}/{batch.removeprefix('batch_')}" for batch in latency for unit in ("ms", "×")]
    print_table(columns, rows, title=title, right=columns[1:])
    print("%: accuracy; agree: given torch's class; differ: by how much any probability does, at most;")
    print("ms/N: for a batch of N pictures, one thread; ×/N: how many times quicker than torch")


def _times(latency: dict[str, Any], form: str) -> list[str]:
    return [text for of in latency.values() for text in (f"{of[form]['ms']:.2f}", f"{of[form]['torch_ratio']:.1f}")]
