"""`hlrp fit-actions` as a user runs it: labelling with a quantizer, fitting, suggesting, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import assert_user_error, hlrp, hlrp_in_turn
from make_dataset import make_dataset
from make_labels import make_quantizer, make_table

from hlrp.data import read_dataset
from hlrp.errors import UserError
from hlrp.latents import LatentTable
from hlrp.latents.actions import ActionDecoder
from hlrp_cli.latent_tables import vectors_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes of a moving square, of two tasks."""
    return make_dataset(tmp_path_factory.mktemp("fit") / "squares", episodes=4, tasks=("left", "right"))


@pytest.fixture(scope="module")
def laq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_quantizer(tmp_path_factory.mktemp("fit_laq") / "laq")


@pytest.fixture(scope="module")
def fitted(data: Path, laq: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A decoder fitted with a quantizer, the cache that its latents are in, and what was printed."""
    folder = tmp_path_factory.mktemp("fitted")
    env = {"HLRP_CACHE": str(folder / "cache")}
    command = ["fit-actions", "--laq", laq, "--dataset-root", data, "--episodes", "0-1,3", "--device", "cpu"]
    done = hlrp(*command, "--output", folder / "decoder", env=env)
    assert done.code == 0, done.err
    assert "labelling squares: 96/96 frames" in done.err
    return folder / "decoder", folder / "cache", done.out


def test_a_decoder_is_fitted_and_decodes(fitted: tuple[Path, Path, str], data: Path) -> None:
    folder, cache, out = fitted
    for text in ("action_0", "no motion", "replay", "left", "right", f"decoder {folder}"):
        assert text in out
    decoder = ActionDecoder.load(folder)
    assert decoder.manifest.episodes == [0, 1, 3]
    assert decoder.manifest.dataset == "squares"
    for dimension in decoder.manifest.below_floor:
        assert dimension.name in out.split("not to be trusted")[1]
    (table,) = (cache / "latents").iterdir()
    found = decoder.episode(LatentTable.open(table), read_dataset(None, data), 2)
    assert found.actions.shape == (24, 3)
    assert found.known.all()
    assert np.isfinite(found.actions).all()


def test_the_latents_are_made_once_and_a_table_gives_the_same(
    fitted: tuple[Path, Path, str], data: Path, laq: Path, tmp_path: Path
) -> None:
    folder, cache, _ = fitted
    (table,) = (cache / "latents").iterdir()
    stamps = [path.stat().st_mtime_ns for path in sorted(table.iterdir())]
    common = ["fit-actions", "--dataset-root", data, "--json"]
    done = hlrp_in_turn(
        [
            [*common, "--latents", table, "--episodes", "0,1,3", "--output", tmp_path / "again"],
            [*common, "--latents", table, "--suggest", "2", "--episodes", "0"],
        ]
    )
    assert [d.code for d in done] == [0, 0], done
    assert [path.stat().st_mtime_ns for path in sorted(table.iterdir())] == stamps
    said, suggested = (json.loads(d.out) for d in done)
    assert said["r2"] == pytest.approx(ActionDecoder.load(folder).manifest.r2)
    again = ActionDecoder.load(tmp_path / "again").manifest
    assert again.dimensions == ActionDecoder.load(folder).manifest.dimensions
    assert suggested["labelled"] == [0]
    # Episode 0 is of the task "left": one of the other task comes first.
    assert suggested["episodes"][0] in (1, 3)
    assert 0 not in suggested["episodes"]


def test_mistakes_are_one_message(data: Path, laq: Path, fitted: tuple[Path, Path, str], tmp_path: Path) -> None:
    folder, cache, _ = fitted
    (table,) = (cache / "latents").iterdir()
    codes_only = make_table(data, laq, tmp_path / "codes")
    new = tmp_path / "new"
    usual = ["fit-actions", "--dataset-root", data, "--latents", table]
    refused = {
        ("--output", new): "no episode is labelled",
        ("--episodes", "0,9", "--output", new): "episodes [9] do not exist",
        ("--episodes", "zero", "--output", new): "write 0-9,12",
        ("--episodes", "0"): "nothing says where the decoder is to go",
        ("--episodes", "0", "--output", folder): "is there already",
        ("--episodes", "0", "--output", new, "--seed", "1"): "--seed has no effect without --kind ensemble",
        ("--episodes", "0", "--output", new, "--device", "cpu"): "--device has no effect",
        ("--episodes", "0", "--output", new, "--floor", "nan"): "an R2 of nan cannot be asked for",
        ("--episodes", "0", "--output", new, "--camera", "x"): "--camera has no effect without --laq",
        ("--suggest", "1", "--output", new): "--suggest and --output exclude each other",
        ("--suggest", "5"): "5 episodes cannot be suggested",
        ("--episodes", "0", "--output", new, "--laq", laq): "exclude each other",
    }
    commands = [[*usual, *more] for more in refused]
    commands.append(["fit-actions", "--dataset-root", data, "--episodes", "0", "--output", new])
    commands.append(
        ["fit-actions", "--dataset-root", data, "--latents", codes_only, "--episodes", "0", "--output", new]
    )
    messages = [*refused.values(), "nothing says where the latents are from", "no continuous latents"]
    for done, message in zip(hlrp_in_turn(commands), messages, strict=True):
        assert_user_error(done, message)
    assert not new.exists()


def test_a_cache_that_cannot_be_written_is_named(data: Path, laq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HLRP_CACHE", "/proc/none")
    with pytest.raises(UserError, match=r"cannot be kept in the cache: (.|\n)*/proc/none/latents(.|\n)*set HLRP_CACHE"):
        vectors_of(laq, read_dataset(None, data), None, "cpu")
