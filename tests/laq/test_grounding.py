"""A quantizer's training with actions of labelled episodes: shares, masks, statistics, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_dataset import make_dataset

from hlrp.config import LightningRun
from hlrp.data.columns import read_column
from hlrp.data.dataset_info import read_dataset
from hlrp.errors import UserError
from hlrp.laq import LAQModule
from hlrp.laq.grounding import ActionHead, grounded
from trainers.lightning.models import build_datamodule


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "grounded", episodes=5, length=12, size=32)


def make_run(root: Path, data: dict[str, Any] | None = None, eval_split: float = 0.0, **model: Any) -> LightningRun:
    return LightningRun.model_validate(
        {
            "trainer_type": "lightning",
            "trainer": {"steps": 4, "batch_size": 8, "eval_split": eval_split, "device": "cpu"},
            "model": {"kind": "laq", "preset": "tiny", "image_size": 24, **model},
            "data": {"cache": "ram", "offset_seconds": 0.2} | (data or {"root": root}),
        }
    )


def batches(run: LightningRun) -> tuple[Any, list[dict[str, torch.Tensor]]]:
    data: Any = build_datamodule(run, lambda _: None)
    data.setup()
    sampler = data.train_sampler()
    return data, [data.train_windows.__getitems__(positions) for positions in sampler]


def test_labelled_episodes_give_their_share_and_only_theirs_have_actions(root: Path) -> None:
    _, found = batches(make_run(root, labelled_episodes=[1], labelled_share=0.5))
    episodes = torch.cat([batch["episode_index"] for batch in found])
    known = torch.cat([batch["has_action"] for batch in found])
    assert torch.equal(known, episodes == 1)
    assert float(known.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert set(episodes.tolist()) == {0, 1, 2, 3, 4}


def test_the_target_is_the_sum_of_the_recorded_actions_standardised_by_labelled_episodes(root: Path) -> None:
    run = make_run(root, labelled_episodes=[1, 3])
    data, found = batches(run)
    actions = read_column(read_dataset(None, root), "action")
    sums = np.concatenate([[actions[e * 12 + t : e * 12 + t + 2].sum(0) for t in range(10)] for e in (1, 3)])
    taken = data.train_windows.action_sums()
    assert np.allclose(np.sort(taken, 0), np.sort(sums, 0), atol=1e-5)
    head = ActionHead(8, 3)
    head.standardise_by(torch.from_numpy(taken))
    assert np.allclose(head.mean, sums.mean(0), atol=1e-5)
    assert np.allclose(head.scale, sums.std(0), atol=1e-5)
    batch = found[0]
    known = batch["valid"] & batch["has_action"][:, None]
    with torch.no_grad():
        head.project.weight.zero_()
        head.project.bias.copy_(torch.tensor([0.5, 0.0, -1.0]))
        loss = head.loss(torch.zeros(8, 1, 2, 4), batch["action_sum"], known)
    wanted = (batch["action_sum"][known].numpy() - sums.mean(0)) / sums.std(0)
    assert float(loss) == pytest.approx(float(((wanted - [0.5, 0.0, -1.0]) ** 2).mean()), rel=1e-4)


def test_actions_of_other_episodes_and_nan_reach_no_gradient(root: Path) -> None:
    run = make_run(root, labelled_episodes=[1], action_weight=1.0)
    data, found = batches(run)
    module = LAQModule(run, data)
    batch = next(b for b in found if 1 < int(b["has_action"].sum()) < 8)

    def gradients(sums: torch.Tensor) -> list[torch.Tensor]:
        module.zero_grad()
        out = module.laq(batch["frames"], batch["valid"])
        loss = module._action_loss(out, {**batch, "action_sum": sums})
        loss.backward()
        named = {**dict(module.laq.encoder.named_parameters()), **dict(module.heads.named_parameters())}
        return [p.grad.clone() for p in named.values() if p.grad is not None]

    whole = gradients(batch["action_sum"])
    spoilt = torch.where(batch["has_action"][:, None, None], batch["action_sum"], torch.nan)
    assert len(whole) > 10
    assert any(float(g.abs().sum()) > 0 for g in whole)
    assert all(torch.equal(a, b) for a, b in zip(whole, gradients(spoilt), strict=True))
    one = int(batch["has_action"].nonzero()[0])
    lost = batch["action_sum"].clone()
    lost[one] = torch.nan
    assert all(bool(g.isfinite().all()) for g in gradients(lost))


def test_dimensions_that_never_vary_count_nothing() -> None:
    head = ActionHead(4, 2)
    head.standardise_by(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    with torch.no_grad():
        head.project.weight.zero_()
        head.project.bias.zero_()
        loss = head.loss(torch.zeros(1, 1, 1, 4), torch.tensor([[[3.0, 900.0]]]), torch.ones(1, 1, dtype=torch.bool))
    assert float(loss) == pytest.approx(0.5)  # ((3 - 2) / 1) ** 2 over two dimensions


def test_what_cannot_be_grounded_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="labelled episode 4 of grounded is not trained on"):
        build_datamodule(make_run(root, eval_split=0.3, labelled_episodes=[0, 4]), lambda _: None)
    with pytest.raises(UserError, match=r"episodes \[9\] do not exist"):
        build_datamodule(make_run(root, labelled_episodes=[9]), lambda _: None)
    sources = {"sources": [{"root": root, "labelled_episodes": [0]}, {"root": root}]}
    with pytest.raises(UserError, match=r"which of data\.sources"):
        grounded(make_run(root, sources, labelled_episodes=[1]))
    assert grounded(make_run(root, sources))
    assert not grounded(make_run(root))
    idle = {"filter": {"idle": True}}
    for data, labelled in ((idle, [0]), (sources | idle, None)):
        with pytest.raises(UserError, match="of which those of unlabelled episodes are to stay unknown"):
            grounded(make_run(root, data, labelled_episodes=labelled))
    assert not grounded(make_run(root, idle))
    silent = make_dataset(tmp_path / "silent", episodes=1, length=8, size=32, action=False)
    with pytest.raises(UserError, match="has no actions"):
        build_datamodule(make_run(silent, labelled_episodes=[0]), lambda _: None)


def test_sources_without_labels_are_video_alone(root: Path) -> None:
    sources = {"sources": [{"root": root, "labelled_episodes": [2]}, {"root": root}]}
    data, found = batches(make_run(root, sources, labelled_share=0.5))
    assert [s.labelled_episodes for s in data.train_sources] == [[2], [2], []]
    source = torch.cat([b["source"] for b in found])
    known = torch.cat([b["has_action"] for b in found])
    assert torch.equal(known, source == 0)
    assert float((source == 2).float().mean()) == pytest.approx(0.5, abs=0.05)
