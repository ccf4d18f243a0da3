"""All exhibits as one HTML page that needs nothing else: pictures inside, no script, no font or style from outside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from featherweight.explain.style import Exhibit

# Phones: figures keep a width at which their text can be read and are pushed sideways by a finger; so are wide tables.
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --soft: #59595f; --line: #d4d4d8; --link: #005a8e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --paper: #17181a; --soft: #b3b3b8; --line: #45464a; --link: #7cc4f0; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem 1rem 4rem; max-width: 48rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
a { color: var(--link); }
nav ul { columns: 16rem; padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .25rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 0; } figcaption { margin-top: .6rem; max-width: 42rem; }
.wide { overflow-x: auto; } .wide:focus-visible { outline: 3px solid var(--link); }
.wide img { display: block; width: 100%; min-width: 30rem; height: auto; background: #ffffff; border-radius: 4px; }
details { margin-top: .6rem; } summary { cursor: pointer; color: var(--link); padding: .3rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--soft); } td.n { text-align: right; white-space: nowrap; }
.note { border-left: 4px solid #D55E00; padding: .2rem 0 .2rem .8rem; }
@media print { body { max-width: none; } figure { break-inside: avoid; } .wide img { min-width: 0; } }
"""


def page(
    title: str,
    facts: Sequence[tuple[str, Any]],
    exhibits: Sequence[Exhibit],
    *,
    skipped: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """The page as text. facts: (name, value) pairs on top; skipped: (figure, why it is not there); notes: warnings."""
    contents = "\n".join(f'<li><a href="#{escape(e.name)}">{escape(e.title)}</a></li>' for e in exhibits)
    told = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts)
    warned = "\n".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    absent = ""
    if skipped:
        items = "\n".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in skipped)
        absent = f"<h2>Not drawn</h2>\n<ul>\n{items}\n</ul>"
    sections = "\n".join(_section(exhibit, number) for number, exhibit in enumerate(exhibits, 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{warned}
<dl>
{told}
</dl>
<nav aria-label="Figures">
<ul>
{contents}
</ul>
</nav>
{sections}
{absent}
</main>
</body>
</html>
"""


def _section(exhibit: Exhibit, number: int) -> str:
    picture = base64.b64encode(exhibit.png).decode("ascii")
    name, title = escape(exhibit.name), escape(exhibit.title)
    return f"""<section aria-labelledby="{name}">
<h2 id="{name}">{number}. {title}</h2>
<figure>
<div class="wide" tabindex="0" role="group" aria-label="{title}">
<img src="data:image/png;base64,{picture}" alt="{escape(exhibit.alt)}">
</div>
<figcaption>{escape(exhibit.caption)}</figcaption>
</figure>
{_table(exhibit)}
</section>"""


def _table(exhibit: Exhibit) -> str:
    if not exhibit.rows:
        return ""
    head = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in exhibit.columns)
    body = "\n".join(
        "<tr>"
        + f'<th scope="row">{escape(str(row[0]))}</th>'
        + "".join(
            f'<td class="n">{escape(_cell(c))}</td>' if _is_number(c) else f"<td>{escape(_cell(c))}</td>"
            for c in row[1:]
        )
        + "</tr>"
        for row in exhibit.rows
    )
    return f"""<details>
<summary>The numbers as a table</summary>
<div class="wide" tabindex="0" role="group" aria-label="Numbers: {escape(exhibit.title)}">
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>
</details>"""


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return True
    return isinstance(value, str) and value[:1].isdigit() and value.rstrip(" %").replace(".", "").isdigit()
