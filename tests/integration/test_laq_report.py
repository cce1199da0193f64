"""`hlrp laq-report` as a user runs it: after a short training, on the installed command."""

import json
import re
from pathlib import Path

import pytest
from command import assert_user_error, hlrp
from make_dataset import make_dataset

from hlrp.errors import UserError
from hlrp.laq import read_manifest
from hlrp.report.page import make_page

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 short episodes with actions."""
    return make_dataset(tmp_path_factory.mktemp("data") / "squares", episodes=8, length=16)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of training with half of the episodes held out."""
    out = tmp_path_factory.mktemp("laq") / "run"
    shape = ["model.preset=tiny", "model.image_size=24", "model.codebook_size=8", "model.code_seq_len=2"]
    keys = ["trainer.eval_split=0.5", "data.num_workers=0", "data.offset_seconds=0.1"]
    # A camera that the dataset does not have is named before anything is decoded.
    wrong = hlrp("train", "--model", "laq", "--dataset-root", data, *shape, *keys, "data.cameras=[observation.imgae]")
    assert_user_error(wrong, "observation.imgae", "observation.image")
    args = ["train", "--model", "laq", "--dataset-root", data, "--device", "cpu", "--steps", "10", "--batch-size", "8"]
    done = hlrp(*args, "--output-dir", out, *shape, *keys, "data.cameras=[observation.image]", env=ONE_THREAD)
    assert done.code == 0, done.err
    return out


def test_the_card_of_a_run(run: Path, data: Path) -> None:
    done = hlrp("laq-report", run, "--dataset-root", data, "--device", "cpu", "--windows", "50", env=ONE_THREAD)
    assert done.code == 0, done.err
    card = json.loads((run / "laq-report" / "report.json").read_text())
    (source,) = card["sources"]
    assert (source["episodes"], source["unseen"]) == ([4, 5, 6, 7], True)
    assert (card["run"], card["manifest"]["step"]) == (str(run), 10)
    assert card["manifest"]["weights_sha256"] == read_manifest(run).weights_sha256
    assert source["laq"]["probes"]["codes"]["episodes"] == 4
    for check in card["verdict"]:
        assert check["text"] in done.out
    page = run / "laq-report" / "report.html"
    assert f"page        {page}" in done.out
    assert card["manifest"]["weights_sha256"] in page.read_text()


def test_the_run_page_holds_the_card_with_its_pictures(run: Path) -> None:
    card, page = ((folder / "report.html").read_text() for folder in (run / "laq-report", make_page(run).parent))
    pictures = re.findall(r'src="(data:image/png[^"]+)"', card)
    assert len(pictures) > 20 and re.findall(r'src="(data:image/png[^"]+)"', page) == pictures
    for text in re.findall(r"<h[23][^>]*>([^<]+)<", card):
        assert f">{text}<" in page
    for text in ("SHA-256 of the weights", "learning rate"):
        assert text in page


def test_json_alone_on_standard_output_and_the_runs_own_dataset(run: Path, tmp_path: Path) -> None:
    args = ["laq-report", run / "checkpoints" / "000010", "--output", tmp_path / "card", "--json", "--device", "cpu"]
    done = hlrp(*args, "--windows", "20", env=ONE_THREAD)
    assert done.code == 0, done.err
    assert done.json() == json.loads((tmp_path / "card" / "report.json").read_text())
    assert done.json()["sources"][0]["episodes"] == [4, 5, 6, 7]


def test_mistakes_are_one_message_and_leave_nothing(run: Path, data: Path, tmp_path: Path) -> None:
    from hlrp_cli.main import app

    out = tmp_path / "card"
    args = ["laq-report", run, "--dataset-root", data, "--output", out]
    assert_user_error(hlrp(*args, "--camera", "observation.imgae"), "observation.imgae", "'observation.image'")
    # The rest in this process: each command of its own costs seconds of imports.
    mistakes = {
        "holds no latent action quantizer": ["laq-report", tmp_path, "--output", out],
        "no dataset folder": ["laq-report", run, "--dataset-root", tmp_path / "none", "--output", out],
        "no device 'gpu'": [*args, "--device", "gpu"],
        "is a file, not a folder": ["laq-report", run, "--output", Path(__file__) / "card"],
    }
    for words, arguments in mistakes.items():
        with pytest.raises(UserError, match=words):
            app([str(a) for a in arguments], standalone_mode=False)
    assert not out.exists()
