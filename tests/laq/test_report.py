"""The quality card: which episodes are judged, what the gate says, and a page that stands alone."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from make_dataset import make_dataset

from hlrp.config import LightningRun, to_yaml
from hlrp.data import read_dataset
from hlrp.errors import UserError
from hlrp.laq import LAQ, LAQConfig
from hlrp.laq.card.held_out import held_out_sources, run_of
from hlrp.laq.card.label_curve import LabelCurve, LabelPoint
from hlrp.laq.card.pictures import draw_pictures
from hlrp.laq.card.report import make_report
from hlrp.laq.card.report_html import render
from hlrp.laq.card.transfer import measure_transfer
from hlrp.laq.card.verdict import judge, overall
from hlrp.laq.checkpoint import LAQSource, read_manifest
from hlrp.laq.metrics import LAQScores

SIZES = {"patch_size": 12, "dim": 32, "heads": 2, "spatial_layers": 1, "decoder_layers": 1, "code_dim": 8}
SHAPE = SIZES | {"image_size": (24, 24), "codebook_size": 8, "code_seq_len": 2}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 episodes with actions at 10 fps."""
    return make_dataset(tmp_path_factory.mktemp("data") / "labelled", episodes=8, length=12)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 episodes of video alone."""
    return make_dataset(tmp_path_factory.mktemp("data") / "unlabelled", episodes=3, length=12, action=False)


def _run(folder: Path, root: Path | None, **changes: object) -> Path:
    """A run folder of an untrained quantizer, as training leaves it; ``root=None``: of a dataset that is gone."""
    section = {"root": str(root), **changes.pop("data", {})} if root else {"root": "/gone"}  # type: ignore[dict-item]
    trainer = {"eval_split": changes.pop("eval_split", 0.5), "device": "cpu"}
    run = LightningRun(trainer_type="lightning", trainer=trainer, model={"kind": "laq"}, data=section)
    torch.manual_seed(3)
    laq = LAQ(LAQConfig(**SHAPE | {"offset_seconds": 0.2} | changes))
    torch.nn.init.normal_(laq.decoder.to_pixels.weight, std=0.05)
    info = read_dataset(None, root) if root else None
    prints = [LAQSource(repo_id=info.repo_id, fingerprint=info.fingerprint(), fps=info.fps)] if info else []
    other = [LAQSource(repo_id="other", fingerprint="0123", fps=10)]
    laq.save(
        folder / "checkpoints" / "000007" / "pretrained_model", cameras=["observation.image"], sources=prints or other
    )
    (folder / "run.json").write_text("{}")
    (folder / "config.yaml").write_text(to_yaml(run))
    return folder


def _held(run: Path, *roots: Path):
    found = run_of(run / "checkpoints" / "000007" / "pretrained_model")
    assert found is not None and found[0] == run
    return held_out_sources(found[1], read_manifest(run), roots)


def test_the_runs_own_held_out_episodes_are_judged(labelled: Path, tmp_path: Path) -> None:
    (held,) = _held(_run(tmp_path / "run", labelled))
    assert (held.episodes, held.unseen, held.camera) == ([4, 5, 6, 7], True, "observation.image")
    (held,) = _held(_run(tmp_path / "part", labelled, data={"episodes": [0, 1, 2, 3]}), labelled)
    assert (held.episodes, held.unseen) == ([2, 3], True)
    rest = _run(tmp_path / "rest", labelled, data={"episodes": [0, 1, 2, 3]}, eval_split=0)
    (held,) = _held(rest, labelled)
    assert (held.episodes, held.unseen) == ([4, 5, 6, 7], True)


def test_a_dataset_that_was_not_trained_on_is_judged_whole(labelled: Path, unlabelled: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", labelled)
    ours, other = _held(run, labelled, unlabelled)
    assert (ours.episodes, other.episodes) == ([4, 5, 6, 7], [0, 1, 2])
    assert ours.unseen and other.unseen


def test_what_may_have_been_trained_on_is_not_called_unseen(labelled: Path, tmp_path: Path) -> None:
    (held,) = _held(_run(tmp_path / "all", labelled, eval_split=0))
    assert held.unseen is False
    changed = _run(tmp_path / "changed", labelled)
    manifest = read_manifest(changed)
    stale = manifest.model_copy(update={"sources": (LAQSource(repo_id="x", fingerprint="0123", fps=10),)})
    (held,) = held_out_sources(run_of(changed)[1], stale)  # type: ignore[index]
    assert held.unseen is None and "changed" in held.why
    (held,) = held_out_sources(None, manifest, [labelled])
    assert held.unseen is None and len(held.episodes) == 1
    with pytest.raises(UserError, match="which dataset"):
        held_out_sources(None, manifest)


# ---- the gate


def _scores(**changes: object) -> LAQScores:
    values = {
        "pairs": 100,
        "codes_used": [4, 8],
        "used_share": [0.5, 1.0],
        "codebook_used": 1.0,
        "perplexity": [3.0, 6.0],
        "moving_share": 0.1,
        "psnr": 15.0,
        "psnr_copy": 13.0,
        "psnr_permuted": 14.0,
    }
    return LAQScores(**values | changes)  # type: ignore[arg-type]


def _labels(vectors: float, random: float, frames: float, count: int = 2) -> LabelCurve:
    told = {"vectors": vectors, "random": random, "frames": frames, "codes": 0.5, "changes": 0.6}
    return {name: {count: LabelPoint(r2, r2, r2, 10)} for name, r2 in told.items()}


def _outcomes(scores: LAQScores, labels: LabelCurve | None, unseen: bool | None = True) -> dict[str, bool | None]:
    checks = judge("s", scores, labels, unseen=unseen, why="because")
    return {check.name: check.passed for check in checks} | {"all": overall(checks)}


def test_the_gate_passes_and_each_condition_can_fail_it() -> None:
    good = _labels(0.6, 0.4, 0.3)
    assert set(_outcomes(_scores(), good).values()) == {True}
    failing = {
        "codes_used": (_scores(used_share=[0.2, 1.0]), good, True),
        "psnr_gain": (_scores(psnr_copy=14.5), good, True),
        "permutation_gap": (_scores(psnr_permuted=15.0), good, True),
        "labels_over_random": (_scores(), _labels(0.6, 0.56, 0.3), True),
        "labels_over_frame": (_scores(), _labels(0.6, 0.4, 0.58), True),
        "held_out": (_scores(), good, False),
    }
    for name, case in failing.items():
        outcomes = _outcomes(*case)
        assert [key for key, passed in outcomes.items() if passed is not True] == [name, "all"], name
        assert outcomes["all"] is False


def test_what_cannot_be_measured_is_not_decided() -> None:
    outcomes = _outcomes(_scores(), None)
    assert outcomes["labels_over_random"] is None and outcomes["all"] is None
    five_alone = _outcomes(_scores(), _labels(0.9, 0.1, 0.1, count=5))
    assert five_alone["labels_over_frame"] is None and five_alone["all"] is None
    nothing_moves = _scores(psnr=float("nan"), psnr_copy=float("nan"), psnr_permuted=float("nan"))
    outcomes = _outcomes(nothing_moves, _labels(0.6, 0.4, 0.3))
    assert outcomes["psnr_gain"] is None and outcomes["all"] is None
    assert _outcomes(_scores(psnr_copy=15.0), None)["all"] is False


# ---- transfer and pictures


class _Copying(LAQ):
    """Its codes say which way the picture's brightness goes, whatever the picture."""

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        pixels = frames.float() / (255 if frames.dtype == torch.uint8 else 1)
        brighter = (pixels[:, 1:] - pixels[:, :-1]).mean((2, 3, 4)) > 0
        return brighter.long()[..., None]

    def decode(self, frame: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return (frame + (codes[..., None, None] * 2 - 1) * 0.1).clamp(0, 1)


class _Knowing(LAQ):
    """Its codes are that of a pair's own frame; only on that frame does applying them change anything."""

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        pixels = frames.float() / (255 if frames.dtype == torch.uint8 else 1)
        moved = (pixels[:, 1:] - pixels[:, :-1]).abs().mean((2, 3, 4)) > 0
        return torch.where(moved, (pixels[:, :-1].mean((2, 3, 4)) * 1e6).long(), -1)[..., None]

    def decode(self, frame: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        mine = (frame.mean((1, 2, 3)) * 1e6).long() == codes[:, 0]
        return torch.where(mine[:, None, None, None], 1 - frame, frame)


def _batches(count: int = 40) -> list[dict[str, torch.Tensor]]:
    first = torch.randint(60, 200, (count, 1, 3, 24, 24))
    step = torch.where(torch.rand(count, 1, 1, 1, 1) > 0.5, 40, -40)
    frames = torch.cat([first, first + step], 1).to(torch.uint8)
    ids = torch.arange(count)
    return [{"frames": frames, "valid": torch.ones(count, 1, dtype=torch.bool), "episode_index": ids % 4, "index": ids}]


def test_transfer_tells_codes_that_carry_over_from_codes_that_do_not() -> None:
    config = LAQConfig(**SHAPE | {"code_seq_len": 1, "codebook_size": 2})
    good = measure_transfer(_Copying(config), _batches(), torch.tensor([[30, 10]]), seed=0)
    assert good is not None and good.pairs == 40
    assert good.agreement == good.own == [1.0]
    assert good.chance == pytest.approx([0.625])
    # Codes that come back from their own frame alone.
    knowing = _Knowing(config)
    own = measure_transfer(knowing, _batches(), torch.tensor([[30, 10]]), seed=0)
    assert own is not None and (own.own, own.agreement) == ([1.0], [0.0])
    # An untrained decoder copies: whatever the code was, what comes back is the code of no change.
    laq, batches = LAQ(LAQConfig(**SHAPE)), _batches()
    copied = measure_transfer(laq, batches, torch.ones(2, 8), seed=0)
    frames = batches[0]["frames"]
    still = laq.encode(torch.stack([frames[:, 0], frames[:, 0]], 1))[:, 0]
    assert copied is not None
    assert copied.own == pytest.approx((laq.encode(frames)[:, 0] == still).float().mean(0).tolist())


def test_pictures_show_what_they_say() -> None:
    laq = _Copying(LAQConfig(**SHAPE | {"code_seq_len": 1, "codebook_size": 2}))
    pictures = draw_pictures(laq, _batches())
    assert len({example.episode for example in pictures.examples}) == 4
    for example in pictures.examples:
        assert example.codes != example.other
        up = example.codes == [1]
        assert bool((example.following.float().mean() > example.current.float().mean()) == up)
        assert bool((example.predicted.float().mean() > example.current.float().mean()) == up)
        assert bool((example.permuted.float().mean() > example.current.float().mean()) == (not up))
        assert bool((example.predicted_change > 128).all()) == up
    row = pictures.rows[0]
    for target, result in zip(pictures.targets, row.predicted, strict=True):
        assert bool((result.float().mean() > target.float().mean()) == (row.origin.codes == [1]))


# ---- the whole card


class _Page(HTMLParser):
    """Collects what a page would load, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "br", "rect", "line", "polygon"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line", "polygon"):
            assert self.open.pop() == tag


def _check_page(text: str) -> list[str]:
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text
    assert page.tags.count("img") == len(page.loads) > 0
    return page.tags


@pytest.mark.parametrize("frames", [2, 3])
def test_a_card_with_and_without_actions(labelled: Path, unlabelled: Path, tmp_path: Path, frames: int) -> None:
    run = _run(tmp_path / "run", labelled, num_frames=frames)
    report = make_report(run, [labelled, unlabelled], max_windows=40, batch_size=16, random_models=2)
    data, page = report.write(tmp_path / "card")
    card = json.loads(data.read_text(), parse_constant=pytest.fail)
    ours, other = card["sources"]
    assert (ours["windows"], ours["episodes"], ours["offset_frames"]) == (40, [4, 5, 6, 7], 2)
    # 12 frames, 2 apart: a window begins at 10 of them, and has its later pairs as far as there are frames.
    assert other["laq"]["scores"]["pairs"] == sum(min(frames - 1, (11 - t) // 2) for t in range(10)) * 3
    for position in ours["laq"]["positions"]:
        assert sum(position["counts"]) == ours["laq"]["scores"]["pairs"]
        assert position["codes_used"] == sum(count > 0 for count in position["counts"])
    assert set(ours["laq"]["probes"]) > {"codes", "frames", "frames_codes"}
    assert set(ours["labels"]) == {"vectors", "codes", "random", "changes", "frames"}
    assert all(set(points) == {"1", "2"} for points in ours["labels"].values())
    assert other["labels"] is None
    assert len(ours["random"]) == 2
    # An untrained decoder copies, whatever its codes.
    assert ours["random"][0]["scores"]["psnr_gain"] == pytest.approx(0, abs=1e-3)
    assert ours["random"][0]["probes"]["frames"] == ours["laq"]["probes"]["frames"]
    assert other["laq"]["probes"] is None and "no actions" in other["probe_absent"]
    assert card["manifest"]["weights_sha256"] == read_manifest(run).weights_sha256
    assert ours["fingerprint"] == read_dataset(None, labelled).fingerprint()
    assert {check["source"] for check in card["verdict"]} == {"labelled", "unlabelled"}
    text = page.read_text()
    tags = _check_page(text)
    assert tags.count("svg") == 2 * 2
    assert "No probe of the actions: the dataset has no actions" in text
    assert card["manifest"]["weights_sha256"] in text


def test_the_card_is_the_same_again(labelled: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", labelled)
    cards = [make_report(run, max_windows=20, random_models=1).to_json() for _ in range(2)]
    for card in cards:
        card.pop("created")
    assert cards[0] == cards[1]


def test_large_codebooks_and_few_episodes(labelled: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", labelled, codebook_size=300, code_seq_len=1, eval_split=0.25)
    report = make_report(run, random_models=1)
    (source,) = report.sources
    assert source.probe_absent is not None and "only 2 held-out episodes" in source.probe_absent
    _, page = report.write(tmp_path / "card")
    assert _check_page(page.read_text()).count("polygon") == 1


def test_names_that_are_markup_are_shown_as_they_are(labelled: Path, tmp_path: Path) -> None:
    hostile = "<script>alert('1')"
    data = shutil.copytree(labelled, tmp_path / hostile)
    info = json.loads((data / "meta" / "info.json").read_text())
    info["features"]["action"]["names"] = ["<b>x", "y & z", '"']
    (data / "meta" / "info.json").write_text(json.dumps(info))
    report = make_report(_run(tmp_path / f"{hostile} run", data), max_windows=40, random_models=0)
    _, page = report.write(tmp_path / "card")
    text = page.read_text()
    assert "b" not in _check_page(text)
    assert text.count("&lt;script&gt;alert(&#39;1&#39;)") >= 5
    assert "&lt;b&gt;x" in text and "y &amp; z" in text


def test_the_page_says_what_the_gate_says(labelled: Path, tmp_path: Path) -> None:
    report = make_report(_run(tmp_path / "run", labelled), max_windows=20, random_models=0)
    (source,) = report.sources
    said = {
        True: ("is passed", "passed"),
        False: ("is not passed", "not passed"),
        None: ("is not decided", "not decided"),
    }
    for passed, (headline, word) in said.items():
        check = replace(source.checks[0], passed=passed)
        text = render(replace(report, sources=[replace(source, checks=[check])]))
        assert f"The gate {headline}" in text and f">{word}</span>" in text


def test_episodes_shorter_than_the_offset_are_refused(labelled: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", labelled, offset_seconds=2.0)
    with pytest.raises(UserError, match="longer than 2 s"):
        make_report(run)
