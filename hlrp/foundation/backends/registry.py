"""The backends by name; a backend's module is imported when it is asked for."""

from importlib import import_module
from typing import Any

from hlrp.errors import UserError, suggest

BACKENDS: dict[str, str] = {
    "smol_latent_head": "hlrp.foundation.backends.smol_latent_head_backend:SmolLatentHeadBackend",
    "qwen3vl_chat": "hlrp.foundation.backends.qwen3vl_chat_backend:Qwen3VLChatBackend",
}
"""Name to "module:Class". The class is a `torch.nn.Module`, a `VLABackend`, and has `from_backbone`."""


def backend_class(name: str) -> Any:
    """The class of the backend ``name``.

    Raises:
        UserError: There is no such backend.
    """
    if name not in BACKENDS:
        raise UserError(f"unknown backend {name!r}", where="model.backend", fix=suggest(name, BACKENDS))
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(import_module(module), attribute)
