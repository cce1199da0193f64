"""Which weights of a backend are trained: parts that are frozen, low-rank adapters, and the weights that they make."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hlrp.config.models import FoundationModel, LoraSection
from hlrp.errors import UserError, suggest
from hlrp.foundation.backends.interfaces import VLABackend

PARTS = ("vision", "language", "head")
_ADAPTER = "hlrp"


def choose_trainable(backend: VLABackend, model: FoundationModel, *, pretrained: bool) -> None:
    """Freeze and unfreeze the parts of a backend, and give it adapters, as a run's model section says.

    The vision part of a pretrained backbone is frozen unless asked otherwise; the head is always trained. With adapters
    the language model's own weights are frozen, its embeddings excepted where the backend has no separate head: the
    codes' tokens are among them.

    Raises:
        UserError: Adapters are asked for, and the package `peft` is missing or no layer has such a name.
    """
    train_vision = model.train_vision if model.train_vision is not None else not pretrained
    _module(backend).train()  # a loaded backbone comes in evaluation mode
    wanted = {"vision": train_vision, "language": model.train_language, "head": True}
    for name in PARTS:
        for part in backend.part(name):
            part.requires_grad_(wanted[name]).train(wanted[name])
    if model.lora is not None:
        _add_adapters(backend, model.lora)


def _module(backend: VLABackend) -> nn.Module:
    if not isinstance(backend, nn.Module):
        raise TypeError(f"{type(backend).__name__} is no torch.nn.Module")
    return backend


def _add_adapters(backend: VLABackend, lora: LoraSection) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(
            "adapters need the package peft, which is not installed",
            where="model.lora",
            fix="install the extra lora, or pip install peft",
        ) from error
    root = _module(backend)
    language = {id(module) for part in backend.part("language") for module in part.modules()}
    linear = {n: m for n, m in root.named_modules() if isinstance(m, nn.Linear) and id(m) in language}
    chosen = [name for name in linear if name.rpartition(".")[2] in lora.targets]
    missing = [target for target in lora.targets if not any(n.rpartition(".")[2] == target for n in linear)]
    if missing:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise UserError(
            f"the language model has no layer {missing[0]!r}",
            where="model.lora.targets",
            fix=suggest(missing[0], known),
        )
    trained = {name for name, p in root.named_parameters() if p.requires_grad}
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=chosen, lora_dropout=0.0)
    # In place, no wrapper: the backend keeps its class and methods. It freezes everything else, which is undone here.
    inject_adapter_in_model(config, root, adapter_name=_ADAPTER)
    keep_embeddings = not any(True for part in backend.part("head") for _ in part.parameters())
    embeddings = {id(p) for m in root.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    in_language = {id(p) for part in backend.part("language") for p in part.parameters()}
    for name, parameter in root.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(True)
        elif id(parameter) in in_language:
            parameter.requires_grad_(keep_embeddings and id(parameter) in embeddings)
        else:
            parameter.requires_grad_(name in trained)


def merged_state(backend: VLABackend) -> dict[str, Tensor]:
    """The weights of a backend by the names that they have without adapters, which are added to them."""
    root = _module(backend)
    state = root.state_dict()
    for name, delta in _deltas(root):
        base = f"{name}.base_layer.weight"
        state[base] = state[base] + delta.to(state[base])
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}


def _deltas(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in root.named_modules():
        if _ADAPTER in getattr(module, "lora_A", ()) and callable(getattr(module, "get_delta_weight", None)):
            with torch.no_grad():
                yield name, module.get_delta_weight(_ADAPTER)
