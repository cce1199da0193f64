"""Importing Lightning without what it only might need: import this module before anything of Lightning.

Lightning imports torchmetrics, and torchmetrics imports torchvision and transformers wherever they are installed, for
metrics that no training here uses. Leaving them out saves about a fifth of the time before the first step.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NOT_NEEDED = ("torchvision", "transformers", "scipy", "matplotlib", "onnxruntime", "nltk", "pycocotools")


@contextmanager
def _without_optional_metrics() -> Iterator[None]:
    from lightning_utilities.core import imports

    look_up = imports.RequirementCache.__bool__

    def available(self: Any) -> bool:
        asked = str(getattr(self, "requirement", None) or getattr(self, "module", None) or "")
        return False if asked.lower().startswith(_NOT_NEEDED) else bool(look_up(self))

    imports.RequirementCache.__bool__ = available  # type: ignore[method-assign]
    try:
        yield
    finally:
        imports.RequirementCache.__bool__ = look_up  # type: ignore[method-assign]


# A process that has torchmetrics already keeps what it has: half of the package would be the other kind.
if "torchmetrics" not in sys.modules:
    with _without_optional_metrics():
        import torchmetrics  # noqa: F401
import lightning.pytorch  # noqa: E402, F401
