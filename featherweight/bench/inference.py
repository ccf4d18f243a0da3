"""Trained weights at work, by turns: uint8 pictures in memory → probabilities in memory, normalisation included.

`prepare_files` puts pictures and exported networks into a folder, once; then each form has a process of its own, and
those of ONNX hold no torch. Shapes: N pictures, S the side, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featherweight.bench.channel import Channel
from featherweight.bench.job import Job, start_torch, torch_facts
from featherweight.bench.machine import own_peak
from featherweight.utils import UserError

if TYPE_CHECKING:
    import torch

    from featherweight.datasets import PictureSet
    from featherweight.weights import Card

COMPARED = 512  # pictures whose classes all forms are asked for
PICTURES = "pictures.npy"
Classify = Callable[[np.ndarray], np.ndarray]  # uint8 [N, S, S, 3] → float32 [N, C]


def prepare_files(job: Job, channel: Channel) -> None:
    """Write into the job's folder the pictures and every ONNX form that can be had; say what is there, what is not and
    why, and what torch runs on."""
    from featherweight import weights

    device = start_torch(job)
    network, card = weights.load(job.weights)
    training = _training_pictures(card, job.data_dir)
    images, of = _images(card, training)
    folder = Path(job.folder)
    np.save(folder / PICTURES, images)
    unavailable: dict[str, str] = {}
    try:
        from featherweight.ship.onnx_forms import CALIBRATION_IMAGES, to_int8, to_onnx

        plain = to_onnx(network, card)
        (folder / "onnx_fp32.onnx").write_bytes(plain)
        if training is None:
            unavailable["onnx_int8"] = f"it is calibrated on pictures of {card.dataset}, which are not at hand"
        else:
            small = to_int8(plain, training.images[:CALIBRATION_IMAGES].numpy(), card)
            (folder / "onnx_int8.onnx").write_bytes(small)
    except (ImportError, UserError) as error:  # a package is missing
        for form in ("onnx_fp32", "onnx_int8"):
            if not (folder / f"{form}.onnx").exists():
                unavailable.setdefault(form, str(error))
    facts = {"name": card.name, "model": card.model, "pictures": of, "unavailable": unavailable}
    channel.send({**torch_facts(device), **facts})


def _training_pictures(card: Card, data_dir: str | None) -> PictureSet | None:
    from featherweight import datasets

    try:
        found = datasets.load_train(card.dataset, None if data_dir is None else Path(data_dir), fetch=False)
    except UserError:
        return None
    return found if found.images.shape[1] == card.input_size and len(found) >= COMPARED else None


def _images(card: Card, training: PictureSet | None) -> tuple[np.ndarray, str]:
    """(uint8 [512, S, S, 3], what they are): the last training pictures of the weights' data set where it is at hand,
    else noise, which takes a network just as long."""
    if training is not None:
        return training.images[-COMPARED:].numpy(), card.dataset
    shape = (COMPARED, card.input_size, card.input_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), "noise"


def serve(job: Job, channel: Channel) -> None:
    """Answer `turn` (batch size, seconds) and `classes` until there are no more commands."""
    folder = Path(job.folder)
    images = np.load(folder / PICTURES)
    classify = _FORMS[job.form](job)
    channel.send({})
    while (command := channel.receive()) is not None:
        if command["do"] == "classes":
            channel.send({"classes": classify(images).argmax(1).tolist()})
        else:
            channel.send({**turn(classify, images, command["batch_size"], command["seconds"]), "peak_rss": own_peak()})


def turn(classify: Classify, images: np.ndarray, batch_size: int, seconds: float) -> dict[str, Any]:
    """Call after call for `seconds`, at least three: the `latencies` of each in seconds. A first call is not timed."""
    starts = range(0, len(images) - batch_size + 1, batch_size)
    batches = [np.ascontiguousarray(images[start : start + batch_size]) for start in starts]
    classify(batches[0])
    latencies: list[float] = []
    ends = time.perf_counter() + seconds
    while len(latencies) < 3 or time.perf_counter() < ends:
        batch = batches[len(latencies) % len(batches)]
        begun = time.perf_counter()
        classify(batch)  # its result is in this process's memory when it returns: nothing is left to wait for
        latencies.append(time.perf_counter() - begun)
    return {"latencies": latencies}


def _torch(kind: str) -> Callable[[Job], Classify]:
    def make(job: Job) -> Classify:
        import torch

        from featherweight import weights
        from featherweight.augment import normalize

        device, dtype = start_torch(job), getattr(torch, kind)
        network, card = weights.load(job.weights)
        network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

        @torch.inference_mode()
        def classify(images: np.ndarray) -> np.ndarray:
            batch: torch.Tensor = normalize(torch.from_numpy(images).to(device), card.mean, card.std)
            return network(batch.to(dtype)).float().softmax(1).cpu().numpy()  # of log-probabilities: the same again

        return classify

    return make


def _onnx(job: Job) -> Classify:
    from featherweight.ship.predictor import Predictor

    return Predictor(Path(job.folder) / f"{job.form}.onnx", threads=job.threads).probabilities


_FORMS = {"torch_fp32": _torch("float32"), "torch_bf16": _torch("bfloat16"), "onnx_fp32": _onnx, "onnx_int8": _onnx}
