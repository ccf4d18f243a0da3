"""gradio's part of the page: the fields, and what happens when one of them changes.

Import it only after `server.without_telemetry`: gradio looks at its environment while it is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from featherweight.demo import markup
from featherweight.demo.examples import write_examples
from featherweight.demo.look import SHOWN, Looker
from featherweight.ship.predictor import HOW_READ, PictureError, printable, read_picture
from featherweight.utils import UserError

MAX_UPLOAD = 20 << 20  # bytes: the largest photographs of telephones take about 15 MB
KEPT = 3600  # seconds after which a sent picture is deleted
WAITING = 16  # pictures that may wait for their turn
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

# What every browser draws by itself, by how the file begins; the rest is shown as read, made smaller.
_SHOWN_AS_IT_IS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM")


def build(lookers: Sequence[Looker], folder: Path) -> FastAPI:
    """The application, without its guard. folder: an empty one of its own, for examples and for what people send."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    blocks = _blocks(lookers, folder)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=_theme(),
        css=markup.STYLE,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_UPLOAD,
        allowed_paths=[],
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )
    # Only of a launched page does gradio ask whether a file named in a request was sent to it (`_check_allowed`), and
    # mounting does not count as launching.
    blocks.has_launched = True
    return app


def _theme() -> gr.themes.Base:
    """gradio's own, in fonts that the system has, with small print dark enough to read."""
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=MONO)
    return theme.set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )


def _blocks(lookers: Sequence[Looker], folder: Path) -> gr.Blocks:
    shown = folder / "examples"
    shown.mkdir()
    examples = write_examples(shown)
    with gr.Blocks(title="Featherweight", analytics_enabled=False, delete_cache=(60, KEPT)) as blocks:
        gr.HTML(markup.HEADING)
        with gr.Row():
            with gr.Column(min_width=300):
                picture = _picture_field(folder, shown)
                samples = gr.Dataset(
                    components=[gr.Image(render=False, type="filepath")],
                    samples=[[str(path)] for path in examples],
                    type="index",
                    label="Examples",
                    elem_id="examples",
                )
                choice = gr.Dropdown(
                    [(looker.name, number) for number, looker in enumerate(lookers)],
                    value=0,
                    label="Network",
                    elem_id="network",
                    interactive=True,
                )
            with gr.Column(min_width=300):
                result = gr.HTML(markup.WAITING, elem_id="result")
                about = gr.HTML(markup.about(lookers[0]), elem_id="about")
        with gr.Accordion("How a picture is read", open=False):
            gr.HTML(markup.small_print(f"{HOW_READ} This page takes files of {MAX_UPLOAD >> 20} MiB at most."))
        held = gr.State(None)  # the path of the picture at hand, as it was sent
        _events(lookers, [str(path) for path in examples], picture, choice, about, samples, result, held)
    blocks.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)
    return blocks


def _picture_field(folder: Path, examples: Path) -> gr.Image:
    """A field that hands over the file as it was sent, with its name. gradio's own would decode it first, its own way.

    folder: what is not inside it, or is an address to fetch, is refused even when a request names it. All that passes
    through the field is deleted in time, but for what is in `examples`.
    """
    field = gr.Image(
        type="filepath",
        sources=["upload", "webcam", "clipboard"],
        label="Picture",
        height=320,
        elem_id="picture",
        buttons=["fullscreen"],
        image_mode=None,
        placeholder=f"Drop a picture here or click to choose one\n(at most {MAX_UPLOAD >> 20} MiB)",
    )
    inside = folder.resolve()

    async def keep(path: str | Path | None) -> str | None:
        if path is None:
            return None
        if not Path(path).resolve().is_relative_to(inside):
            raise gr.Error("this file was not sent to this page")
        if Path(path).parent != examples:
            field.temp_files.add(str(path))
        return str(path)

    def hand_over(payload: Any) -> tuple[str, str] | None:
        if payload is None or not payload.path:
            return None
        return payload.path, (payload.orig_name or Path(payload.path).name)[:255]

    # On this object, not in a subclass: gradio writes a .pyi file beside the source of every subclass it meets.
    setattr(field, "async_move_resource_to_block_cache", keep)  # noqa: B010
    setattr(field, "preprocess", hand_over)  # noqa: B010
    return field


def _events(
    lookers: Sequence[Looker],
    examples: Sequence[str],
    picture: gr.Image,
    choice: gr.Dropdown,
    about: gr.HTML,
    samples: gr.Dataset,
    result: gr.HTML,
    held: gr.State,
) -> None:
    def judge(path: str, name: str, number: int) -> tuple[bool, str]:
        """(whether it is a picture, what to say of it)."""
        looker = lookers[number]
        if not Path(path).exists():
            return False, markup.problem(f"{printable(name)} was sent long ago and is deleted by now; choose it again")
        try:
            return True, markup.result(looker, looker.look(path))
        except PictureError as error:
            return False, markup.problem(f"{printable(name)} {error}")
        except UserError as error:
            return True, markup.problem(str(error))

    # A field is always given a value, never an update such as `gr.skip()`: that makes gradio build the field anew, and
    # what `_picture_field` has put on it is lost.
    def given(sent: tuple[str, str] | None, number: int) -> tuple[Any, Any, str]:
        if sent is None:
            return None, None, markup.WAITING
        sound, said = judge(*sent, number)
        if not sound:
            return None, None, said  # the field is emptied: a broken picture would stay in it
        return sent[0] if _browsers_show(sent[0]) else read_picture(sent[0], SHOWN, keep_shape=True), sent, said

    def example(index: int, number: int) -> tuple[str, tuple[str, str], str]:
        sent = (examples[index], Path(examples[index]).name)
        return sent[0], sent, judge(*sent, number)[1]

    def another(sent: tuple[str, str] | None, number: int) -> tuple[str, str]:
        return markup.about(lookers[number]), judge(*sent, number)[1] if sent else markup.WAITING

    common: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "look", "show_progress": "minimal"}
    picture.input(given, [picture, choice], [picture, held, result], show_progress_on=[result], **common)
    picture.clear(lambda: (None, markup.WAITING), None, [held, result], api_visibility="private")
    samples.click(example, [samples, choice], [picture, held, result], show_progress_on=[result], **common)
    choice.change(another, [held, choice], [about, result], show_progress_on=[result], **common)


def _browsers_show(path: str) -> bool:
    with open(path, "rb") as file:
        start = file.read(16)
    return start.startswith(_SHOWN_AS_IT_IS) or start[8:12] == b"WEBP" or start[4:12] == b"ftypavif"


def end_streams(app: FastAPI) -> None:
    """End the streams by which open pages hear of news."""
    for route in app.routes:
        stop = getattr(getattr(route, "app", None), "stop_event", None)
        if stop is not None:
            stop.set()
