"""A quantizer's quality card as a part of its run page: text, drawings and pictures, nothing that could run."""

import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

CARD = Path("laq-report/report.html")
"""Where `hlrp laq-report` puts it in a run."""

_TAGS = re.compile(
    "section|h[23]|p|ul|li|span|strong|br|div|table|thead|tbody|t[rhd]|figure|figcaption|details|summary|d[ltd]"
    "|svg|g|title|rect|polygon|line|img"
)
_VOID = ("br", "img")
_NAMES = re.compile("class|scope|rowspan|colspan|alt|width|height|viewbox|role|aria-label|points|x|y|x1|x2|y1|y2|src")


def read_card(run: Path) -> str | None:
    """The content of a run's quality card as HTML that is safe to put into a page; None if it was not made.

    Headings are one level lower than on the card's own page.
    """
    try:
        text = (run / CARD).read_text(encoding="utf8", errors="replace")
    except OSError:
        return None
    content = _Content()
    content.feed(text)
    content.close()
    return "".join(content.parts) or None


class _Content(HTMLParser):
    """Keeps known tags with known attributes inside `<main>`, without its `<header>`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._inside = 0
        self._left_out: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "main":
            self._inside += 1
        elif self._inside and (self._left_out or tag in ("header", "script", "style")):
            if tag not in _VOID:
                self._left_out.append(tag)
        elif self._inside and _TAGS.fullmatch(tag):
            kept = "".join(f' {name}="{escape(value or "")}"' for name, value in attrs if _is_kept(name, value))
            self.parts.append(f"<{_lower(tag)}{kept}>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "main":
            self._inside -= 1
        elif self._left_out:
            if tag in self._left_out:
                del self._left_out[self._left_out.index(tag) :]
        elif self._inside and _TAGS.fullmatch(tag) and tag not in _VOID:
            self.parts.append(f"</{_lower(tag)}>")

    def handle_data(self, data: str) -> None:
        if self._inside and not self._left_out:
            self.parts.append(escape(data, quote=False))


def _lower(tag: str) -> str:
    return {"h2": "h3", "h3": "h4"}.get(tag, tag)


def _is_kept(name: str, value: str | None) -> bool:
    return _NAMES.fullmatch(name) is not None and (name != "src" or (value or "").startswith("data:image/"))
