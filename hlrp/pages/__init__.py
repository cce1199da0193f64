"""Pages that stand alone: jinja2 templates beside their room's code, and what all of them share."""

import base64
import io
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from jinja2 import Environment
    from numpy.typing import NDArray


def page_environment(package: str) -> "Environment":
    """The templates of a package's `templates/`, and those from here; whatever is put into them is escaped.

    From here: `page.css`, and `table.html` with the macro `table`. Filters: `number` and `data_uri`.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("hlrp.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"number": number, "data_uri": data_uri}
    return pages


def number(value: float | None, form: str) -> str:
    """``value`` for people, in the format ``form``; a dash for None and nan."""
    if value is None or math.isnan(value):
        return "–"
    text = format(value, form)
    # What rounds to nothing has no sign.
    return text.replace("-", "−") if text.strip("+-0.%") else format(abs(value), form)


def data_uri(picture: "NDArray[np.uint8] | Any", form: str = "png") -> str:
    """A picture as a text that stands in the page itself.

    Args:
        picture: uint8 `[H, W, 3]`.
        form: png, or jpeg, which is smaller.
    """
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format=form.upper(), optimize=True)
    return f"data:image/{form};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
