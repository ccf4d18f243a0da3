"""Any picture read, and classes for it from an exported network: numpy, pillow and onnxruntime are all it needs.

    python predictor.py feather_quick.onnx cat.jpg              # this one file, copied anywhere
    python -m featherweight.ship.predictor feather_quick.onnx cat.jpg
    Predictor("feather_quick.onnx").predict("cat.jpg").label    # from Python

Every other part of the package that reads pictures reads them here, so a picture means the same pixels everywhere.
Letters of the shapes: N pictures, S the side of the network's square input in pixels, C classes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import stat
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

HOW_READ = (
    "A picture is turned as its EXIF says, laid on white where it is transparent, brought to 8-bit RGB (16-bit grey "
    "divided by 257; float grey and wider whole numbers stretched from darkest to brightest; colour profiles are not "
    "applied) and the whole of it scaled to the network's square input with antialiasing (bicubic): nothing is cut "
    "off, and what is longer than wide is squeezed. One that is already of that size goes in unchanged. A JPEG file "
    "over 16 times larger is first decoded at a reduced scale, still over 8 times larger. Of an animation or many "
    "pages, the first picture counts. Over 100 million pixels or 256 MiB are refused."
)

BATCH = 256  # pictures at a time
MAX_BYTES = 256 << 20  # of a file
MAX_PIXELS = 100_000_000  # 300 MB as RGB
JPEG_HEADROOM = 8  # a JPEG may be decoded at 1/2, 1/4 or 1/8, but to no less than this many times the input's side

# Not all that Pillow knows: EPS would start another program, and the rest is no picture that people have.
FORMATS = (
    *("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF"),
    *("JPEG2000", "PPM", "ICO", "QOI", "PCX", "TGA"),
)
# What is taken from a folder; .svg and .heic so that they are told of, not passed over in silence.
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
    *(".avif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".qoi", ".pcx", ".tga"),
    *(".svg", ".heic", ".heif"),
)
_TURNS = {  # EXIF orientation → what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
_one_at_a_time = threading.Lock()  # Python's warning filters belong to the whole process


class PictureError(Exception):
    """What is wrong with one picture, in one line without its name."""


class ModelError(Exception):
    """What is wrong with an exported network, in one line."""


def read_picture(
    source: Path | str | bytes | Image.Image | np.ndarray, side: int, *, keep_shape: bool = False
) -> np.ndarray:
    """The picture as uint8 [side, side, 3], red, green, blue, made as `HOW_READ` says.

    keep_shape: for people to look at, unsqueezed: [H, W, 3], the longer of H and W being `side`.
    source: a path, a file's content, a Pillow image (always at its full scale), or pixels, uint8 [H, W, 3] or [H, W].
    Raises PictureError for whatever cannot be read.
    """
    with _one_at_a_time, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of sloppy metadata and of size, which is looked at here
        try:
            with _open(source) as image:
                _limit(image)
                if not isinstance(source, Image.Image):
                    image.draft(None, (JPEG_HEADROOM * side, JPEG_HEADROOM * side))  # JPEG alone obeys
                with _hushed() if image.format == "TIFF" else contextlib.nullcontext():
                    image.load()
                _limit(image)  # an icon's own picture may be larger than its list says
                whole_16 = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")  # which are no wider
                return _scaled(_upright(image), side, keep_shape, whole_16)
        except PictureError:
            raise
        except Image.DecompressionBombError as error:
            raise PictureError(_too_large()) from error
        except MemoryError as error:
            raise PictureError("takes more memory than there is; scale it down first") from error
        except Exception as error:  # a hostile file makes Pillow raise nearly anything: struct.error, KeyError, …
            detail = printable(str(error).split("\n")[0])[:100] or type(error).__name__
            raise PictureError(f"is damaged or incomplete ({detail}); get it anew") from error


def _open(source: Path | str | bytes | Image.Image | np.ndarray) -> contextlib.AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        return contextlib.nullcontext(source)  # the caller's: not to be closed
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or not (source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3)):
            raise PictureError(f"pixels must be uint8 [H, W, 3] or [H, W], not {source.dtype} {list(source.shape)}")
        return contextlib.nullcontext(Image.fromarray(source))
    if not isinstance(source, str | bytes | os.PathLike):
        kinds = "a path, a file's content as bytes, a Pillow image or pixels as a numpy array"
        raise PictureError(f"must be {kinds}, not {type(source).__name__}")
    content = source if isinstance(source, bytes) else _content(source)
    if not content:
        raise PictureError("is empty (0 bytes); get it anew")
    if len(content) > MAX_BYTES:
        raise PictureError(f"is larger than {MAX_BYTES >> 20} MiB; scale it down first")
    Image.init()
    try:
        return Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise PictureError(_what_else(content[:4096])) from error


def _content(path: Path | str) -> bytes:
    """The file's bytes, one more than allowed at most. A pipe or device is refused unopened: opening it may wait."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise PictureError("is a folder, not a file")
        if not stat.S_ISREG(mode):
            raise PictureError("is no ordinary file; give a copy of it")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise PictureError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _what_else(start: bytes) -> str:
    """What a file that begins with `start` is, where that can be told."""
    if b"<svg" in start.lower():
        return "is an SVG drawing, which has no pixels; save it as PNG first"
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "is HEIC, which is not read here; save it as JPEG or PNG first"
    if start.startswith(b"%PDF"):
        return "is a PDF document; save its page as PNG first"
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")) or start[8:12] == b"WEBP":
        return "is damaged or incomplete; get it anew"
    with contextlib.suppress(UnicodeDecodeError):
        if start[:1024].decode("ascii").isprintable() or b"\n" in start:
            return "is text, not a picture"
    return "is not a picture of a kind that is read here; save it as PNG or JPEG first"


