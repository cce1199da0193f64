"""The commands of `docs/sources.md`, from videos to one policy, as they stand there but for their length."""

import re
import shlex
from pathlib import Path

import av
import numpy as np
import pytest
from command import hlrp_in_turn, instead
from make_dataset import make_dataset

from hlrp.runs import RunDirectory

ROOT = Path(__file__).parents[2]
SHORT = {
    "lightning/laq_metaworld": ["--steps", "2", "--batch-size", "4", "model.image_size=24"],
    "lightning/mixture": ["--steps", "3", "--batch-size", "4", "trainer.log_freq=1", "trainer.save_freq=3"],
}


def _commands(text: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("hlrp ")]


def _film(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 10)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        for i in range(20):
            image = np.full((128, 128, 3), 40, np.uint8)
            image[:, 4 * i : 4 * i + 16] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands ran; what `hlrp collect` would record is made by LeRobot's writer."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "VIDEOS").mkdir()
    for number in range(3):
        _film(folder / "VIDEOS" / f"clip_{number}.mp4")
    page = (ROOT / "docs" / "sources.md").read_text(encoding="utf8")
    commands, wanted = _commands(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)[0]), []
    for command in commands:
        if command[0] == "collect":
            # One of them as it was recorded before cameras had names.
            camera = "observation.image" if command[-1].endswith("play") else "observation.images.corner2"
            shape = {"episodes": 3, "length": 20, "size": 96, "action_dim": 4, "state_dim": 4}
            make_dataset(folder / command[-1], camera=camera, **shape)
        elif command[0] != "eval":  # a simulator's; its environment is known by what `hlrp collect` writes
            wanted.append(instead(command, SHORT.get(command[2], [])))
    assert [command[0] for command in wanted] == ["import-video", "train", *["precompute-latents"] * 3, "train"]
    for done in hlrp_in_turn(wanted, cwd=folder):
        assert done.code == 0, done.err
    return folder


def test_the_story_ends_in_a_policy_of_three_sources(folder: Path) -> None:
    run = RunDirectory.open(folder / "outputs" / "mixture")
    assert run.manifest.status == "finished"
    assert [Path(str(s.root)).name for s in run.manifest.dataset.sources] == ["phone", "play", "robot"]
    rows = [row for row in run.metrics() if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    # Half of a batch of 4 is the robot's, to within a sample; codes are missing at the ends of episodes alone.
    assert all(abs(row["action_labelled"] - 0.5) <= 0.25 and row["latent_labelled"] >= 0.5 for row in rows)


def test_the_shipped_file_says_the_same_commands() -> None:
    text = (ROOT / "configs" / "lightning" / "mixture.yaml").read_text(encoding="utf8")
    page = (ROOT / "docs" / "sources.md").read_text(encoding="utf8")
    written = "\n".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#   hlrp"))
    assert _commands(written) == _commands(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)[0])
