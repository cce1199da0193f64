"""Image transforms: one draw for all frames of a sample, the same wherever it is read, on training frames alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_datasets import TOP, WRIST
from test_data_module import run_of

from hlrp.config.sections import ImageTransformsSection
from hlrp.data import FrameDataModule, LeRobotDataModule
from hlrp.data.augmentation import DrawnOrder, blank_frame, check_transforms, drawn_from, image_transforms
from hlrp.data.sampler import ResumableSampler
from hlrp.errors import UserError

STRONG = {
    "enable": True,
    "max_num_transforms": 2,
    "tfs": {
        "bright": {"type": "ColorJitter", "kwargs": {"brightness": [0.3, 1.7]}},
        "move": {"type": "RandomAffine", "kwargs": {"degrees": [-30, 30], "translate": [0.2, 0.2]}},
    },
}


def _windows(root: Path, **data: Any) -> FrameDataModule:
    section = {"image_transforms": STRONG, "num_workers": 0, "num_frames": 3, **data}
    return FrameDataModule(run_of(root, **section), size=32, cameras=[TOP])


def _epoch(module: FrameDataModule, epoch: int = 0, position: int = 0) -> list[dict[str, torch.Tensor]]:
    loader = module.train_dataloader()
    loader.batch_sampler.load_state_dict({"epoch": epoch, "position": position})
    return list(loader)


def test_all_frames_of_a_window_are_drawn_for_once_and_windows_differ(video_root: Path) -> None:
    """Each frame by itself, from the window's seed, gives what the window has; samples are the plain run's."""
    module, plain = _windows(video_root), _windows(video_root, image_transforms=False)
    transforms = image_transforms(ImageTransformsSection.model_validate(STRONG))
    assert transforms is not None
    before = torch.get_rng_state()
    batches, originals = _epoch(module), _epoch(plain)
    assert torch.equal(torch.get_rng_state(), before), "the model's random numbers are its own"
    order = module.train_dataloader().batch_sampler
    seeds = [seed for batch in order for _, seed in batch]
    assert len(set(seeds)) == len(seeds) == sum(len(batch["index"]) for batch in batches)
    changed = 0
    for number, (batch, original, drawn) in enumerate(zip(batches, originals, order, strict=True)):
        assert torch.equal(batch["index"], original["index"]) and torch.equal(batch["valid"], original["valid"])
        for window, frames, (_, seed) in zip(batch["frames"], original["frames"], drawn, strict=True):
            for shown, frame in zip(window, frames, strict=True):
                with drawn_from(seed):
                    assert torch.equal(shown, transforms(frame)), number
            changed += not torch.equal(window, frames)
    assert changed == len(seeds)
    assert torch.equal(plain.train_windows.__getitems__([3])["frames"][0], plain.train_windows[3]["frames"])


def test_the_draw_depends_on_seed_epoch_and_sample_alone(video_root: Path) -> None:
    """Not on workers, on where the epoch is entered, or on the number of processes; on the epoch it does."""
    alone, forked = _windows(video_root), _windows(video_root, num_workers=2)
    first = [batch["frames"] for batch in _epoch(alone)]
    for entered, batches in ((0, _epoch(forked)), (3, _epoch(alone, position=3))):
        assert all(torch.equal(a, b["frames"]) for a, b in zip(first[entered:], batches, strict=True))
    pictures = {int(i): frames for b in _epoch(alone) for i, frames in zip(b["index"], b["frames"], strict=True)}
    again = {int(i): f for b in _epoch(alone, epoch=1) for i, f in zip(b["index"], b["frames"], strict=True)}
    common = pictures.keys() & again.keys()
    assert len(common) > 20 and not any(torch.equal(pictures[i], again[i]) for i in common)
    whole = list(DrawnOrder(ResumableSampler([50], 8, seed=7), 7))
    halves = [list(DrawnOrder(ResumableSampler([50], 4, seed=7, rank=r, world_size=2), 7)) for r in range(2)]
    assert [sorted(batch) for batch in whole] == [sorted([*a, *b]) for a, b in zip(*halves, strict=True)]
    other = list(DrawnOrder(ResumableSampler([50], 8, seed=8), 8))
    assert not {seed for batch in whole for _, seed in batch} & {seed for batch in other for _, seed in batch}


def test_a_sample_that_comes_again_in_an_epoch_is_drawn_for_anew() -> None:
    """A small source of a mixture, such as a few labelled episodes, is passed over many times."""
    order = ResumableSampler([10, 80], 4, weights=[1, 1], seed=0)
    batches = [[pair for pair in batch if pair[0] < 10] for batch in DrawnOrder(order, 0)]
    comes = sum(len({number for number, _ in batch}) for batch in batches)
    assert comes > 40
    assert len({pair for batch in batches for pair in batch}) == comes


def test_held_out_windows_and_runs_without_it_are_left_alone(video_root: Path) -> None:
    module, plain = _windows(video_root), _windows(video_root, image_transforms=False)
    for ours, theirs in ((module, plain), (plain, _windows(video_root, image_transforms={"enable": False}))):
        pairs = zip(ours.val_dataloader(), theirs.val_dataloader(), strict=True)
        assert all(torch.equal(a["frames"], b["frames"]) for a, b in pairs)
    batches, windows = _epoch(plain), plain.train_windows
    for batch, positions in zip(batches, plain.train_sampler(), strict=True):
        assert torch.equal(batch["frames"], windows.__getitems__(positions)["frames"])


def test_each_camera_is_drawn_for_by_itself(video_root: Path) -> None:
    asked = {"image_transforms": STRONG, "num_workers": 0}
    module = FrameDataModule(run_of(video_root, **asked), size=32, cameras=[TOP, WRIST])
    plain = FrameDataModule(run_of(video_root, num_workers=0), size=32, cameras=[TOP, WRIST])
    transforms = image_transforms(module.run.data.image_transforms)
    assert transforms is not None
    batch, original = _epoch(module)[0]["frames"], _epoch(plain)[0]["frames"]
    assert batch.shape == (8, 2, 2, 3, 32, 32)
    ((_, seed), *_), *_ = module.train_dataloader().batch_sampler
    with drawn_from(seed):
        assert torch.equal(batch[0][:, 0], transforms(original[0][:, 0]))
        assert torch.equal(batch[0][:, 1], transforms(original[0][:, 1]))


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_a_policys_samples_are_lerobots_transforms_of_lerobots_samples(cache: str, video_root: Path) -> None:
    """Two frames of each camera and a chunk of actions, read by LeRobot and from the store; held-out ones are plain."""
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

    section = ImageTransformsSection.model_validate(STRONG)
    transforms = image_transforms(section)
    assert transforms is not None
    shared: dict[str, Any] = {"root": video_root, "batch_size": 4, "seed": 3, "eval_split": 0.3, "num_workers": 0}
    modules = [LeRobotDataModule(**shared, cache=cache, image_transforms=t) for t in (transforms, None)]
    for module in modules:
        module.for_policy(DiffusionConfig(device="cpu", horizon=8, n_action_steps=4))
    ours, plain = (module.train_dataloader() for module in modules)
    for batch, original, drawn in zip(list(ours)[:3], plain, ours.batch_sampler, strict=False):
        for row, (_, seed) in enumerate(drawn):
            with drawn_from(seed):
                for camera in (TOP, WRIST):
                    assert torch.equal(batch[camera][row], transforms(original[camera][row]))
        assert torch.equal(batch["action"], original["action"]) and batch["task"] == original["task"]
    held_out = [next(iter(module.val_dataloader()))[TOP] for module in modules]
    assert torch.equal(*held_out)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"type": "ColourJitter"}, "'ColourJitter' is not valid"),
    "argument": ({"type": "ColorJitter", "kwargs": {"brigthness": 0.1}}, "brigthness"),
    "value": ({"type": "ColorJitter", "kwargs": {"hue": [0.0, 0.9]}}, "hue"),
    "size": ({"type": "Resize", "kwargs": {"size": [16, 16]}}, r"\(3, 16, 16\) of a frame of cam"),
    "type": ({"type": "ConvertImageDtype", "kwargs": {"dtype": torch.float32}}, "torch.float32"),
    "crop": ({"type": "RandomCrop", "kwargs": {"size": [64, 64]}}, "fail on a frame of cam"),
    "noise": ({"type": "GaussianNoise", "kwargs": {"std": [5, 25]}}, "8 bits"),
    "nothing": ({"type": "ColorJitter", "weight": 0}, "weight 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_transforms_that_cannot_be_used_are_named(case: str) -> None:
    given, message = BAD[case]
    section = ImageTransformsSection.model_validate({"enable": True, "tfs": {"mine": given}})
    frame = blank_frame({"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}, 32)
    assert frame.shape == (3, 32, 32)
    with pytest.raises(UserError, match=message):
        check_transforms(image_transforms(section), {"cam": frame})  # type: ignore[arg-type]


def test_a_crop_to_the_frames_own_size_and_pictures_as_floats_pass() -> None:
    feature = {"dtype": "image", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}
    crop = {"type": "RandomResizedCrop", "kwargs": {"size": [48, 64], "scale": [0.8, 1.0]}}
    noise = {"type": "GaussianNoise", "kwargs": {"std": [5, 25]}}
    made = image_transforms(ImageTransformsSection.model_validate({"enable": True, "tfs": {"c": crop, "n": noise}}))
    assert made is not None
    check_transforms(made, {"cam": blank_frame(feature, uncached=True)})
    with pytest.raises(UserError, match="8 bits"):
        check_transforms(made, {"cam": blank_frame(feature)})


def test_lerobots_own_six_pass_and_change_what_is_shown() -> None:
    made = image_transforms(ImageTransformsSection(enable=True))
    assert made is not None and image_transforms(ImageTransformsSection()) is None
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 24, 32), dtype=np.uint8))
    check_transforms(made, {"cam": frames[0]})
    with drawn_from(1):
        first = made(frames)
    with drawn_from(2):
        second = made(frames)
    assert first.shape == frames.shape and not torch.equal(first, frames) and not torch.equal(first, second)
