"""The backends by name: one line for each, the only place that lists them. A class is imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

from hlrp.errors import UserError, suggest

if TYPE_CHECKING:
    from hlrp.foundation.backends.interfaces import VLABackend

BACKENDS: dict[str, str] = {
    "smol_latent_head": "hlrp.foundation.backends.smol_latent_head_backend:SmolLatentHeadBackend",
    "qwen3vl_chat": "hlrp.foundation.backends.qwen3vl_chat_backend:Qwen3VLChatBackend",
}
"""Name to "module:Class", of a `VLABackend`."""

DEFAULT_BACKEND = "smol_latent_head"


def check_backend(name: str) -> None:
    """Check that there is a backend of that name, without importing it.

    Raises:
        UserError: There is none.
    """
    if name not in BACKENDS:
        raise UserError(f"unknown backend {name!r}", where="--backend / model.backend", fix=suggest(name, BACKENDS))


def backend_class(name: str) -> "type[VLABackend]":
    """The class of the backend ``name``.

    Raises:
        UserError: There is no such backend.
    """
    check_backend(name)
    module, _, attribute = BACKENDS[name].partition(":")
    backend: type[VLABackend] = getattr(import_module(module), attribute)
    return backend
