"""A byte-level tokenizer that needs no download: every byte is one token, special tokens come after the bytes."""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def byte_tokenizer(special_tokens: Sequence[str], **names: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the 256 bytes, then ``special_tokens``; any text is encoded without loss.

    The same arguments give the same ids, and the same files when it is saved.

    Args:
        special_tokens: Strings that are one token each and are never split, in the order of their ids from 256 on.
        **names: Names of special tokens, such as ``pad_token="<pad>"`` or ``image_token="<image>"``. Each becomes an
            attribute, and `<name>_id` its id. A token that is not in ``special_tokens`` is added after them.

    Raises:
        ValueError: A special token is given twice.
    """
    if len(set(special_tokens)) != len(special_tokens):
        raise ValueError(f"special tokens are given twice: {', '.join(special_tokens)}")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