def _limit(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(_too_large(f" ({image.width} x {image.height})"))
    if not image.width or not image.height:
        raise PictureError("has no pixels")


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without what libtiff, written in C, says of damaged files on standard error by itself: a line for every strip."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        os.close(sink)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _too_large(size: str = "") -> str:
    return f"has over {MAX_PIXELS // 10**6} million pixels{size}; scale it down first"


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # metadata that does not parse says nothing of how the picture is to be turned
        turn = None
    return image if turn is None else image.transpose(turn)


def _scaled(image: Image.Image, side: int, keep_shape: bool, whole_16: bool) -> np.ndarray:
    longer = max(image.size)
    width, height = (max(1, round(side * extent / longer)) if keep_shape else side for extent in image.size)
    return np.array(_rgb(image, whole_16).resize((width, height), Image.Resampling.BICUBIC))


def _rgb(image: Image.Image, whole_16: bool) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        grey, clear = _grey(values, whole_16), image.info.get("transparency")
        if isinstance(clear, int):
            grey[values == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if _has_transparency(image):
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image.convert("RGB")


def _has_transparency(image: Image.Image) -> bool:
    """Pillow has this itself from 10.1 on; small devices have older ones."""
    palette = image.palette.mode if image.mode == "P" and image.palette is not None else ""
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or palette.endswith("A") or "transparency" in image.info


def _grey(values: np.ndarray, whole_16: bool) -> np.ndarray:
    """Grey of 16 bits, or of an unstated range, as 8 bits. (Pillow's own conversion cuts off all above 255.)"""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise PictureError("holds values that are not finite")
    low, high = (0.0, 0.0) if whole_16 else (float(values.min()), float(values.max()))
    span, grey = high - low or 1.0, np.empty(values.shape, np.uint8)
    rows = max(1, 2**20 // values.shape[1])  # at a time: as a whole, wider numbers would take gigabytes
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        if whole_16:
            grey[start : start + rows] = (part.astype(np.uint32) + 128) // 257  # 65535 / 255 = 257, to the nearest
        else:
            grey[start : start + rows] = np.rint((part.astype(np.float64) - low) * (255 / span))
    return grey


def printable(text: str | os.PathLike[str]) -> str:
    """A name for people, JSON and CSV: one line, bytes that are no UTF-8 and control characters as \\xNN."""
    decoded = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in decoded)


@dataclass(frozen=True)
class Found:
    """A picture to read: its name as told to people, and where it is (None: nowhere, for the reason in `problem`)."""

    name: str
    source: Path | None
    problem: str | None = None

    def read(self, side: int) -> np.ndarray:
        """As `read_picture`; the name "-" is standard input."""
        if self.problem is not None:
            raise PictureError(self.problem)
        if self.source is None:
            if sys.stdin is None or sys.stdin.isatty():
                raise PictureError("means standard input, which is no file here; pipe a picture into it")
            return read_picture(sys.stdin.buffer.read(MAX_BYTES + 1), side)
        return read_picture(self.source, side)


def find_pictures(places: Iterable[str]) -> tuple[list[Found], int]:
    """The pictures meant by `places` (files, folders, "-" for standard input), and how many files were passed over.

    A folder is walked with all below it, each level's files before its folders, sorted by name; files without a
    picture's suffix, hidden ones and links to folders are passed over. A folder that holds no picture, or cannot be
    read, is found with its problem, so that it is told of.
    """
    found: list[Found] = []
    others = 0
    for place in places:
        if place == "-":
            found.append(Found("-", None))
        elif os.path.isdir(place):
            inside, passed = _walk(place)
            others += passed
            found += inside or [Found(printable(place), None, "is a folder without any picture")]
        else:
            found.append(Found(printable(place), Path(place)))
    return found, others


def _walk(folder: str) -> tuple[list[Found], int]:
    found: list[Found] = []
    others = 0

    def unreadable(error: OSError) -> None:
        name = printable(error.filename)
        found.append(Found(name, None, f"is a folder that cannot be read: {error.strerror}"))

    for at, folders, files in os.walk(folder, onerror=unreadable):
        others += sum(os.path.islink(os.path.join(at, name)) for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in SUFFIXES:
                others += 1
            else:
                path = Path(at, name)
                found.append(Found(printable(path), path))
    return found, others


@dataclass(frozen=True)
class Prediction:
    """The class of one picture, its probability, and the best few classes with theirs, best first."""

    label: str
    confidence: float
    top: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        return f"{self.label} ({self.confidence:.1%})"

    @classmethod
    def of(cls, probabilities: np.ndarray, classes: Sequence[str], top: int) -> Prediction:
        """From the probabilities [C] of one picture; of equal ones, the first class in `classes` comes first."""
        best = np.argsort(-probabilities, kind="stable")[:top]
        ranked = tuple((classes[int(index)], float(probabilities[index])) for index in best)
        return cls(*ranked[0], ranked)


class PictureClassifier(ABC):
    """What every form of a network does with pictures, once it has `classes`, `side` and `probabilities`."""

    classes: tuple[str, ...]
    side: int  # S

    @abstractmethod
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] → float32 [N, C]; each row sums to 1."""

    def predict(self, pictures: Any, top: int = 3) -> Any:
        """The `Prediction` of one picture, or the list of those of a list of pictures, with the `top` best classes.

        A picture is whatever `read_picture` takes. Raises PictureError, naming it, for one that cannot be read (that
        of `featherweight.load`: UserError), and ValueError for a `top` below 1.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, not {top}")
        many = isinstance(pictures, list | tuple)
        images = [self._read(picture) for picture in (pictures if many else [pictures])]
        rows = [
            Prediction.of(row, self.classes, top)
            for start in range(0, len(images), BATCH)
            for row in self.probabilities(np.stack(images[start : start + BATCH]))
        ]
        return rows if many else rows[0]

    def _read(self, picture: Any) -> np.ndarray:
        try:
            return read_picture(picture, self.side)
        except PictureError as error:
            name = printable(picture) if isinstance(picture, str | os.PathLike) else "the picture"
            raise PictureError(f"{name} {error}") from error

    def predict_each(self, found: Iterable[Found], top: int) -> Iterator[tuple[Found, Prediction | PictureError]]:
        """Each of `found` with its prediction or with what is wrong with it, in order, in batches of 256."""
        waiting: list[tuple[Found, np.ndarray | PictureError]] = []
        for one in found:
            try:
                waiting.append((one, one.read(self.side)))
            except PictureError as error:
                waiting.append((one, error))
            if len(waiting) == BATCH:
                yield from self._settle(waiting, top)
                waiting = []
        yield from self._settle(waiting, top)

    def _settle(
        self, waiting: list[tuple[Found, np.ndarray | PictureError]], top: int
    ) -> Iterator[tuple[Found, Prediction | PictureError]]:
        images = [image for _, image in waiting if isinstance(image, np.ndarray)]
        rows = iter(self.probabilities(np.stack(images)) if images else ())
        for one, image in waiting:
            yield one, Prediction.of(next(rows), self.classes, top) if isinstance(image, np.ndarray) else image


class Predictor(PictureClassifier):
    """A network exported by `featherweight export`, fp32 or int8, run by onnxruntime on the processor.

    card: what is known of the network (classes, accuracy, …), as it was exported. threads: 0 leaves the choice to
    onnxruntime. Raises ModelError for a file that is no such network.
    """

    def __init__(self, model: Path | str | bytes, *, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelError("running an .onnx file needs onnxruntime: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what goes wrong comes as an exception
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads burn no processor
        name = "the model" if isinstance(model, bytes) else printable(model)
        try:
            content = model if isinstance(model, bytes) else _content(model)
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            metadata = self._session.get_modelmeta().custom_metadata_map
            self.card: dict[str, Any] = json.loads(metadata["card"])
            self.classes = tuple(json.loads(metadata["classes"]))
            (pixels,), (given,) = self._session.get_inputs(), self._session.get_outputs()
            self.side = int(pixels.shape[1])
            if pixels.type != "tensor(uint8)" or pixels.shape[2:] != [self.side, 3]:
                raise ValueError(f"its input is {pixels.type} {pixels.shape}, not pixels")
            if given.shape[1:] != [len(self.classes)] or not all(isinstance(one, str) for one in self.classes):
                raise ValueError(f"its output {given.shape} does not fit its classes")
        except PictureError as error:
            raise ModelError(f"{name} {error}") from error
        except Exception as error:  # onnxruntime's own errors share no narrower base
            detail = "its card is missing" if isinstance(error, KeyError) else str(error).split("\n")[0][:120]
            raise ModelError(f"{name} is no network exported by featherweight ({printable(detail)})") from error
        self._input, self._output = pixels.name, given.name

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] → float32 [N, C]; each row sums to 1. Raises ValueError for other pictures."""
        if images.dtype != np.uint8 or images.shape[1:] != (self.side, self.side, 3):
            raise ValueError(f"expected uint8 [N, {self.side}, {self.side}, 3], got {images.dtype} {images.shape}")
        parts = [
            np.asarray(self._session.run([self._output], {self._input: images[start : start + BATCH]})[0])
            for start in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes)), np.float32)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command of this file: 0, or 2 when the model or any picture could not be read."""
    parser = argparse.ArgumentParser(description="Classes for pictures from an exported network.", epilog=HOW_READ)
    parser.add_argument("model", help="the .onnx file that `featherweight export` wrote")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE|FOLDER|-", help="-: a picture on standard input")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="how many classes to tell (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the predictions as a JSON list")
    args = parser.parse_args(arguments)
    if args.top < 1:
        parser.error("--top must be at least 1")
    try:
        rows = _tell_each(Predictor(args.model), args, parser.prog)
        sys.stdout.flush()
        return 2 if any(row["error"] for row in rows) else 0
    except ModelError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _tell_each(predictor: Predictor, args: argparse.Namespace, program: str) -> list[dict[str, Any]]:
    """Print what is found of each picture, and return it."""
    rows = []
    for one, outcome in predictor.predict_each(find_pictures(args.pictures)[0], args.top):
        rows.append(as_row(one, outcome))
        if isinstance(outcome, PictureError):
            print(f"{program}: {one.name} {outcome}", file=sys.stderr)
        elif not args.json:
            print(one.name, *(f"{label} {share:.1%}" for label, share in outcome.top), sep="\t")
    if args.json:
        print(json.dumps(rows, indent=2))
    return rows


def as_row(found: Found, outcome: Prediction | PictureError) -> dict[str, Any]:
    """`path`, `label`, `confidence`, `top` and `error` of one picture, ready for JSON."""
    if isinstance(outcome, PictureError):
        return {"path": found.name, "label": None, "confidence": None, "top": [], "error": str(outcome)}
    top = [{"label": label, "confidence": share} for label, share in outcome.top]
    return {"path": found.name, "label": outcome.label, "confidence": outcome.confidence, "top": top, "error": None}


if __name__ == "__main__":
    sys.exit(main())
