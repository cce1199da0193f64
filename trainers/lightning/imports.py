"""Importing Lightning without what it only might need: import this module before anything of Lightning.

Lightning imports torchmetrics, and torchmetrics imports torchvision, transformers and scipy wherever they are
installed, for metrics that no training here uses. Without them `import lightning.pytorch`
takes 7 seconds of one core instead of 11.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NOT_NEEDED = ("torchvision", "transformers", "scipy", "matplotlib", "onnxruntime", "nltk", "pycocotools")


@contextmanager
def _without_optional_metrics() -> Iterator[None]:
    from lightning_utilities.core import imports

    is_met, is_there = imports.RequirementCache.__bool__, imports.package_available

    def met(self: Any) -> bool:
        asked = str(getattr(self, "requirement", None) or getattr(self, "module", None) or "")
        return False if asked.lower().startswith(_NOT_NEEDED) else bool(is_met(self))

    def there(name: str) -> bool:
        return False if name.lower().startswith(_NOT_NEEDED) else bool(is_there(name))

    imports.RequirementCache.__bool__ = met  # type: ignore[method-assign]
    imports.package_available = there  # type: ignore[assignment]
    try:
        yield
    finally:
        imports.RequirementCache.__bool__ = is_met  # type: ignore[method-assign]
        imports.package_available = is_there


# A process that has torchmetrics already keeps what it has: half of the package would be the other kind.
if "torchmetrics" not in sys.modules:
    with _without_optional_metrics():
        import torchmetrics  # noqa: F401
import lightning.pytorch  # noqa: E402, F401
