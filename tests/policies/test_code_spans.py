"""Codes of datasets of several rates: the time that they span is the quantizer's, or it is said, or refused."""

import logging
import sys
from pathlib import Path
from typing import Any

import make_dataset as recording
import pytest
from make_labels import make_quantizer, make_table

sys.path.insert(0, str(Path(__file__).parent))
from mixtures import joined

from hlrp.config import load_config
from hlrp.data import read_dataset
from hlrp.data.data_module import FrameDataModule
from hlrp.data.episodes import window_offset
from hlrp.errors import UserError
from hlrp.latents import labelling
from hlrp.latents.joined import rows_of_sources
from hlrp.latents.sources import resolve_labels
from hlrp.latents.verify import verify_table
from trainers.policy_checks import check_policy_run

LATENT, TWO_FRAMES, ONE_FRAME = "hlrp_action_expert_latent", 10, 3
RATES = {TWO_FRAMES: 0.2, 7: 0.143, 8: 0.25, ONE_FRAME: 0.333}
"""Frames per second, and the seconds between the frames of a quantizer's windows of 0.2 s."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder, found = tmp_path_factory.mktemp("rates"), {}
    with pytest.MonkeyPatch.context() as patch:
        for fps in RATES:
            patch.setattr(recording, "FPS", fps)
            found[fps] = recording.make_dataset(folder / f"at_{fps}", episodes=1, length=6)
    return found


@pytest.fixture(scope="module")
def laq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_quantizer(tmp_path_factory.mktemp("laq") / "laq")


def _run(**keys: Any) -> Any:
    return load_config(None, [], {name.replace("__", "."): (value, "test") for name, value in keys.items()}).config


def test_a_rate_that_does_not_fit_is_refused_where_codes_are_made(roots: dict[int, Path], laq: Path) -> None:
    root = roots[ONE_FRAME]
    policy: Any = {"model__policy_type": LATENT, "data__root": root, "latents__laq": laq}
    training = {"trainer_type": "lightning", "model__kind": "laq", "data__root": root, "data__offset_seconds": 0.2}
    models = {"trainer_type": "lightning", "model__kind": "foundation", "data__root": root, "latents__laq": laq}
    info = read_dataset(None, root)
    for make in (
        lambda: make_table(root, laq, root / "never"),
        lambda: check_policy_run(_run(**policy), info),
        lambda: FrameDataModule(_run(**training)),
        lambda: resolve_labels(_run(**models), [info]),
    ):
        with pytest.raises(UserError) as refused:
            make()
        assert "at 3 frames per second, the frames of a window of at_3 are 0.333 s apart, and 0.2 s" in str(refused)
        assert "a dataset of 5, 10, 15, ... frames per second" in str(refused.value.fix)
        assert "a quantizer for 0.333, 0.667, 1, ... s" in str(refused.value.fix)
    assert not (root / "never").exists()


def test_tables_of_older_versions_are_found_wrong(
    roots: dict[int, Path], laq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "code_offset", lambda info, seconds: window_offset(seconds, info.fps))
    table = make_table(roots[ONE_FRAME], laq, tmp_path / "table")
    [problem] = verify_table(table, roots[ONE_FRAME]).problems
    assert "at_3 are 0.333 s apart, and 0.2 s are asked for" in problem


def test_sources_whose_codes_span_other_times_are_told_apart(
    roots: dict[int, Path], laq: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    tables = {fps: make_table(roots[fps], laq, tmp_path / str(fps)) for fps in RATES if fps != ONE_FRAME}
    assert "at_7 are 0.143 s apart, and 0.2 s" in caplog.text and "at_8 are 0.25 s apart, and 0.2 s" in caplog.text
    assert "at_10" not in caplog.text
    caplog.clear()

    def sections(*rates: int) -> list[dict[str, Any]]:
        rest = {"labelled_episodes": "none"}
        return [{"root": str(roots[f]), "table": str(tables[f])} | (rest if i else {}) for i, f in enumerate(rates)]

    def said(*rates: int) -> list[str]:
        """What a policy and a foundation model say of it."""
        sources, found = joined(sections(*rates), LATENT).sources, []
        run = _run(trainer_type="lightning", model__kind="foundation", data__sources=sections(*rates))
        for check in (
            lambda: rows_of_sources(sources, None, None),
            lambda: resolve_labels(run, [source.info for source in sources]),
        ):
            try:
                check()
            except UserError as error:
                found.append(error.what)
        return found

    other = "the codes of at_7 are of frames 0.143 s apart, those of at_{} of frames {} s apart"
    assert said(8, 7) == [other.format(8, 0.25)] * 2
    assert said(7, TWO_FRAMES) == [] and caplog.text.count(other.format(10, 0.2)) == 1
    caplog.clear()
    assert said(TWO_FRAMES, TWO_FRAMES) == [] and not caplog.text
