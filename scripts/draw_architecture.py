"""Draws docs/architecture.svg: the chain from video to a policy that acts, and the rooms of the code with their layers.

The rooms and their order are read from the import contracts in pyproject.toml, which the tests check: the picture
cannot say otherwise.

    python scripts/draw_architecture.py            writes docs/architecture.svg
    python scripts/draw_architecture.py --check    exit code 1 if it is not what would be drawn
"""

import argparse
import sys
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
WIDTH, MARGIN, ROW, GAP = 960, 24, 44, 14

# Box to (column, row, what it is), and arrows with the command that goes that way.
FILES = {
    "dataset": (0, 0, "LeRobotDataset v3.0", "video, some of it with actions"),
    "laq": (1, 0, "quantizer (LAQ)", "learned from video alone"),
    "table": (2, 0, "latent table", "codes of every frame"),
    "foundation": (3, 0, "foundation model", "one frame to codes"),
    "policy": (3, 1, "policy", "LeRobot's pretrained_model"),
    "results": (2, 1, "results", "success with intervals"),
}
COMMANDS = [
    ("dataset", "laq", "train --model laq"),
    ("laq", "table", "precompute-latents"),
    ("table", "foundation", "train --model foundation"),
    ("foundation", "policy", "train --policy"),
    ("policy", "results", "eval"),
]
WHAT = {
    "hlrp_cli": "one module per command",
    "trainers": "how a run is executed: LeRobot's loop, Lightning's loop",
    "lerobot_policy_felix_bundle": "the three policies that LeRobot finds as a plugin",
    "hlrp.deploy": "a policy behind a websocket, and its client; exports",
    "hlrp.report": "the page of a run",
    "hlrp.evaluation": "rollouts, statistics, comparisons",
    "hlrp.policies": "LeRobot's policies in Lightning",
    "hlrp.foundation": "vision-language models that predict codes",
    "hlrp.latents": "what codes mean, labelling, tables, label sources",
    "hlrp.laq": "the latent action quantizer and its card",
    "hlrp.sim": "simulators, scripted experts, recording",
    "hlrp.data": "datasets, decoding, frame windows, loaders",
    "hlrp.runs": "run directories, checkpoints, metrics",
    "hlrp.config": "the one schema, YAML, overrides",
    "hlrp.runtime": "an exported policy that acts without torch",
    "hlrp.compat": "LeRobot's private and moved parts, outside its loop",
}


def layers() -> list[list[str]]:
    """The rooms from the top down; those of one row do not import each other."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["tool"]["importlinter"]["contracts"]
    outer, inner = (c["layers"] for c in contracts[:2])
    rows = [[name.strip() for name in row.split("|")] for row in [*outer[:-1], *inner]]
    return [kept for row in rows if (kept := [name for name in row if name in WHAT])]


def box(x: float, y: float, width: float, title: str, text: str, colour: str) -> str:
    centre = x + width / 2
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{ROW}" rx="6" fill="{colour}" stroke="#5b6b7b"/>'
        f'<text x="{centre:g}" y="{y + 18:g}" class="title">{escape(title)}</text>'
        f'<text x="{centre:g}" y="{y + 34:g}" class="note">{escape(text)}</text>'
    )


def chain(top: float) -> list[str]:
    width, height = 178.0, ROW + 46
    column = (WIDTH - 2 * MARGIN - width) / 3
    place = {name: (MARGIN + c * column, top + r * height) for name, (c, r, *_) in FILES.items()}
    drawn = [box(*place[name], width, title, text, "#e8f1fb") for name, (_, _, title, text) in FILES.items()]
    for start, end, command in COMMANDS:
        (x0, y0), (x1, y1) = place[start], place[end]
        if x0 == x1:
            points, label = (x0 + width / 2, y0 + ROW, x1 + width / 2, y1), (x0 + width / 2 - 76, y0 + ROW + 27)
        else:
            left, right = (x0 + width, x1) if x0 < x1 else (x0, x1 + width)
            below = 0 if x0 < x1 else ROW / 2 + 26
            points, label = (left, y0 + ROW / 2, right, y1 + ROW / 2), ((left + right) / 2, y0 - 8 + below)
        drawn.append('<line x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}" class="arrow"/>'.format(*points))
        drawn.append(f'<text x="{label[0]:g}" y="{label[1]:g}" class="command">hlrp {escape(command)}</text>')
    return drawn


def rooms(top: float) -> tuple[list[str], float]:
    drawn = []
    for row in layers():
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        for i, name in enumerate(row):
            drawn.append(box(MARGIN + i * (width + GAP), top, width, name, WHAT[name], "#f3f7ec"))
        top += ROW + 8
    return drawn, top


def picture() -> str:
    below, end = rooms(238)
    style = (
        "text{font-family:Helvetica,Arial,sans-serif;fill:#1b2733}.title{font-size:14px;font-weight:600;text-anchor:middle}"
        ".note{font-size:11.5px;text-anchor:middle;fill:#44525f}.command{font-size:11.5px;text-anchor:middle;"
        "font-family:Menlo,Consolas,monospace}.head{font-size:15px;font-weight:600}"
        ".arrow{stroke:#5b6b7b;stroke-width:1.6;marker-end:url(#tip)}"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {end + 8:g}" role="img">',
        "<title>From video to a policy that acts, and the rooms of the code</title>",
        f"<style>{style}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#5b6b7b"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{end + 8:g}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="30" class="head">Each arrow is a command, each box a folder others can read</text>',
        *chain(62),
        f'<text x="{MARGIN}" y="224" class="head">The rooms: imports point down only</text>',
        *below,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    drawn, arguments = picture(), parser.parse_args()
    if arguments.check:
        same = PICTURE.is_file() and PICTURE.read_text(encoding="utf8") == drawn
        if not same:
            print("docs/architecture.svg is not up to date: run scripts/draw_architecture.py", file=sys.stderr)
        return 0 if same else 1
    PICTURE.write_text(drawn, encoding="utf8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
