"""Reaching a stranger's pipeline: load it from its file, find out how it wants to be called, feed it probe pictures.

Letters: S side of a probe picture (32 pixels), H, W the sides of what comes out, C channels. Runs inside the separate
process of audit_worker.py: loading a file runs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.rules.package import module_name
from featherweight.rules.wording import first_line
from featherweight.utils import UserError

SIDE = 32  # pixels; the assignment's pictures are 32×32
RAMP_STEP = 8  # levels a pixel: 32 pixels span 4 … 252, so a level is an eighth of a pixel
RAMP_START = 4
MARK = 200  # the ramp picture's blue: no usual fill (0, 255, 127, the mean's 114) comes near it


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A pipeline brought to one form: uint8 picture (S, S, 3) in RGB -> float64 picture (H, W, C)."""

    name: str
    convention: str  # how it is called: "image=", "PIL", "array", "tensor" or "float tensor"
    target: Any  # the object itself
    call: Callable[[np.ndarray], np.ndarray]


class NotAPicture(Exception):
    """What a pipeline gave back is no picture."""


# ---------------------------------------------------------------------------------------------- probe pictures


def constant(colour: tuple[int, int, int]) -> np.ndarray:
    """A picture of one colour, (S, S, 3) uint8: whatever moves in it, its colour tells the normalisation."""
    return np.full((SIDE, SIDE, 3), colour, np.uint8)


def ramps() -> np.ndarray:
    """Red rises with the column, green with the row, blue is MARK: pixels say where they come from. (S, S, 3) uint8."""
    ramp = (RAMP_START + RAMP_STEP * np.arange(SIDE)).astype(np.uint8)
    picture = np.empty((SIDE, SIDE, 3), np.uint8)
    picture[..., 0] = ramp[None, :]
    picture[..., 1] = ramp[:, None]
    picture[..., 2] = MARK
    return picture


def texture(seed: int = 5) -> np.ndarray:
    """Smooth grey blobs without any symmetry, (S, S, 3) uint8: survives changes of colour and greying."""
    field = np.random.default_rng(seed).standard_normal((SIDE, SIDE))
    wave = np.abs(np.fft.fftfreq(SIDE))
    keep = np.exp(-((wave[:, None] ** 2 + wave[None, :] ** 2) / (2 * 0.08**2)))
    smooth = np.fft.ifft2(np.fft.fft2(field) * keep).real
    # Ranks instead of values: every grey is equally frequent, so no fill is hidden among many pixels of its own grey.
    ranks = smooth.ravel().argsort().argsort().reshape(SIDE, SIDE) / (SIDE * SIDE - 1)
    return np.repeat((20 + 215 * ranks).round().astype(np.uint8)[..., None], 3, axis=2)


# ---------------------------------------------------------------------------------------------- loading


