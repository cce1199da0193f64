"""What cannot be had with streaming is refused by its name before the run, by a dry run too."""

import json
import shutil
from pathlib import Path

import pytest
from test_run_data import _config, _dry_run, _laq

from hlrp.errors import UserError
from trainers.streaming_checks import refuse_unstreamable

STREAMING = ("data.streaming=true", "data.offset_seconds=0.2")


def test_a_run_that_streams_is_accepted(toy_root: Path) -> None:
    assert "2 episodes" in _dry_run(_laq(toy_root, *STREAMING))
    assert "2 episodes" in _dry_run(_laq(toy_root, *STREAMING, "data.cache=disk"))


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        (["data.cache=ram"], "data.cache"),
        (["data.filter.motion=0.01"], "data.filter"),
        (["trainer.eval_split=0.5"], "trainer.eval_split"),
        (["model.labelled_episodes=[0]"], "model.labelled_episodes"),
    ],
)
def test_what_needs_other_files_is_refused(toy_root: Path, asked: list[str], key: str) -> None:
    with pytest.raises(UserError, match=f"{key} cannot be had with data.streaming: "):
        _dry_run(_laq(toy_root, *STREAMING, *asked))
    _dry_run(_laq(toy_root, "data.offset_seconds=0.2", *asked))


def test_mixtures_pictures_and_other_models_are_refused(toy_root: Path, tmp_path: Path) -> None:
    mixture = _laq(toy_root, *STREAMING)
    data = mixture.data.model_copy(update={"root": None, "sources": [{"root": toy_root}]})
    with pytest.raises(UserError, match=r"data\.sources cannot be had"):
        refuse_unstreamable(mixture.model_copy(update={"data": data}), [])
    pictures = Path(shutil.copytree(toy_root, tmp_path / "pictures"))
    described = json.loads((pictures / "meta/info.json").read_text())
    described["features"]["observation.image"]["dtype"] = "image"
    (pictures / "meta/info.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"observation\.image of pictures is kept as pictures"):
        _dry_run(_laq(pictures, *STREAMING))
    for trainer in ("lerobot", "lightning"):
        with pytest.raises(UserError, match=r"data\.streaming has no effect .* trains a policy"):
            _dry_run(_config(trainer, toy_root, "data.streaming=true"))
    with pytest.raises(UserError, match=r"data\.streaming_files has no effect without data\.streaming"):
        _dry_run(_laq(toy_root, "data.offset_seconds=0.2", "data.streaming_files=3"))
