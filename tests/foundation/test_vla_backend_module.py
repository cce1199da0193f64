"""Training: both sources of labels, what is trained, what is measured, adapters, continuous latents."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from foundation_toys import TASKS, make_run
from lightning.pytorch import Trainer
from make_dataset import make_dataset
from safetensors.torch import load_file

from hlrp.errors import UserError
from hlrp.foundation import FoundationDataModule, FoundationModule
from hlrp.foundation.backends.interfaces import FoundationBatch
from hlrp.foundation.metrics import CodeMeter, VectorMeter
from hlrp.foundation.validation import Validation
from hlrp.latents.sources import NoLabels

warnings.filterwarnings("ignore", module="lightning")


def make(run: Any) -> tuple[FoundationModule, FoundationDataModule]:
    torch.manual_seed(0)
    data = FoundationDataModule(run, max_val_windows=24)
    return FoundationModule(run, data), data


def fit(module: FoundationModule, data: FoundationDataModule, steps: int, **options: Any) -> dict[str, float]:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        val_check_interval=steps,
        check_val_every_n_epoch=None,
        **quiet,
        **options,
    )
    trainer.fit(module, datamodule=data)
    return {k: float(v) for k, v in trainer.callback_metrics.items()}


def share(right: torch.Tensor) -> float:
    return float(right.double().mean())


def held_out(
    module: FoundationModule, data: FoundationDataModule, predict: Callable[[FoundationBatch], torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Of the held-out samples: codes, where they are predicted rightly, the same with the other task, predictions."""
    rows = []
    with torch.no_grad():
        for batch in data.val_dataloader():
            inputs = module.labelled(batch)
            assert bool(inputs.target_mask.all())
            other = replace(inputs, instruction=[TASKS[1 - TASKS.index(task)] for task in inputs.instruction])
            codes = [x if x.ndim == 2 else x.argmax(-1) for x in (predict(inputs), predict(other))]
            true = inputs.target_codes
            rows.append((true, codes[0] == true, codes[1] == true, codes[0]))
    return tuple(torch.cat(column) for column in zip(*rows, strict=True))


def first_loss(run: Any) -> float:
    module, data = make(run)
    with torch.no_grad():
        return float(module.backend.loss_from_batch(module.labelled(next(iter(data.train_dataloader())))).loss)


@pytest.mark.parametrize("backend", ["smol_latent_head", "qwen3vl_chat"])
@pytest.mark.parametrize("frames", [2, 3])
def test_both_sources_of_labels_give_the_same_first_loss(backend, frames, square_root, request):
    """The runs differ in one key of `latents`; what comes before the loss is equal, so the loss is."""
    table, laq = request.getfixturevalue(f"table{frames}"), request.getfixturevalue(f"laq{frames}")
    model = {"backend": backend}
    losses = [first_loss(make_run(square_root, x, model=model)) for x in ({"table": table}, {"laq": laq})]
    assert math.isfinite(losses[0]) and losses[0] > 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_the_accuracy_of_a_row_is_the_mean_over_its_batches(square_root, table2, monkeypatch):
    module, data = make(make_run(square_root, {"table": table2}, trainer={"steps": 5}))
    computed, shares = module.backend.loss_from_batch, []

    def kept(batch: FoundationBatch) -> Any:
        out = computed(batch)
        shares.append(share((out.logits.argmax(-1) == batch.target_codes)[batch.target_mask]))
        return out

    monkeypatch.setattr(module.backend, "loss_from_batch", kept)
    metrics = fit(module, data, 5, log_every_n_steps=5, limit_val_batches=0)
    assert len(shares) == 5 and len(set(shares)) > 1
    assert metrics["accuracy"] == pytest.approx(sum(shares) / 5)