def load_module(path: Path) -> Any:
    """Run the Python file `path` as a module; its folder is searched for what it imports. Raises UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give PIPELINE as path/to/file.py:NAME")
    spec = importlib.util.spec_from_file_location(module_name(path.resolve(), "audited"), path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; give PIPELINE as path/to/file.py:NAME")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up by name
    try:
        spec.loader.exec_module(module)
    except MemoryError:
        raise
    except BaseException as error:
        raise UserError(f"{path} cannot be run: {first_line(error)}") from error
    return module


def find_transform(module: Any, name: str, where: str) -> Any:
    """The pipeline `name` of `module`: an object, or what makes one without arguments. Raises UserError."""
    try:
        thing = getattr(module, name)
    except AttributeError:
        names = ", ".join(sorted(key for key, value in vars(module).items() if _own(value, key, module))[:8])
        raise UserError(f"{where}: the file has no {name!r}; it has: {names or 'nothing callable'}") from None
    return resolve(thing, where)


def resolve(thing: Any, where: str) -> Any:
    """An object is itself; a class is made; a function that can do without arguments is asked for what it makes."""
    if isinstance(thing, type):
        return _callable(_make(thing, where), where)
    if inspect.isfunction(thing) and _needs_nothing(thing):
        made = _make(thing, where)
        if callable(made):
            return made
        if isinstance(made, tuple | list | dict):
            raise UserError(
                f"{where} gives {len(made)} things ({type(made).__name__}); name one pipeline of the file instead"
            )
        if not inspect.signature(thing).parameters:
            raise UserError(
                f"{where}() gives a {type(made).__name__}, not a pipeline; name something that takes a picture"
            )
    return _callable(thing, where)


def _callable(thing: Any, where: str) -> Any:
    if not callable(thing):
        raise UserError(f"{where} is a {type(thing).__name__}, which takes no picture; name a pipeline of the file")
    return thing


def _make(factory: Callable[[], Any], where: str) -> Any:
    try:
        return factory()
    except MemoryError:
        raise
    except BaseException as error:
        raise UserError(f"{where}() raised {first_line(error)}; it must be made without arguments") from error


def _needs_nothing(function: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return all(item.default is not item.empty or item.kind in kinds for item in parameters)


def _own(value: Any, key: str, module: Any) -> bool:
    home = getattr(value, "__module__", None)
    return (
        callable(value)
        and not key.startswith("_")
        and (home == module.__name__ or (not inspect.isroutine(value) and not isinstance(value, type)))
    )


# ---------------------------------------------------------------------------------------------- calling


def adapt(target: Any, name: str) -> Pipeline:
    """Find out how `target` wants to be called, by trying: image= keyword (albumentations), PIL, array, tensor
    of bytes, tensor of 0 … 1.

    A way that only hands the picture back untouched comes last: some transforms let through what they do not know.
    Raises UserError when none of them gives a picture.
    """
    ways: dict[str, Callable[[np.ndarray], Any]] = {
        "image=": lambda picture: target(image=picture),
        "PIL": lambda picture: target(_pil(picture)),
        "array": lambda picture: target(picture),
        "tensor": lambda picture: target(_tensor(picture)),
        "float tensor": lambda picture: target(_tensor(picture).float() / 255),
    }
    probe = ramps()
    untouched: str | None = None
    complaints = {}
    for convention, way in ways.items():
        try:
            outputs = [picture_from(way(probe.copy())) for _ in range(4)]
        except MemoryError:
            raise
        except Exception as error:
            complaints[convention] = error
            continue
        if all(output.shape == probe.shape and np.array_equal(output, probe) for output in outputs):
            untouched = untouched or convention
            continue
        return Pipeline(name=name, convention=convention, target=target, call=_caller(way, name))
    if untouched is not None:
        return Pipeline(name=name, convention=untouched, target=target, call=_caller(ways[untouched], name))
    raise UserError(
        f"{name} gives no picture back, called with image=, a PIL picture, an array or a tensor; it said: "
        f"{first_line(_telling(complaints))}"
    )


def _telling(complaints: dict[str, Exception]) -> Exception:
    """The complaint that says most: of a wrong result first, then of anything but a refused keyword."""
    ranked = sorted(
        complaints.items(),
        key=lambda item: (not isinstance(item[1], NotAPicture), isinstance(item[1], TypeError) and item[0] == "image="),
    )
    return ranked[0][1]


def _caller(way: Callable[[np.ndarray], Any], name: str) -> Callable[[np.ndarray], np.ndarray]:
    def call(picture: np.ndarray) -> np.ndarray:
        try:
            return picture_from(way(picture.copy()))  # a copy: some pipelines write into what they are given
        except MemoryError:
            raise
        except Exception as error:
            raise UserError(f"{name} raised on one of the pictures: {first_line(error)}") from error

    return call


def _pil(picture: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(picture)


def _tensor(picture: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def picture_from(output: Any) -> np.ndarray:
    """Any picture (dict with "image", tensor or array, CHW or HWC, PIL) as float64 (H, W, C). Raises NotAPicture."""
    if isinstance(output, dict):
        if "image" not in output:
            raise NotAPicture(f"gave a dict without 'image' but with {', '.join(map(str, list(output)[:4]))}")
        output = output["image"]
    channels_first = False
    if hasattr(output, "detach"):  # a tensor, without importing torch for those who do not use it
        tensor = output.detach().cpu()
        output = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        channels_first = True
    elif hasattr(output, "getbands"):
        output = np.asarray(output)
    if not isinstance(output, np.ndarray):
        raise NotAPicture(f"gave a {type(output).__name__}, not a picture")
    if output.dtype.kind not in "uifb":
        raise NotAPicture(f"gave an array of {output.dtype}, not a picture")
    if output.ndim == 4 and output.shape[0] == 1:  # a batch of one
        output = output[0]
    if output.ndim == 2:
        output = output[..., None]
    if output.ndim != 3:
        raise NotAPicture(f"gave an array of shape {output.shape}, not a picture")
    first, last = output.shape[0] in (1, 3), output.shape[2] in (1, 3)
    if first and (channels_first or not last):
        output = output.transpose(1, 2, 0)
    elif not last:
        raise NotAPicture(f"gave an array of shape {output.shape}, which has no axis of 1 or 3 channels")
    return np.asarray(output, np.float64)
