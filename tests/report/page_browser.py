"""Looking at pages with a headless Chromium: their width, and pictures and films that do not show."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)

_PROBE = """<script>
addEventListener("load", async () => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const images = [...document.images], films = [...document.querySelectorAll("video")];
  for (let i = 0; i < 100 && films.some(f => !f.error && f.readyState < 1); i++)
    await new Promise(done => setTimeout(done, 50));
  parent.postMessage({
    id: Number(location.hash.slice(1)),
    scroll_width: document.documentElement.scrollWidth,
    missing: images.filter(i => !i.naturalWidth).length + films.filter(f => !f.videoWidth).length,
    pictures: images.length, films: films.length}, "*");
});
</script>"""
_WRAPPER = """<!doctype html><pre id="seen"></pre>%s<script>
const seen = [];
addEventListener("message", event => {
  seen.push(event.data); document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"""


@dataclass(frozen=True)
class Seen:
    """What a page was like, all its details open, in a window of a width in pixels."""

    page: Path
    width: int
    scroll_width: int
    missing: int
    pictures: int
    films: int


def look_at(pages: Sequence[Path], widths: Sequence[int], folder: Path) -> list[Seen]:
    """Every page at every width, in one browser; in frames, since its windows cannot be as narrow as a telephone."""
    assert CHROMIUM is not None
    folder.mkdir()
    asked = [(page, width) for page in pages for width in widths]
    for number, page in enumerate(pages):
        (folder / f"{number}.html").write_text(page.read_text() + _PROBE)
    frames = "".join(
        f'<iframe style="border: 0; width: {width}px; height: 900px" src="{pages.index(page)}.html#{i}"></iframe>'
        for i, (page, width) in enumerate(asked)
    )
    # The listener stands before the frames.
    head, _, tail = (_WRAPPER % "").partition("<script>")
    (folder / "all.html").write_text(f"{head}<script>{tail}{frames}")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--virtual-time-budget=10000"]
    own = [f"--user-data-dir={folder / 'profile'}", "--dump-dom", (folder / "all.html").as_uri()]
    done = subprocess.run([CHROMIUM, *flags, *own], capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stdout[:2000]
    rows = {row.pop("id"): row for row in json.loads(unescape(found[1]) or "[]")}
    return [Seen(*asked[number], **row) for number, row in sorted(rows.items())]
