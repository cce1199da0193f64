"""The head that reads latents from hidden states: what it attends to, and that nothing masked reaches it."""

import torch

from hlrp.foundation.backends.latent_head import LatentHead

CODES, POSITIONS = 5, 4


def test_head_attends_as_its_attention_module_does() -> None:
    torch.manual_seed(0)
    head = LatentHead(24, POSITIONS, CODES)
    torch.nn.init.normal_(head.attention.in_proj_bias)
    hidden, mask = torch.randn(3, 11, 24, requires_grad=True), torch.rand(3, 11) > 0.4
    mask[:, 0] = True
    tokens = head.norm(hidden)
    queries = head.queries.expand(3, -1, -1)
    read = queries + head.attention(queries, tokens, tokens, key_padding_mask=~mask, need_weights=False)[0]
    expected, found = head.out(read + head.feed(read)), head(hidden, mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    into = [hidden, *head.parameters()]
    assert torch.autograd.grad(found.sum(), hidden, retain_graph=True)[0][~mask].abs().max() == 0
    for one, other in zip(*(torch.autograd.grad(x.square().sum(), into) for x in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_head_reads_only_what_the_mask_leaves() -> None:
    torch.manual_seed(0)
    head = LatentHead(24, POSITIONS, CODES)
    hidden = torch.randn(2, 6, 24)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    changed = hidden.clone()
    changed[0, 4:] = 100
    first, second = head(hidden, mask), head(changed, mask)
    assert first.shape == (2, POSITIONS, CODES)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first[0, 0], first[0, 1], atol=1e-3)
    assert head(hidden.bfloat16(), mask).dtype == torch.float32
