"""Answers of exactly S codes: what they look like, what is refused, and that nothing else can be chosen."""

import pytest
import torch

from hlrp.errors import UserError
from hlrp.foundation.backbones.tokenizer import byte_tokenizer
from hlrp.foundation.backends.code_grammar import CodeGrammar, all_tokens, check_tokens, learn_grammar

# start, code, separator, code, end
GRAMMAR = CodeGrammar([50, None, 7, None, 51], [20, 21, 25])


def test_an_answer_and_its_codes_are_the_same_thing() -> None:
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    answers = GRAMMAR.complete(codes)
    assert answers[5].tolist() == [50, 21, 7, 25, 51]
    assert torch.equal(GRAMMAR.read(answers), codes)
    assert [GRAMMAR.allowed(step).tolist() for step in range(3)] == [[50], [20, 21, 25], [7]]


@pytest.mark.parametrize("place", range(5))
def test_one_wrong_token_anywhere_is_no_answer(place: int) -> None:
    answers = GRAMMAR.complete(torch.zeros(2, 2, dtype=torch.int64))
    answers[1, place] = 99
    with pytest.raises(ValueError, match=f"token 99 cannot stand at place {place}"):
        GRAMMAR.read(answers)
    with pytest.raises(ValueError, match="answers of 5 tokens"):
        GRAMMAR.read(answers[:, :4])


def test_tokens_must_tell_codes_from_everything_else() -> None:
    for layout, ids in (([50, 51], [20, 21]), ([50, None], [50, 21]), ([50, None], [20, 20])):
        with pytest.raises(ValueError, match="places for codes"):
            CodeGrammar(layout, ids)


def test_only_codes_are_chosen_whatever_the_logits_are() -> None:
    logits = torch.randn(2000, 60, generator=torch.Generator().manual_seed(0)) * 5
    logits[:, 0] = 1e4
    logits[0] = -torch.inf
    logits[0, 25] = 0
    greedy = GRAMMAR.choose(logits)
    assert torch.equal(GRAMMAR.code_ids[greedy], torch.tensor([20, 21, 25])[logits[:, [20, 21, 25]].argmax(1)])
    flat = torch.zeros(6000, 60)
    flat[:, 21] = 1.0
    sampled = GRAMMAR.choose(flat, temperature=0.5, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(sampled, minlength=3) / 6000
    expected = torch.tensor([0.0, 2.0, 0.0]).softmax(0)
    torch.testing.assert_close(shares, expected, atol=0.02, rtol=0)


def test_the_grammar_is_read_off_the_template() -> None:
    tokenizer = byte_tokenizer(["<end>", *all_tokens(4)], eos_token="<end>")
    start, stop, *codes = tokenizer.convert_tokens_to_ids(all_tokens(4))
    plain = learn_grammar(tokenizer, lambda text: text, codebook_size=4, positions=3)
    assert plain.layout.tolist() == [start, -1, -1, -1, stop, tokenizer.eos_token_id]
    assert plain.code_ids.tolist() == codes

    def wordy(text: str) -> str:
        return f"a {text}.<end>\n".replace("|><|", "|> <|")

    spaced = learn_grammar(tokenizer, wordy, codebook_size=4, positions=2)
    assert tokenizer.decode(spaced.complete(torch.tensor([[3, 1]]))[0]) == (
        "a <|latent_start|> <|latent_3|> <|latent_1|> <|latent_end|>.<end>"
    )
    for spoilt in (lambda text: text.replace("_2", "_1"), lambda text: text + ("!" if "_2" in text else "?")):
        with pytest.raises(UserError, match="do not leave the codes"):
            learn_grammar(tokenizer, spoilt, codebook_size=4, positions=2)


def test_a_tokenizer_that_does_not_keep_code_tokens_whole_is_refused() -> None:
    with pytest.raises(UserError, match=r"splits <\|latent_3\|> into 12 tokens"):
        check_tokens(byte_tokenizer(all_tokens(3)), 4)
    unknown = byte_tokenizer(all_tokens(4), unk_token="<|latent_3|>")
    check_tokens(unknown, 4)
