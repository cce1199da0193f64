"""Actions of a dataset with pseudo-labels count by their confidence: looked up for every action of a chunk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_toys import gradients, same
from lerobot.policies.factory import make_pre_post_processors
from test_labels_step import LATENT, batch_of, build, config_of

from hlrp.data import read_dataset
from hlrp.data.columns import ACTION_CONFIDENCE, ACTION_SOURCE
from hlrp.data.linked_copy import column_of, rewrite_json, rewrite_table, with_columns
from hlrp.errors import UserError
from lerobot_policy_felix_bundle.policies.common.action_weights import JoinedWeights

DIRECT, WEIGHT = "hlrp_action_expert_direct", "hlrp.action_weight"
INDEX = [3, 17, 39, 79]
"""Of episodes of 20 frames: the second and the third chunk of 6 reach past an episode's end, the last the data's."""


def weigh(source: Path, root: Path, confidence: np.ndarray, kind: np.ndarray) -> Path:
    """A copy of the dataset with these columns, confidence ``[n, A]`` and source ``[n]``."""
    import shutil

    shutil.copytree(source, root)
    shape = [confidence.shape[1]]

    def declared(said):
        columns = {ACTION_SOURCE: ("int64", [1]), ACTION_CONFIDENCE: ("float32", shape)}
        return said | {
            "features": said["features"]
            | {name: {"dtype": kind, "shape": size, "names": None} for name, (kind, size) in columns.items()}
        }

    def filled(rows):
        index = rows.column("index").to_numpy()
        columns = {ACTION_SOURCE: column_of(kind[index, None]), ACTION_CONFIDENCE: column_of(confidence[index])}
        return with_columns(rows, columns)

    rewrite_json(source / "meta/info.json", root / "meta/info.json", declared)
    for path in read_dataset(None, source).tables:
        rewrite_table(path, root / path.relative_to(source), filled)
    return root


@pytest.fixture(scope="module")
def columns():
    """Episodes 0 and 2 recorded, 1 and 3 predicted; of frame 79 nothing is known. Confidence says which frame it is."""
    frames = np.arange(80)
    kind = ((frames // 20) % 2).astype(np.int64)
    kind[79] = 2
    confidence = ((frames[:, None] + [0.0, 0.25, 0.5]) / 100).astype(np.float32)
    confidence[79] = 0
    return confidence, kind


@pytest.fixture(scope="module")
def weighed(squares, columns, tmp_path_factory):
    return weigh(squares, tmp_path_factory.mktemp("weighed") / "squares", *columns)


def expected(columns, index, size=6):
    confidence, kind = columns
    weights = np.where(kind[:, None] == 0, 1, confidence)
    rows = [[min(i + h, i // 20 * 20 + 19) for h in range(size)] for i in index]
    return torch.from_numpy(weights[np.array(rows)].astype(np.float32))


def test_a_chunk_has_the_confidence_of_its_frames(weighed, columns):
    policy, before, _, dataset = build(config_of(DIRECT), weighed)
    assert set(policy.config.output_features) == {"action"} and set(policy.config.input_features) == {
        "observation.image",
        "observation.state",
    }
    batch = before(batch_of(dataset, INDEX))
    assert batch[WEIGHT].dtype == torch.float32
    assert torch.equal(batch[WEIGHT], expected(columns, INDEX))
    # Once is enough: a policy believes its own preprocessor.
    marked = batch | {WEIGHT: batch[WEIGHT] / 2}
    assert torch.equal(policy._labels.label(marked)[WEIGHT], marked[WEIGHT])
    # What a step past the end repeats is not trained on, whatever it weighs.
    assert batch["action_is_pad"].any(1).tolist() == [False, True, True, True]


def test_the_loss_is_weighted_and_can_do_without(weighed, squares):
    policy, before, _, dataset = build(config_of(DIRECT), weighed)
    batch = before(batch_of(dataset, INDEX))
    plain, unweighed, _, _ = build(config_of(DIRECT, use_action_confidence=False), weighed)
    assert WEIGHT not in unweighed(batch_of(dataset, INDEX)) and plain.config.confidence_dataset is None
    torch.manual_seed(5)
    losses = policy.terms(batch)["action"].losses.detach()
    torch.manual_seed(5)
    loss, logged = policy(batch)
    weights = torch.where(batch["action_is_pad"][..., None], 0, batch[WEIGHT])
    assert loss.item() == pytest.approx(float((losses * weights).sum() / weights.sum()), rel=1e-5)
    assert logged["action_labelled"] == pytest.approx(0.75)  # of the last frame nothing is known
    # Not asked for, and in a dataset without the columns: the same, bit for bit.
    other, same_as_ever, _, bare = build(config_of(DIRECT), squares)
    reference = gradients(other, same_as_ever(batch_of(bare, INDEX)))
    assert same(reference, gradients(plain, unweighed(batch_of(dataset, INDEX))))
    assert not same(reference, gradients(policy, batch))
    assert WEIGHT not in same_as_ever(batch_of(bare, INDEX))


def test_what_nothing_is_known_of_changes_no_gradient(weighed):
    policy, before, _, dataset = build(config_of("hlrp_vla_direct", **codes()), weighed)
    batch = before(batch_of(dataset, [78, 79]))
    other = dict(batch) | {"action": batch["action"].clone()}
    other["action"][0, 1] = 9.0
    assert same(gradients(policy, batch), gradients(policy, other))
    other["action"][0, 0] = 9.0
    assert not same(gradients(policy, batch), gradients(policy, other))


def codes():
    """What codes mean, for a policy that is trained without any."""
    return {"codebook_size": 8, "code_seq_len": 2, "num_frames": 2, "offset_seconds": 0.2, "laq_sha256": "a" * 64}


def test_beside_codes_of_a_table(squares, table2, columns, weighed, tmp_path):
    from hlrp.latents import LatentTable
    from hlrp.latents.column import write_column

    write_column(LatentTable.open(table2), read_dataset(None, squares), tmp_path / "codes")
    root = weigh(tmp_path / "codes", tmp_path / "both", *columns)
    _, before, _, dataset = build(config_of(LATENT, latent_source="precomputed"), root)
    batch = before(batch_of(dataset, INDEX))
    assert torch.equal(batch[WEIGHT], expected(columns, INDEX))
    assert torch.equal(batch["hlrp.codes"], LatentTable.open(table2).codes(INDEX)[0].flatten(1))


def test_a_saved_preprocessor_weighs_again_and_another_datasets_is_not_believed(weighed, squares, columns, tmp_path):
    policy, before, after, dataset = build(config_of(DIRECT), weighed)
    for part in (policy, before, after):
        part.save_pretrained(tmp_path)
    loaded, _ = make_pre_post_processors(policy.config, pretrained_path=str(tmp_path))
    raw = batch_of(dataset, INDEX)
    assert torch.equal(loaded(dict(raw))[WEIGHT], expected(columns, INDEX))
    # Fine-tuned on a dataset without confidence: LeRobot restores the preprocessor, which still weighs by the old one.
    other, _, _, bare = build(config_of(DIRECT), squares)
    assert WEIGHT not in other._labels.label(loaded(batch_of(bare, INDEX)))
    # And the other way round; and where the old dataset is gone.
    halved = weigh(squares, tmp_path / "halved", columns[0] / 2, columns[1])
    new, _, _, more = build(config_of(DIRECT), halved)
    wanted = expected((columns[0] / 2, columns[1]), INDEX)
    assert torch.equal(new._labels.label(loaded(batch_of(more, INDEX)))[WEIGHT], wanted)
    gone, _ = make_pre_post_processors(
        policy.config,
        pretrained_path=str(tmp_path),
        preprocessor_overrides={"hlrp_latent_labels": {"confidence": "/no/such/dataset"}},
    )
    assert torch.equal(new._labels.label(gone(batch_of(more, INDEX)))[WEIGHT], wanted)
    seen = {"observation.image": raw["observation.image"][0], "observation.state": raw["observation.state"][0]}
    assert not any(key.startswith("hlrp.") for key in gone(seen | {"task": "push"}))


def test_columns_that_are_wrong_are_refused(squares, columns, tmp_path):
    confidence, kind = columns
    root = weigh(squares, tmp_path / "above", confidence + 1, kind)
    policy, before, _, dataset = build(config_of(DIRECT), root)
    with pytest.raises(UserError, match="outside of 0 to 1"):
        policy(before(batch_of(dataset, [21])))
    info = root / "meta/info.json"
    said = json.loads(info.read_text())
    del said["features"][ACTION_SOURCE]
    info.write_text(json.dumps(said))
    with pytest.raises(UserError, match=ACTION_SOURCE):
        policy._labels.label({"index": torch.tensor([0])})


def test_of_a_mixture_each_dataset_has_its_own_weights(squares, weighed, columns):
    """Frames are numbered through both; the second's actions stand behind two numbers of another robot."""
    plain = {"root": str(squares), "frames": 80, "confidence": False, "action": [0, 2]}
    pseudo = {"root": str(weighed), "frames": 80, "confidence": True, "action": [2, 5]}
    found = JoinedWeights([plain, pseudo]).chunks(torch.tensor([79, *(80 + i for i in INDEX)]), 6)
    assert found.shape == (5, 6, 5)
    assert (found[0] == 1).all() and (found[1:, :, :2] == 1).all()
    assert torch.equal(found[1:, :, 2:], expected(columns, INDEX))
