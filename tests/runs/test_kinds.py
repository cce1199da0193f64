"""A folder of another kind than wanted: what it holds is said, and what to type with it."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hlrp.data.dataset_info import read_dataset
from hlrp.errors import UserError
from hlrp.latents.table import LatentTable
from hlrp.runs import resolve_pretrained
from hlrp.runs.kinds import recognise

FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "a latent action quantizer": ("checkpoints/000020/pretrained_model/manifest.json", {"kind": "laq"}),
    "a foundation model": ("pretrained_model/manifest.json", {"kind": "foundation"}),
    "a latent table": ("manifest.json", {"kind": "latent_table", "identity": {}}),
    "a dataset": ("meta/info.json", {}),
    "a policy": ("pretrained_model/config.json", {"type": "act"}),
}
TYPED = {
    "a latent action quantizer": "hlrp precompute-latents --laq {0}",
    "a foundation model": "--init-from {0}",
    "a latent table": "--latents {0}",
    "a dataset": "--dataset-root {0}",
    "a policy": "hlrp eval {0}",
}


def _laq(path: Path) -> None:
    from hlrp.laq.checkpoint import find_model

    find_model(path)


def _foundation(path: Path) -> None:
    from hlrp.foundation.checkpoint import find_model

    find_model(path)


READERS: dict[str, Callable[[Path], Any]] = {
    "a policy": resolve_pretrained,
    "a latent action quantizer": _laq,
    "a foundation model": _foundation,
    "a latent table": LatentTable.open,
    "a dataset": lambda path: read_dataset(None, path),
}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for number, (kind, (name, content)) in enumerate(FILES.items()):
        made[kind] = tmp_path / f"folder {number}"
        (made[kind] / name).parent.mkdir(parents=True)
        (made[kind] / name).write_text(json.dumps(content))
    return made


@pytest.mark.parametrize("wanted", READERS)
def test_another_kind_of_folder_says_what_it_is_and_what_it_is_for(wanted: str, folders: dict[str, Path]) -> None:
    for kind, path in folders.items():
        assert recognise(path) == kind
        if kind == wanted:
            continue
        with pytest.raises(UserError) as refused:
            READERS[wanted](path)
        assert refused.value.what == f"{path} holds {kind}, not {wanted}"
        assert TYPED[kind].format(shlex.quote(str(path))) in str(refused.value)


def test_a_run_tells_by_its_manifest_before_it_has_a_checkpoint(tmp_path: Path) -> None:
    for trained, kind in {
        "laq": "a latent action quantizer",
        "foundation": "a foundation model",
        "act": "a policy",
    }.items():
        (tmp_path / "run.json").write_text(json.dumps({"policy": trained}))
        assert recognise(tmp_path) == kind
    (tmp_path / "run.json").write_text("[1]")
    assert recognise(tmp_path) is None


def test_a_quantizer_is_no_start_for_a_policy(folders: dict[str, Path], toy_root: Path) -> None:
    """By the command that does not say what is trained, and by one that does."""
    from hlrp_cli.main import command

    quantizer = folders["a latent action quantizer"]
    for named in ([], ["--policy", "act"], ["--policy", "act", "--trainer", "lightning"]):
        with pytest.raises(UserError, match="holds a latent action quantizer, not a policy"):
            command()(
                ["train", *named, "--init-from", str(quantizer), "--dataset-root", str(toy_root), "--device", "cpu"],
                standalone_mode=False,
            )