def test_training_learns_what_both_the_picture_and_the_instruction_tell(square_root, table2):
    run = make_run(square_root, {"table": table2}, trainer={"steps": 30, "learning_rate": 2e-3})
    module, data = make(run)
    before = first_loss(run)
    metrics = fit(module, data, 30)
    assert metrics["val_loss"] < before
    module.eval()
    codes, right, misled, predicted = held_out(module, data, lambda batch: module.backend.loss_from_batch(batch).logits)
    assert codes.shape == (24, 2), "all of them have both labels"
    expected = {"val_accuracy": share(right), "val_sequence_accuracy": share(right.all(1))}
    expected |= {"val_shuffled_accuracy": share(misled), "val_shuffled_sequence_accuracy": share(misled.all(1))}
    train = data.labels.code_counts(data.train_samples.starts).argmax(1)
    expected["val_majority"] = share(codes == train)
    expected["val_gain"] = share(right) - share(codes == train)
    expected["val_gain_least"] = min(share(right[:, s]) - share(codes[:, s] == train[s]) for s in range(2))
    for s in range(2):
        use = torch.bincount(predicted[:, s], minlength=8).double() / len(predicted)
        expected[f"val_accuracy_{s}"] = share(right[:, s])
        expected[f"val_majority_{s}"] = share(codes[:, s] == train[s])
        expected[f"val_shuffled_accuracy_{s}"] = share(misled[:, s])
        expected[f"val_codes_predicted_{s}"] = float((use > 0).sum())
        expected[f"val_perplexity_{s}"] = float(torch.exp(-torch.xlogy(use, use).sum()))
    found = {name: value for name, value in metrics.items() if name.startswith("val_") and name != "val_loss"}
    assert found == pytest.approx(expected, abs=1e-6)


def test_counted_and_looked_up_majorities_agree(square_root, table2, laq2, tmp_path):
    """Online, the counts are those of the samples that were trained on; after whole epochs both are the same."""
    runs = [make_run(square_root, x, trainer={"steps": 12}) for x in ({"table": table2}, {"laq": laq2})]
    (known, _), (counted, data) = make(runs[0]), make(runs[1])
    assert known._known_counts is not None and counted._known_counts is None
    fit(counted, data, 12)
    assert torch.equal(counted._counts, known._known_counts)
    state: dict[str, Any] = {}
    counted.on_save_checkpoint(state)
    again, _ = make(runs[1])
    again.on_load_checkpoint(state)
    assert torch.equal(again._counts, counted._counts)


def test_the_majority_is_the_most_frequent_code_of_training(square_root, table2):
    module, _ = make(make_run(square_root, {"table": table2}))
    counts = torch.tensor([[0, 3, 1, 0, 0, 0, 0, 2], [9, 0, 0, 0, 0, 10, 0, 0]])
    module._known_counts = counts
    assert module._majority().tolist() == [1, 5]
    module._known_counts, module._counts = None, counts.flip(1)
    assert module._majority().tolist() == [6, 2]


def test_another_instruction_is_shown_for_the_shuffled_scores(square_root, table2):
    module, data = make(make_run(square_root, {"table": table2}))
    batch = module.labelled(next(data.spread(8)))
    tasks = ["pull", "push", "turn"]
    validation = Validation(module.backend, module.config, tasks, batches=1, device=torch.device("cpu"))
    asked = replace(batch, instruction=["turn", "pull", "unheard", "push", *["pull"] * (batch.batch_size - 4)])
    misled = validation._misled(asked)
    assert misled.instruction[:5] == ["pull", "push", "pull", "turn", "push"]
    assert misled.images is asked.images and misled.target_codes is asked.target_codes


def test_the_token_backend_is_judged_running_freely(square_root, table2):
    run = make_run(square_root, {"table": table2}, model={"backend": "qwen3vl_chat"}, trainer={"steps": 2})
    module, data = make(run)
    metrics = fit(module, data, 2)
    module.eval()
    backend = module.backend
    _, right, misled, _ = held_out(module, data, lambda batch: backend.loss_from_batch(batch).logits)
    _, free, _, _ = held_out(module, data, lambda batch: backend.latent_from_batch(batch.without_targets()).codes)
    assert metrics["val_accuracy"] == pytest.approx(share(right), abs=1e-6)
    assert metrics["val_shuffled_accuracy"] == pytest.approx(share(misled), abs=1e-6)
    assert metrics["val_free_accuracy"] == pytest.approx(share(free), abs=1e-6)
    assert metrics["val_free_sequence_accuracy"] == pytest.approx(share(free.all(1)), abs=1e-6)


