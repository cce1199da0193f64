"""Which weights of a backend are trained: parts that are frozen, low-rank adapters, and the weights that they make."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hlrp.errors import UserError, suggest
from hlrp.foundation.backends.interfaces import VLABackend

PARTS = ("vision", "language", "head")
_ADAPTER = "hlrp"


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters on the language model.

    Args:
        rank: Their rank.
        alpha: They are scaled by alpha / rank.
        targets: Last parts of the names of the layers that get one.
    """

    rank: int
    alpha: int
    targets: Sequence[str]


def choose_trainable(backend: VLABackend, *, vision: bool, language: bool, adapters: Adapters | None = None) -> None:
    """Freeze and unfreeze the parts of a backend, and give it adapters. The head is always trained.

    Args:
        backend: Changed in place.
        vision: Whether the vision part is trained.
        language: Whether the language model is trained.
        adapters: With these its own weights are frozen, its embeddings excepted where the backend has no separate head:
            the codes' tokens are among them.

    Raises:
        UserError: Adapters are asked for, and the package `peft` is missing or no layer has such a name.
    """
    backend.train()  # a loaded backbone comes in evaluation mode
    wanted = {"vision": vision, "language": language, "head": True}
    for name in PARTS:
        for part in backend.part(name):
            part.requires_grad_(wanted[name]).train(wanted[name])
    if adapters is not None:
        _add_adapters(backend, adapters)


def _add_adapters(backend: VLABackend, adapters: Adapters) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(
            "adapters need the package peft, which is not installed",
            where="model.lora",
            fix="install the extra lora, or pip install peft",
        ) from error
    language = {id(module) for part in backend.part("language") for module in part.modules()}
    linear = {n: m for n, m in backend.named_modules() if isinstance(m, nn.Linear) and id(m) in language}
    chosen = [name for name in linear if name.rpartition(".")[2] in adapters.targets]
    missing = [target for target in adapters.targets if not any(n.rpartition(".")[2] == target for n in linear)]
    if missing:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise UserError(
            f"the language model has no layer {missing[0]!r}",
            where="model.lora.targets",
            fix=suggest(missing[0], known),
        )
    trained = {name for name, p in backend.named_parameters() if p.requires_grad}
    config = LoraConfig(r=adapters.rank, lora_alpha=adapters.alpha, target_modules=chosen, lora_dropout=0.0)
    # In place, no wrapper: the backend keeps its class and methods. It freezes everything else, which is undone here.
    inject_adapter_in_model(config, backend, adapter_name=_ADAPTER)
    keep_embeddings = not any(True for part in backend.part("head") for _ in part.parameters())
    embeddings = {id(p) for m in backend.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    in_language = {id(p) for part in backend.part("language") for p in part.parameters()}
    for name, parameter in backend.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(True)
        elif id(parameter) in in_language:
            parameter.requires_grad_(keep_embeddings and id(parameter) in embeddings)
        else:
            parameter.requires_grad_(name in trained)


@torch.no_grad()
def merged_state(backend: VLABackend) -> dict[str, Tensor]:
    """The weights of a backend by the names that they have without adapters, which are added to them."""
    state = backend.state_dict()
    for name, module in backend.named_modules():
        if _ADAPTER in getattr(module, "lora_A", ()) and callable(getattr(module, "get_delta_weight", None)):
            base = f"{name}.base_layer.weight"
            state[base] = state[base] + module.get_delta_weight(_ADAPTER).to(state[base])
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}
