"""Labels from a table, a column and a quantizer: the same labels, and refusals that name both sides."""

from typing import Any

import pytest
import torch
from foundation_toys import CAMERA, make_run, make_table
from make_dataset import make_dataset

from hlrp.data import read_dataset
from hlrp.errors import UserError
from hlrp.foundation import FoundationDataModule
from hlrp.laq.metrics import code_counts
from hlrp.latents import LatentTable
from hlrp.latents.column import LatentColumn, write_column
from hlrp.latents.sources import MASK_KEY, resolve_labels


def all_labels(run: Any) -> tuple[Any, Any]:
    """Labels and names of all training samples, in order."""
    data = FoundationDataModule(run)
    samples = data.train_samples
    batch = samples.__getitems__(list(range(len(samples))))
    return data.labels.labels(batch), samples.ids().tolist()


@pytest.mark.parametrize("frames", [2, 3])
def test_table_column_and_quantizer_give_the_same_labels(frames, square_root, request, tmp_path):
    table, laq = request.getfixturevalue(f"table{frames}"), request.getfixturevalue(f"laq{frames}")
    labelled = tmp_path / "labelled"
    write_column(LatentTable.open(table), read_dataset(None, square_root), labelled)
    runs = {
        "table": make_run(square_root, {"table": table}),
        "column": make_run(labelled, {"source": "precomputed"}),
        "online": make_run(square_root, {"laq": laq}),
    }
    found = {name: all_labels(run) for name, run in runs.items()}
    first, ids = found["table"]
    assert first.codes.shape == (len(ids), 2 * (frames - 1))
    assert len(first.codes.unique()) > 4
    for labels, names in found.values():
        assert names == ids
        assert torch.equal(labels.mask, first.mask)
        # Sums round differently in batches of another size; none of these codes lies that near to another one.
        assert torch.equal(labels.codes, first.codes)
    # Of three frames 2 apart, the last two samples of an episode that have a first pair have no second.
    assert (~first.mask).sum() == (0 if frames == 2 else 4 * 2 * 2)
    assert (first.codes[~first.mask] == 0).all()


def test_continuous_latents_agree(square_root, table3, laq3):
    runs = [make_run(square_root, x, model={"mode": "vectors"}) for x in ({"table": table3}, {"laq": laq3})]
    (table, _), (online, _) = (all_labels(run) for run in runs)
    assert table.vectors.shape == (len(table.mask), 4, 8)
    assert torch.allclose(table.vectors, online.vectors, atol=1e-5)
    assert table.vectors.abs().sum(-1)[table.mask].min() > 0
    assert (online.vectors[~online.mask] == 0).all()
    plain = make_run(square_root, {"table": table3})
    assert all_labels(plain)[0].vectors is None
    assert FoundationDataModule(plain).labels.spec.vector_dim is None


def test_half_precision_of_the_model_does_not_reach_the_quantizer(square_root, laq2):
    data = FoundationDataModule(make_run(square_root, {"laq": laq2}))
    batch = next(data.spread(40))
    plain = data.labels.labels(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(data.labels.labels(batch).codes, plain.codes)


def test_codes_are_counted_over_the_training_samples(square_root, table3):
    data = FoundationDataModule(make_run(square_root, {"table": table3}))
    labels, _ = all_labels(data.run)
    counts = data.labels.code_counts(data.train_samples.starts)
    assert counts.sum(1).tolist() == labels.mask.sum(0).tolist()
    for position in range(4):
        codes = labels.codes[:, position][labels.mask[:, position]]
        assert counts[position].tolist() == torch.bincount(codes, minlength=8).tolist()
    assert torch.equal(code_counts(labels.codes, 8, labels.mask), counts)


def test_what_does_not_belong_together_names_both_sides(square_root, table2, laq2, table3, tmp_path):
    other = make_dataset(tmp_path / "other", episodes=2, length=12, size=96)
    here, there = (read_dataset(None, root).fingerprint() for root in (square_root, other))

    def refused(run, *mentions):
        with pytest.raises(UserError) as error:
            FoundationDataModule(run)
        for mention in mentions:
            assert mention in str(error.value)

    refused(make_run(other, {"table": table2}), f"dataset: the table has {here}, asked for is {there}")
    refused(make_run(square_root, {"table": table2}, num_frames=3), "frames T of a window: the table has 2", "is 3")
    refused(make_run(square_root, {"table": table2}, offset_seconds=0.5), "offset in seconds: the table has 0.2", "0.5")
    refused(
        make_run(square_root, {"laq": laq2}, num_frames=3), "the quantizer has 2, the run asks for 3", "data.num_frames"
    )
    refused(make_run(square_root, {"laq": laq2}, offset_seconds=0.5), "the quantizer has 0.2, the run asks for 0.5")
    refused(make_run(square_root, {}), "latents.source is none", "--latents TABLE")
    refused(make_run(square_root, {"source": "precomputed"}), "no dataset of the run has labels")
    refused(make_run(square_root, {"table": tmp_path}), "no latent table")
    refused(make_run(square_root, {"table": table2}, cameras=["observation.wrist"]), CAMERA, "observation.wrist")
    sources = [{"root": str(square_root), "table": str(table2)}, {"root": str(square_root), "table": str(table3)}]
    sha2, sha3 = (LatentTable.open(t).identity.laq_sha256 for t in (table2, table3))
    refused(make_run(None, {}, sources=sources), sha2, sha3, "frames T of a window")


def test_a_table_without_vectors_and_a_column_say_how_to_get_them(square_root, laq2, tmp_path):
    table = make_table(square_root, laq2, tmp_path / "codes", vectors=False)
    info = read_dataset(None, square_root)
    with pytest.raises(UserError, match="--vectors"):
        resolve_labels(make_run(square_root, {"table": table}), [info], vectors=True)
    labelled = tmp_path / "labelled"
    write_column(LatentTable.open(table), info, labelled)
    with pytest.raises(UserError, match="no continuous latents"):
        resolve_labels(make_run(labelled, {"source": "precomputed"}), [read_dataset(None, labelled)], vectors=True)
    (labelled / "meta" / "hlrp_latents.json").unlink()
    with pytest.raises(UserError, match="says what its codes mean"):
        LatentColumn(read_dataset(None, labelled))


def test_a_source_without_labels_is_masked_in_a_mixture(square_root, table2, tmp_path):
    other = make_dataset(tmp_path / "other", episodes=3, length=12, size=96)
    sources = [{"root": str(other)}, {"root": str(square_root), "weight": 2.0}]
    data = FoundationDataModule(make_run(None, {"table": table2}, sources=sources))
    samples = data.train_samples
    batch = samples.__getitems__(list(range(len(samples))))
    assert batch[MASK_KEY].any(1).tolist() == (batch["source"] == 1).tolist()
    assert samples.weights == [1.0, 2.0]
    two = [{"root": str(square_root), "table": str(table2)}, {"root": str(square_root), "table": str(table2)}]
    labels, _ = all_labels(make_run(None, {}, sources=two))
    assert labels.mask.all()