@pytest.mark.parametrize("mode", ["vectors", "flow"])
def test_continuous_latents_are_standardised_and_measured(mode, square_root, table3, laq3):
    found = []
    for latents in ({"table": table3}, {"laq": laq3}):
        module, data = make(make_run(square_root, latents, model={"mode": mode}, trainer={"steps": 2}))
        metrics = fit(module, data, 2)
        assert "val_r2" in metrics and "val_r2_shuffled" in metrics
        found.append((module.vector_mean.clone(), module.vector_std.clone()))
        labels = torch.cat([module._labels.labels(b).vectors.flatten(0, 1) for b in data.spread(10_000)])
        mask = torch.cat([module._labels.labels(b).mask.flatten() for b in data.spread(10_000)])
        assert module.vector_mean == pytest.approx(labels[mask].mean(0), abs=1e-4)
        assert module.vector_std == pytest.approx(labels[mask].std(0, correction=0), rel=1e-2, abs=1e-4)
    assert torch.allclose(found[0][0], found[1][0], atol=1e-4)


def test_one_task_alone_has_no_other_instruction(laq2, tmp_path):
    root = make_dataset(tmp_path / "one", episodes=3, length=14, size=96)
    for mode, name in (("vectors", "val_r2"), ("codes", "val_accuracy")):
        metrics = fit(*make(make_run(root, {"laq": laq2}, model={"mode": mode}, trainer={"steps": 1})), 1)
        assert name in metrics
        assert not any("shuffled" in key for key in metrics)


def test_the_state_is_standardised_with_the_training_data(square_root, table2):
    module, data = make(make_run(square_root, {"table": table2}, model={"use_state": True}))
    assert module.config.state_dim == 2
    states = torch.cat([module.observation(b).state for b in data.spread(1000)])
    assert states.mean(0) == pytest.approx(torch.zeros(2), abs=1e-4)
    assert states.std(0, correction=0) == pytest.approx(torch.ones(2), rel=1e-3)


def test_parts_are_frozen_as_asked(square_root, table2, tmp_path):
    def trained(**model: Any) -> set[str]:
        module, _ = make(make_run(square_root, {"table": table2}, model=model))
        sets = {name: {p for m in module.backend.part(name) for p in m.parameters()} for name in PARTS}
        assert sum(map(len, sets.values())) == len(set(module.backend.parameters()))
        return {name for name, parameters in sets.items() if any(p.requires_grad for p in parameters)}

    parts = {"vision", "language", "head"}
    assert trained() == parts
    assert trained(train_vision=False) == {"language", "head"}
    assert trained(train_language=False, train_vision=False) == {"head"}
    from hlrp.foundation.backbones import make_tiny_backbone

    make_tiny_backbone(tmp_path / "named", "smol_latent_head", seed=1)
    assert trained(backbone=str(tmp_path / "named")) == {"language", "head"}
    module, _ = make(make_run(square_root, {"table": table2}, model={"backbone": str(tmp_path / "named")}))
    assert (module.learning_rate(), module.backbone.pretrained) == (2e-5, True)


PARTS = ("vision", "language", "head")


