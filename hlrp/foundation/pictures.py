"""Sample pictures of a validation: the frame, the instruction, and predicted beside true codes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

from hlrp.files import write_bytes

_FRAME = 192
_LINE = 14
_COLUMNS = 4
_TEXT_LINES = 4
_RIGHT, _WRONG, _PLAIN = (20, 130, 50), (190, 40, 30), (20, 20, 20)


@dataclass(frozen=True, eq=False)
class Sample:
    """One prediction.

    Args:
        frame: uint8 ``[3, H, W]``.
        instruction: In words.
        predicted: Codes, P of them.
        true: Codes, P of them; -1 where there is no label.
        name: Which sample it is.
    """

    frame: Tensor
    instruction: str
    predicted: list[int]
    true: list[int]
    name: str


def write_samples(samples: Sequence[Sample], path: Path) -> None:
    """Write the samples as one PNG, four in a row; green codes are right, red ones wrong."""
    from PIL import Image, ImageDraw

    rows = -(-len(samples) // _COLUMNS)
    cell = (_FRAME + 12, _FRAME + 12 + _TEXT_LINES * _LINE)
    sheet = Image.new("RGB", (cell[0] * min(_COLUMNS, len(samples)), cell[1] * rows), "white")
    draw = ImageDraw.Draw(sheet)
    for number, sample in enumerate(samples):
        left, top = (number % _COLUMNS) * cell[0] + 6, (number // _COLUMNS) * cell[1] + 6
        sheet.paste(Image.fromarray(_fit(sample.frame).permute(1, 2, 0).numpy()), (left, top))
        right = all(t in (-1, p) for p, t in zip(sample.predicted, sample.true, strict=True))
        lines = [
            (_shortened(sample.instruction), _PLAIN),
            ("true       " + _codes(sample.true), _PLAIN),
            ("predicted  " + _codes(sample.predicted), _RIGHT if right else _WRONG),
            (sample.name, _PLAIN),
        ]
        for line, (text, colour) in enumerate(lines):
            draw.text((left, top + _FRAME + 2 + line * _LINE), text, fill=colour)
    stream = io.BytesIO()
    sheet.save(stream, format="PNG", optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, stream.getvalue())


def _codes(codes: list[int]) -> str:
    shown = " ".join("-" if code < 0 else str(code) for code in codes[:8])
    return f"{shown} ..." if len(codes) > 8 else shown


def _shortened(text: str) -> str:
    longest = _FRAME // 6
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _fit(frame: Tensor) -> Tensor:
    """Into the square, its proportions kept; uint8 ``[3, 192, 192]``."""
    height, width = frame.shape[1:]
    scale = _FRAME / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    resized = F.interpolate(frame[None], size=size, mode="bilinear", antialias=True)[0]
    return F.pad(resized, (0, _FRAME - size[1], 0, _FRAME - size[0]), value=255)
