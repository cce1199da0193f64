"""`verify_table` finds what is wrong with a table of latents."""

import pytest
import torch
from laq_toys import EPISODES, LENGTH

from hlrp.data import read_dataset
from hlrp.laq import LAQ, LAQConfig
from hlrp.latents import LatentTable
from hlrp.latents.labelling import LabelRequest, LAQEncoder, label
from hlrp.latents.verify import verify_table


@pytest.fixture
def table(root, small, tmp_path):
    laq = small(offset_seconds=0.3)
    laq.save(tmp_path / "laq", cameras=["observation.image"])
    manifest = LAQ.from_checkpoint(tmp_path / "laq").manifest
    request = LabelRequest(
        read_dataset(None, root), None, tmp_path / "table", laq.config, manifest.weights_sha256, shard_frames=30
    )
    label(request, LAQEncoder(laq))
    return request.output


def test_a_good_table(table, root):
    found = verify_table(table, root, table.parent / "laq", sample=40)
    assert found.ok and (found.rows, found.shards) == (EPISODES * LENGTH, 3)
    assert found.sampled > 20 and found.different == 0


@pytest.mark.parametrize("damage", ["flip", "missing", "swap", "unfinished"])
def test_damage(table, root, damage):
    shard, other = table / "shard-00001.safetensors", table / "shard-00000.safetensors"
    if damage == "flip":
        data = bytearray(shard.read_bytes())
        data[-100] ^= 1
        shard.write_bytes(data)
    elif damage == "missing":
        shard.unlink()
    elif damage == "swap":
        shard.write_bytes(other.read_bytes())
    else:
        (table / "manifest.json").unlink()
    found = verify_table(table, root)
    assert not found.ok
    assert ("not finished" if damage == "unfinished" else "shard-00001") in found.problems[0]


def test_another_quantizer_or_wrong_codes(table, root, small, tmp_path):
    small(offset_seconds=0.3).save(tmp_path / "other")
    assert "quantizer" in verify_table(table, root, tmp_path / "other").problems[0]
    # The same weights said to be others' work: only encoding again can tell.
    torch.manual_seed(9)
    wrong = tmp_path / "wrong"
    info = read_dataset(None, root)
    sha256 = LatentTable.open(table).identity.laq_sha256
    label(
        LabelRequest(info, None, wrong, LAQConfig(**small(offset_seconds=0.3).config.model_dump()), sha256),
        LAQEncoder(small(offset_seconds=0.3)),
    )
    assert verify_table(wrong, root).ok
    found = verify_table(wrong, root, tmp_path / "laq")
    assert not found.ok and "came out differently" in found.problems[0] and found.different > 0.1