def test_adapters_train_and_are_merged_into_what_is_saved(square_root, table2, tmp_path):
    model = {"lora": {"rank": 2, "alpha": 4}, "train_vision": False}
    run = make_run(square_root, {"table": table2}, model=model, trainer={"steps": 3, "learning_rate": 1e-2})
    module, data = make(run)
    names = {n for n, p in module.backend.named_parameters() if p.requires_grad}
    assert any(".lora_A." in n for n in names) and any(n.startswith("head.") for n in names)
    language = {id(p) for m in module.backend.part("language") for p in m.parameters()}
    assert all(".lora_" in n for n, p in module.backend.named_parameters() if p.requires_grad and id(p) in language)
    base = next(n for n in module.backend.state_dict() if n.endswith("q_proj.base_layer.weight"))
    before = module.backend.state_dict()[base].clone()
    fit(module, data, 3)
    assert torch.equal(module.backend.state_dict()[base], before)
    module.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert not [n for n in stored if "lora" in n or "base_layer" in n]
    assert not torch.equal(stored[base.replace(".base_layer", "")], before)
    from hlrp.foundation import load_backend

    inputs = module.labelled(next(data.spread(8)))
    module.eval()
    with torch.no_grad():
        expected = module.backend.loss_from_batch(inputs).logits
        assert torch.allclose(load_backend(tmp_path)[0].loss_from_batch(inputs).logits, expected, atol=1e-4)
    with pytest.raises(UserError, match="q_porj"):
        make(make_run(square_root, {"table": table2}, model={"lora": {"targets": ["q_porj"]}}))


def test_half_precision_and_samples_without_labels(square_root, table2):
    module, data = make(make_run(square_root, {"table": table2}, trainer={"steps": 2}))
    assert math.isfinite(fit(module, data, 2, precision="bf16-mixed")["val_loss"])
    batch = next(data.spread(4))
    batch["target_mask"] = torch.zeros_like(batch["target_mask"])
    module.train()
    loss = module.backend.loss_from_batch(module.labelled(batch)).loss
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


def test_the_score_of_codes_by_hand():
    meter = CodeMeter(2, 3, torch.device("cpu"))
    predicted = torch.tensor([[0, 1], [0, 2], [1, 0], [2, 2]])
    codes = torch.tensor([[0, 1], [1, 2], [1, 1], [0, 0]])
    mask = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    meter.update(predicted[:2], codes[:2], mask[:2])
    meter.update(predicted[2:], codes[2:], mask[2:])
    scores = meter.compute(torch.tensor([1, 1]))
    assert scores.accuracy == [2 / 4, 2 / 3]
    assert scores.majority == [2 / 4, 2 / 3]
    assert scores.sequence_accuracy == 1 / 3
    assert scores.used == [3, 3]
    assert scores.perplexity == pytest.approx([math.exp(1.5 * math.log(2)), 3])
    empty = CodeMeter(2, 3, torch.device("cpu")).compute(torch.tensor([1, 1]))
    assert math.isnan(empty.mean_accuracy) and math.isnan(empty.sequence_accuracy)


def test_the_score_of_vectors_by_hand():
    meter = VectorMeter(torch.device("cpu"))
    true = torch.randn(40, 3, 5)
    mask = torch.rand(40, 3) > 0.3
    predicted = true + 0.1 * torch.randn_like(true)
    true[~mask] = math.nan
    meter.update(predicted[:10], true[:10], mask[:10])
    meter.update(predicted[10:], true[10:], mask[10:])
    kept = true[mask]
    expected = 1 - (predicted[mask] - kept).square().sum() / (kept - kept.mean()).square().sum()
    assert meter.compute() == pytest.approx(float(expected), abs=1e-5)


def test_without_labels_the_cost_of_labels_can_be_measured(square_root, table2):
    data = FoundationDataModule(make_run(square_root, {"table": table2}))
    none = FoundationDataModule(data.run, labels=NoLabels(data.labels.spec, data.labels.cameras))
    a, b = next(iter(data.train_dataloader())), next(iter(none.train_dataloader()))
    assert torch.equal(a["index"], b["index"]) and "target_codes" not in b
    assert none.labels.labels(b).mask.all()


def test_sample_pictures_are_left_beside_a_run_alone(square_root, table2, tmp_path):
    module, data = make(make_run(square_root, {"table": table2}, trainer={"steps": 1}))
    fit(module, data, 1, default_root_dir=tmp_path)
    assert not list(tmp_path.rglob("*.png"))
    (tmp_path / "run.json").write_text("{}")
    fit(module, data, 1, default_root_dir=tmp_path)
    from PIL import Image

    (path,) = Path(tmp_path).rglob("*.png")
    with Image.open(path) as picture:
        assert picture.size[0] > 4 * 192
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10
