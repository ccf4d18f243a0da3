"""What the page says, as HTML, and how it looks. Every text from outside (class names, file names) is escaped here."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from featherweight.demo.look import Looker, Seen

HEADING = (
    '<header class="fw-heading"><h1>Featherweight</h1>'
    "<p>Give a picture; see what a small network takes it for, and which part of it speaks for that. "
    "Nothing leaves the machine that serves this page.</p></header>"
)
WAITING = (
    '<div class="fw-result fw-waiting"><p>Drop a picture, take one with the camera, or choose an example: '
    "what the network says of it appears here.</p></div>"
)


def about(looker: Looker) -> str:
    """What is known of a network, and what it cannot know."""
    card = looker.classifier.card
    size = f"{card.input_size}\u00a0x\u00a0{card.input_size}"
    facts = [f"{card.parameters:,} parameters", f"input {size} pixels"]
    if card.test_accuracy is not None:
        facts.append(f"{100 * card.test_accuracy:.2f} % of the test pictures of {card.dataset} right")
    else:
        facts.append(f"trained on {card.dataset}, no test accuracy recorded")
    names = ", ".join(looker.classifier.classes[:20])
    more = len(looker.classifier.classes) - 20
    return (
        f'<div class="fw-about"><p>{escape(" · ".join(facts))}</p><p>It knows these classes and nothing else: '
        f"{escape(names)}{f' and {more:,} more' if more > 0 else ''}. "
        "A picture of anything else gets one of these names, too.</p></div>"
    )


def small_print(text: str) -> str:
    return f'<div class="fw-about"><p>{escape(text)}</p></div>'


def problem(text: str) -> str:
    """A message in place of a result. text: one line, without a full stop at its end."""
    return (
        '<div class="fw-result fw-problem" role="alert"><p><strong>This could not be looked at.</strong></p>'
        f"<p>{escape(text)}.</p></div>"
    )


def result(looker: Looker, seen: Seen) -> str:
    """Bars for the best classes, what the network was given, and the Grad-CAM overlay."""
    label, share = seen.top[0]
    bars = "".join(_bar(name, part) for name, part in seen.top)
    if seen.others:
        rest = max(0.0, 1 - sum(part for _, part in seen.top))
        classes = "1 other class" if seen.others == 1 else f"{seen.others:,} other classes"
        bars += _bar(classes, rest, rest=True)
    side = looker.classifier.side
    given = _figure(
        _data(seen.given),
        f"The picture in {side} x {side} pixels",
        f"Given: the picture in {side}\u00a0x\u00a0{side} pixels. The network sees no more than this.",
        "fw-given",
    )
    return (
        f'<div class="fw-result" role="status"><p class="fw-said"><strong>{escape(label)}</strong> '
        f"<span>{_percent(share)} sure</span></p>"
        f'<ol class="fw-bars">{bars}</ol><div class="fw-pictures">{given}{_overlay(label, seen)}</div></div>'
    )


def _bar(name: str, share: float, *, rest: bool = False) -> str:
    kind = ' class="fw-rest"' if rest else ""
    return (
        f'<li{kind}><span class="fw-name" title="{escape(name)}">{escape(name)}</span><span class="fw-track">'
        f'<span class="fw-fill" style="width:{100 * share:.2f}%"></span></span>'
        f'<span class="fw-share">{_percent(share)}</span></li>'
    )


def _percent(share: float) -> str:
    """One decimal place; what is not quite nothing or everything is not shown as such."""
    percent = 100 * share
    if 0 < percent < 0.05:
        return "&lt; 0.1 %"
    return "&gt; 99.9 %" if 99.95 <= percent < 100 else f"{percent:.1f} %"


def _overlay(label: str, seen: Seen) -> str:
    if seen.overlay is None:
        return f'<p class="fw-none">No Grad-CAM: {escape(seen.strongest)}.</p>'
    if seen.strongest == "nowhere":
        text = f"Grad-CAM: at this layer, nothing speaks for “{label}”."
    else:
        text = f"Grad-CAM: the brighter, the more it speaks for “{label}”. Strongest: {seen.strongest}."
    scale = '<span class="fw-scale"><span>nothing</span><i></i><span>most</span></span>'
    return _figure(_data(seen.overlay), text, text, "fw-overlay", scale)


def _figure(source: str, alt: str, caption: str, kind: str, more: str = "") -> str:
    return (
        f'<figure class="{kind}"><img src="{source}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}{more}</figcaption></figure>"
    )


def _data(picture: np.ndarray) -> str:
    """uint8 [H, W, 3] as an address that holds the picture itself, losslessly."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# gradio's own variables follow the light or dark scheme that the browser asks for.
STYLE = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
.gradio-container .html-container { padding: 0 !important; }
.fw-heading h1 { margin: 0 0 4px; font-size: 1.6rem; font-weight: 650; letter-spacing: -0.01em; }
.fw-heading p { margin: 0; color: var(--body-text-color-subdued); }
.fw-about p { margin: 0 0 4px; font-size: 0.85rem; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.fw-result { padding: 18px; border: 1px solid var(--border-color-primary); border-radius: 10px;
  background: var(--block-background-fill, white); color: var(--body-text-color); }
.fw-result p { margin: 0; }
.fw-waiting { display: grid; place-items: center; min-height: 220px; text-align: center; border-style: dashed;
  color: var(--body-text-color-subdued); }
.fw-problem { border: 1px solid #d55e00; border-left-width: 6px; }
.fw-problem p + p { margin-top: 6px; overflow-wrap: anywhere; }
.fw-said { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 12px; margin-bottom: 12px !important; }
.fw-said strong { font-size: 1.7rem; font-weight: 650; line-height: 1.2; overflow-wrap: anywhere; }
.fw-said span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.fw-bars { list-style: none; margin: 0 0 18px; padding: 0; display: grid; gap: 7px; }
.fw-bars li { display: grid; grid-template-columns: minmax(112px, 30%) 1fr 62px; gap: 10px; align-items: center;
  margin: 0; padding: 0; font-size: 0.92rem; }
.fw-name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.fw-track { height: 12px; border-radius: 6px; background: var(--border-color-primary); overflow: hidden; }
.fw-fill { display: block; height: 100%; border-radius: 6px; background: #56b4e9; }
.fw-bars li:first-child { font-weight: 600; }
.fw-bars li:first-child .fw-fill { background: #0072b2; }
.fw-bars .fw-rest { color: var(--body-text-color-subdued); }
.fw-bars .fw-rest .fw-fill { background: var(--body-text-color-subdued); }
.fw-share { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.fw-pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; align-items: start; }
.fw-pictures figure { margin: 0; min-width: 0; }
.fw-pictures img { display: block; width: 100%; margin: 0; border-radius: 6px; }
.fw-given img { aspect-ratio: 1; image-rendering: pixelated; }
.fw-overlay img { aspect-ratio: auto; max-height: 480px; object-fit: contain; }
.fw-pictures figcaption { margin-top: 6px; font-size: 0.82rem; line-height: 1.4; overflow-wrap: anywhere;
  color: var(--body-text-color-subdued); }
.fw-scale { display: grid; grid-template-columns: auto 1fr auto; gap: 6px; align-items: center; margin-top: 4px; }
.fw-scale i { height: 8px; border-radius: 4px;
  background: linear-gradient(90deg, #440154, #3b528b, #21908d, #5dc963, #fde725); }
"""
