"""Keys and values of a language model as tensors by name, which a graph can give and take."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import DynamicCache


def cache_tensors(cache: Any) -> dict[str, Tensor]:
    """`key_0`, `value_0`, `key_1`, ... of the layers of a cache of transformers, each ``[B, heads, tokens, head]``."""
    pairs = [{f"key_{i}": layer.keys, f"value_{i}": layer.values} for i, layer in enumerate(cache.layers)]
    return {name: tensor for pair in pairs for name, tensor in pair.items()}


def cache_of(tensors: Mapping[str, Tensor]) -> DynamicCache:
    """The cache that `cache_tensors` took apart; other tensors may lie beside."""
    cache = DynamicCache()
    for number in range(sum(name.startswith("key_") for name in tensors)):
        cache.update(tensors[f"key_{number}"], tensors[f"value_{number}"], number)
    return cache
