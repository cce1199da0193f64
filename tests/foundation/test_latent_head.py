"""The head that reads latents from hidden states: what it attends to, and that nothing masked reaches it."""

import torch

from hlrp.foundation.backends.latent_head import FlowHead, LatentHead

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


def test_a_flow_that_was_trained_leads_from_noise_to_the_target() -> None:
    torch.manual_seed(0)
    flow, condition = FlowHead(2, 3), torch.randn(1, POSITIONS, 3)
    target = torch.randn(1, POSITIONS, 2) + 2
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        flow.losses(target.expand(32, -1, -1), condition.expand(32, -1, -1)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        found = flow.sample(condition), flow.sample(condition, temperature=1.0)
    for vectors in found:
        torch.testing.assert_close(vectors, target, atol=0.25, rtol=0)


def test_temperature_is_the_deviation_of_the_noise_that_a_flow_starts_from() -> None:
    flow, condition = FlowHead(2, 3), torch.randn(1, POSITIONS, 3)
    flow.forward = lambda noisy, time, _: torch.zeros_like(noisy)  # type: ignore[method-assign]
    warm, hot = (flow.sample(condition, temperature=t, generator=torch.Generator().manual_seed(1)) for t in (0.5, 2.0))
    noise = torch.randn(1, POSITIONS, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(warm, 0.5 * noise)
    torch.testing.assert_close(hot, 2 * noise)
    assert not flow.sample(condition).any()


def test_the_loss_of_a_flow_is_the_squared_error_of_noise_less_target() -> None:
    flow, target = FlowHead(2, 3), torch.full((5, POSITIONS, 2), 3.0)
    condition, seen = torch.randn(5, POSITIONS, 3), {}

    def velocity(noisy: torch.Tensor, time: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        seen["noisy"], seen["time"] = noisy, time[:, None, None]
        return torch.full_like(noisy, 0.5)

    flow.forward = velocity  # type: ignore[method-assign]
    losses = flow.losses(target, condition)
    # Time 1 is noise: noisy = (1 - time) * target + time * noise.
    noise = (seen["noisy"] - (1 - seen["time"]) * 3.0) / seen["time"]
    torch.testing.assert_close(losses, (0.5 - (noise - 3.0)).square().mean(-1), atol=1e-3, rtol=1e-3)
