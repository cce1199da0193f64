"""Constrained decoding for a chat backend: its answers are fixed tokens around exactly P code tokens.

Every answer has the same length, so the state of the machine that generates it is the number of tokens so far: at each
step either one token is possible or any of the K codes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hlrp.errors import UserError

START, END = "<|latent_start|>", "<|latent_end|>"
_WHERE = "model.backbone"
_CODE = -1


def code_token(code: int) -> str:
    """The token of a code."""
    return f"<|latent_{code}|>"


def all_tokens(codebook_size: int) -> list[str]:
    """Every token that a tokenizer needs for codes: the start, the end, then the K codes."""
    return [START, END, *map(code_token, range(codebook_size))]


class CodeGrammar(nn.Module):
    """Answers of C tokens, P of them codes. It holds no weights; its tensors follow a module's device.

    Args:
        layout: The C tokens of an answer; None where a code stands.
        code_ids: Token of each of the K codes.

    Raises:
        ValueError: There is no place for a code, or a code's token is used twice.
    """

    layout: Tensor
    code_ids: Tensor

    def __init__(self, layout: Sequence[int | None], code_ids: Sequence[int]) -> None:
        super().__init__()
        fixed = {token for token in layout if token is not None}
        if None not in layout or len(fixed.union(code_ids)) != len(fixed) + len(code_ids):
            raise ValueError("an answer needs places for codes, and codes need tokens that nothing else has")
        self.places = tuple(i for i, token in enumerate(layout) if token is None)
        """Which of the C tokens are codes."""
        tokens = [_CODE if token is None else token for token in layout]
        self.register_buffer("layout", torch.tensor(tokens), persistent=False)
        self.register_buffer("code_ids", torch.tensor(list(code_ids)), persistent=False)

    @property
    def length(self) -> int:
        """Tokens C of an answer, the end of the turn included."""
        return len(self.layout)

    def allowed(self, step: int) -> Tensor:
        """Tokens that may come after ``step`` tokens, int64 ``[1]`` or ``[K]``."""
        return self.code_ids if step in self.places else self.layout[step : step + 1]

    def complete(self, codes: Tensor) -> Tensor:
        """The answers that mean ``codes``.

        Args:
            codes: int64 ``[B, P]`` in ``[0, K)``.

        Returns:
            int64 ``[B, C]``.
        """
        answers = self.layout.expand(len(codes), -1).clone()
        answers[:, list(self.places)] = self.code_ids[codes]
        return answers

    def read(self, answers: Tensor) -> Tensor:
        """The codes of answers, int64 ``[B, P]``.

        Args:
            answers: int64 ``[B, C]``.

        Raises:
            ValueError: One of them is no answer of this grammar.
        """
        if answers.ndim != 2 or answers.shape[1] != self.length:
            raise ValueError(f"answers of {self.length} tokens are needed, got {list(answers.shape)}")
        for step in range(self.length):
            wrong = ~torch.isin(answers[:, step], self.allowed(step))
            if bool(wrong.any()):
                raise ValueError(f"token {int(answers[wrong][0, step])} cannot stand at place {step} of an answer")
        return (answers[:, list(self.places), None] == self.code_ids).to(torch.uint8).argmax(-1)

    def logits(self, logits: Tensor) -> Tensor:
        """Of logits over the vocabulary, ``[..., V]``, those of the codes, ``[..., K]``."""
        return logits.index_select(-1, self.code_ids)

    def choose(self, logits: Tensor, *, temperature: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """The next codes, int64 ``[B]`` in ``[0, K)``, whatever the logits of other tokens are.

        Args:
            logits: Over the vocabulary, ``[B, V]``.
            temperature: 0: the most likely code; above: sampled.
            generator: Source of randomness; None: the global one.
        """
        codes = self.logits(logits).float()
        if temperature <= 0:
            return codes.argmax(-1)
        chances = (codes / temperature).softmax(-1)
        if generator is not None:
            chances = chances.to(generator.device)
        return torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)


def check_tokens(tokenizer: Any, codebook_size: int) -> None:
    """Check that every token of the codes is one token of its own.

    Raises:
        UserError: Naming the token that is split, or is the same as another one.
    """
    owner: dict[int, str] = {}
    for token in all_tokens(codebook_size):
        ids = tokenizer(token, add_special_tokens=False).input_ids
        if len(ids) != 1:
            pieces = " ".join(map(str, tokenizer.convert_ids_to_tokens(ids)))
            raise UserError(
                f"the tokenizer splits {token} into {len(ids)} tokens: {pieces}",
                where=_WHERE,
                fix="use a tokenizer that keeps added tokens whole (split_special_tokens: false)",
            )
        if ids[0] in owner:
            raise UserError(
                f"the tokenizer gives {token} the id {ids[0]} of {owner[ids[0]]}",
                where=_WHERE,
                fix="use the files of one backbone, without tokens of these names",
            )
        owner[ids[0]] = token


@torch.no_grad()
def start_rows(matrix: Tensor, ids: list[int]) -> None:
    """Give new tokens random rows like those of the tokens before them.

    Args:
        matrix: Rows by token, ``[tokens, width]``; changed in place.
        ids: The new tokens.
    """
    known = matrix[: min(ids)].float()
    noise = torch.randn(len(ids), matrix.shape[1], device=matrix.device)
    matrix[ids] = (known.mean(0) + noise * known.std(0)).to(matrix.dtype)


def learn_grammar(tokenizer: Any, render: Callable[[str], str], *, codebook_size: int, positions: int) -> CodeGrammar:
    """The grammar of a tokenizer and chat template, read off answers that they make.

    Whatever the template or the tokenizer puts before, between or after the codes becomes a fixed token. An answer ends
    with the first end-of-text token behind the last code; one is appended where the template has none.

    Args:
        tokenizer: Knows all tokens of `all_tokens`; see `check_tokens`.
        render: What the template makes of an answer's text, from the end of the prompt on.
        codebook_size: Codes K.
        positions: Codes P of an answer.

    Raises:
        UserError: The tokens around the codes depend on the codes.
    """
    code_ids = tokenizer.convert_tokens_to_ids([code_token(i) for i in range(codebook_size)])
    layouts = []
    for shift in range(2):
        codes = [(i + shift) % codebook_size for i in range(positions)]
        text = START + "".join(map(code_token, codes)) + END
        ids = list(tokenizer(render(text), add_special_tokens=False).input_ids)
        kept = [token for token in ids if token in code_ids] == [code_ids[c] for c in codes]
        layouts.append(_layout(ids, code_ids, tokenizer.eos_token_id) if kept else [])
    if not layouts[0] or layouts[0] != layouts[1]:
        raise UserError(
            "the chat template and the tokenizer do not leave the codes of an answer as they are",
            where=_WHERE,
            fix="use a backbone whose chat template adds nothing to an answer that depends on it",
        )
    return CodeGrammar(layouts[0], code_ids)


def _layout(ids: list[int], code_ids: list[int], end: int | None) -> list[int | None]:
    codes = set(code_ids)
    layout: list[int | None] = [None if token in codes else token for token in ids]
    last = max((i for i, token in enumerate(layout) if token is None), default=0)
    if end is None:
        return layout
    return layout[: layout.index(end, last) + 1] if end in layout[last:] else [*layout, end]
