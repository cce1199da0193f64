"""Instructions made safe for prompts: special tokens taken out, and cut to a length."""

from collections.abc import Iterable
from typing import Any


def plain_instruction(instruction: str, tokenizer: Any, marks: Iterable[str], longest: int) -> str:
    """The instruction without what the tokenizer takes for marks of its own, and not too long.

    Args:
        instruction: As the dataset has it.
        tokenizer: The backbone's.
        marks: Tokens that an instruction must not smuggle in; one that contains another comes before it.
        longest: Most tokens of the result.
    """
    for mark in marks:
        instruction = instruction.replace(mark, " ")
    ids = tokenizer(instruction, add_special_tokens=False).input_ids
    if len(ids) <= longest:
        return instruction
    # A cut through a character of several bytes leaves a replacement character.
    return str(tokenizer.decode(ids[:longest])).rstrip("\ufffd")
