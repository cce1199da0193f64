"""Answers that hold exactly S codes: their tokens, and decoding that cannot leave the grammar.

Shapes: B batch, S positions, K codes, L tokens of an answer.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class CodeGrammar(nn.Module):
    """A fixed row of tokens with S slots, each for one of K code tokens of consecutive ids.

    Decoding is a state machine whose only states with a choice are the slots; every other token follows by itself.

    Args:
        template: Token ids of an example answer; those that are code tokens mark the slots.
        first_code: Id of the token of code 0.
        codebook_size: K.

    Raises:
        ValueError: The template has no slot, or begins with one: the first code must follow some token.
    """

    template: Tensor
    slots: Tensor

    def __init__(self, template: Sequence[int], first_code: int, codebook_size: int) -> None:
        super().__init__()
        self.tokens = tuple(template)
        """The example answer."""
        self.first_code, self.codebook_size = first_code, codebook_size
        self.slot_indices = tuple(i for i, token in enumerate(self.tokens) if self.is_code(token))
        """Where in an answer the codes are, S increasing indices."""
        self.fixed_indices = tuple(i for i in range(len(self.tokens)) if i not in self.slot_indices)
        """Where all other tokens are."""
        if not self.slot_indices or self.slot_indices[0] == 0:
            raise ValueError(
                f"an answer needs a token, then codes; {list(self.tokens)} has codes at {self.slot_indices}"
            )
        self.register_buffer("template", torch.tensor(self.tokens), persistent=False)
        self.register_buffer("slots", torch.tensor(self.slot_indices), persistent=False)

    def __len__(self) -> int:
        """Tokens L of an answer."""
        return len(self.tokens)

    @property
    def code_seq_len(self) -> int:
        """Codes S of an answer."""
        return len(self.slot_indices)

    @property
    def prefix(self) -> tuple[int, ...]:
        """The tokens before the first code."""
        return self.tokens[: self.slot_indices[0]]

    def is_code(self, token: int) -> bool:
        """Whether a token id is a code."""
        return self.first_code <= token < self.first_code + self.codebook_size

    def allowed(self, index: int) -> Sequence[int]:
        """The token ids that may be at ``index`` of an answer."""
        if index in self.slot_indices:
            return range(self.first_code, self.first_code + self.codebook_size)
        return (self.tokens[index],)

    def encode(self, codes: Tensor) -> Tensor:
        """Codes int64 ``[B, S]`` in ``[0, K)`` to answers int64 ``[B, L]``."""
        answers = self.template.expand(len(codes), -1)
        return answers.index_copy(1, self.slots, codes + self.first_code)

    def decode(self, answers: Tensor) -> Tensor:
        """Answers int64 ``[B, L]`` to codes int64 ``[B, S]``.

        Raises:
            ValueError: An answer is not of the grammar.
        """
        if answers.ndim != 2 or answers.shape[1] != len(self):
            raise ValueError(f"answers: [B, {len(self)}] is needed, got {list(answers.shape)}")
        for index in range(len(self)):
            allowed, found = self.allowed(index), answers[:, index]
            wrong = (found < allowed[0]) | (found > allowed[-1])
            if bool(wrong.any()):
                span = f"{allowed[0]} to {allowed[-1]}" if len(allowed) > 1 else str(allowed[0])
                raise ValueError(f"token {int(found[wrong][0])} at {index} of an answer, where {span} must be")
        return self.codes(answers)

    def codes(self, answers: Tensor) -> Tensor:
        """The codes ``[B, S]`` of answers ``[B, L]`` that are known to be of the grammar."""
        return answers.index_select(1, self.slots) - self.first_code

    @torch.no_grad()
    def generate(
        self,
        advance: Callable[[Tensor], Tensor],
        batch_size: int,
        *,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Decode answers, one code after another.

        Args:
            advance: Given the answers' next tokens int64 ``[B, n]``, n >= 1, returns the logits ``[B, K]`` of the code
                tokens after them. Called S times; the tokens after the last code are not given to it.
            batch_size: B.
            temperature: 0: the most likely code each time; above: sampled.
            generator: Source of randomness; None: the global one.

        Returns:
            Answers int64 ``[B, L]``.
        """
        parts: list[Tensor] = []
        tokens = self._fixed(0, self.slot_indices[0], batch_size)
        for start, end in zip(self.slot_indices, [*self.slot_indices[1:], len(self)], strict=True):
            parts.append(tokens)
            code = choose(advance(tokens), temperature, generator)[:, None] + self.first_code
            tokens = torch.cat([code, self._fixed(start + 1, end, batch_size)], dim=1)
        return torch.cat([*parts, tokens], dim=1)

    def _fixed(self, start: int, end: int, batch_size: int) -> Tensor:
        return self.template[start:end].expand(batch_size, -1)


def choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """One of the last axis: the largest at temperature 0, else sampled; ``[..., K]`` to int64 ``[...]``."""
    if temperature <= 0:
        return logits.argmax(-1)
    chances = (logits.float() / temperature).softmax(-1).flatten(0, -2)
    if generator is not None:
        chances = chances.to(generator.device)
    return torch.multinomial(chances, 1, generator=generator).view(logits.shape[:-1]).to(logits.device)
