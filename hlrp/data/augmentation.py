"""LeRobot's image transforms on samples that are trained on, each drawn from random numbers of its own."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hlrp.config.sections import ImageTransformsSection
from hlrp.data.decode import target_size
from hlrp.data.images import declared_size
from hlrp.errors import UserError, root_cause

Transforms = Callable[[Tensor], Tensor]
_WHERE = "data.image_transforms"
# A transform may apply itself rarely: a trial is given up after so many draws.
_TRIALS = 16
# In parts of the range: what 8 bits may lose to rounding.
_ROUNDING = 2 / 255


class Order(Protocol):
    """Batches of sample numbers that depend on the epoch, and can be entered anywhere; see `ResumableSampler`."""

    global_batch: int
    """Samples of a batch, over all processes."""

    @property
    def samples(self) -> int:
        """Samples of a whole epoch, over all processes."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[int]]: ...

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next."""

    def state_dict(self) -> dict[str, Any]:
        """Among others `epoch`, and `position`: the batch at which the epoch is entered."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Enter epoch ``state["epoch"]`` at batch ``state["position"]``."""


def image_transforms(section: ImageTransformsSection) -> Transforms | None:
    """LeRobot's own `ImageTransforms` of a run's `data.image_transforms`; None where they are not enabled.

    Raises:
        UserError: An unknown transform, or one that refuses its arguments.
    """
    from lerobot.transforms import ImageTransformConfig, ImageTransformsConfig

    fields = section.lerobot_fields
    if not fields:
        return None
    if "tfs" in fields:
        fields["tfs"] = {name: ImageTransformConfig(**given) for name, given in fields["tfs"].items()}
    return lerobot_transforms(ImageTransformsConfig(**fields))


def lerobot_transforms(config: Any) -> Transforms:
    """The transforms of LeRobot's `ImageTransformsConfig`.

    Raises:
        UserError: An unknown transform, or one that refuses its arguments; or all have weight 0.
    """
    from lerobot.transforms import ImageTransforms, make_transform_from_config

    for name, transform in config.tfs.items():
        try:
            make_transform_from_config(transform)
        except Exception as error:
            raise UserError(
                f"image transform {name!r} cannot be made: {root_cause(error)}",
                where=f"{_WHERE}.tfs.{name}",
                fix="correct its type and kwargs: classes of torchvision.transforms.v2, or LeRobot's own",
            ) from error
    if not any(transform.weight > 0 for transform in config.tfs.values()):
        raise UserError(
            "every image transform has weight 0: nothing would be changed",
            where=f"{_WHERE}.tfs",
            fix="give one of them a weight, or data.image_transforms=false",
        )
    made: Transforms = ImageTransforms(config)
    return made


def transforms_section(transforms: Transforms | None) -> ImageTransformsSection | None:
    """What `data.image_transforms` says of LeRobot's own `ImageTransforms`; None of any other, which it cannot name."""
    from lerobot.transforms import ImageTransforms

    made: Any = transforms
    if type(made) is not ImageTransforms:
        return None
    try:
        # As a file would hold it: what it could not hold, such as a tensor, is an error here.
        return ImageTransformsSection(**json.loads(json.dumps(asdict(made._cfg), allow_nan=False)))
    except (TypeError, ValueError):
        return None


def blank_frame(
    feature: dict[str, Any], size: int | tuple[int, int] | None = None, *, uncached: bool = False
) -> Tensor:
    """A black frame `[C, H, W]` of a camera, as transforms are given its frames.

    Args:
        feature: The camera's entry in `meta/info.json`.
        size: Height and width that frames are brought to, or one number for a square; none: as recorded.
        uncached: Whether LeRobot reads it, which gives pictures from tables as float32.
    """
    kind = torch.float32 if uncached and feature["dtype"] == "image" else torch.uint8
    return torch.zeros((3, *target_size(size, declared_size(feature))), dtype=kind)


def check_transforms(transforms: Transforms, frames: Mapping[str, Tensor]) -> None:
    """Try transforms on frames as they will be given them.

    Args:
        transforms: Of `image_transforms`, or any callable.
        frames: Camera to a frame of its size and type, `[C, H, W]`, whatever it shows.

    Raises:
        UserError: One fails, gives frames of another size or type, or changes nothing because it passes over frames of
            8 bits, which are what LeRobot trains on, without a word.
    """
    parts: Mapping[str, Transforms] = getattr(transforms, "transforms", {})
    for camera, frame in frames.items():
        for name, transform in (parts or {"": transforms}).items():
            key = f"{_WHERE}.tfs.{name}".rstrip(".").removesuffix(".tfs")
            noise = torch.rand(frame.shape, generator=torch.Generator().manual_seed(0))
            given = noise if frame.is_floating_point() else (noise * 255).to(frame.dtype)
            _try(transform, given, camera, key)
            if parts and given.dtype == torch.uint8 and _passes_over(transform, given):
                raise UserError(
                    f"image transform {name!r} ({type(transform).__name__}) leaves frames of 8 bits as they are, which "
                    "LeRobot trains on",
                    where=key,
                    fix="leave it out",
                )


def _try(transform: Transforms, given: Tensor, camera: str, key: str) -> None:
    try:
        with drawn_from(0):
            got = transform(given)
    except Exception as error:
        raise UserError(
            f"image transforms fail on a frame of {camera} {tuple(given.shape)}: {root_cause(error)}",
            where=key,
            fix="correct its kwargs, or leave it out",
        ) from error
    if got.shape != given.shape or got.dtype != given.dtype:
        raise UserError(
            f"image transforms make {got.dtype} {tuple(got.shape)} of a frame of {camera}, which is {given.dtype} "
            f"{tuple(given.shape)}: what is trained on must have the size of what is acted on",
            where=key,
            fix="use a transform that keeps size and type: RandomResizedCrop with the frame's size as `size`",
        )


def _passes_over(transform: Transforms, given: Tensor) -> bool:
    """Whether a transform changes a frame of float32 but not the same of 8 bits."""
    for seed in range(_TRIALS):
        with drawn_from(seed):
            same = torch.equal(transform(given), given)
        floats = given.float() / 255
        with drawn_from(seed):
            moved = float((transform(floats) - floats).abs().max())
        if not same:
            return False
        if moved > _ROUNDING:
            return True
    return False


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Let what is drawn from PyTorch's generator of the CPU come from ``seed``, and put the generator back."""
    # Not torch.manual_seed, which would seed the GPUs' generators too.
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


class AugmentedSamples(Dataset[dict[str, Any]]):
    """Samples whose frames are transformed; addressed by pairs of sample and seed, as `DrawnOrder` gives them.

    A sample draws once for each camera: all frames of a window are changed alike.

    Args:
        samples: Read by number, a list of numbers at once where it can be.
        transforms: Applied to the frames of a camera of a sample, uint8 `[C, H, W]` or `[T, C, H, W]`.
        keys: Entries of a sample that hold frames; for several cameras, `[T, V, C, H, W]`, it draws one by one.
    """

    def __init__(self, samples: Dataset[Any], transforms: Transforms, keys: Sequence[str]) -> None:
        self.samples, self._transforms, self._keys = samples, transforms, tuple(keys)

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, drawn: tuple[int, int]) -> dict[str, Any]:
        number, seed = drawn
        sample = dict(self.samples[number])
        with drawn_from(seed):
            sample |= {key: self._transformed(sample[key]) for key in self._keys}
        return sample

    def __getitems__(self, drawn: Sequence[tuple[int, int]]) -> Any:
        read = getattr(self.samples, "__getitems__", None)
        if read is None:
            return [self[pair] for pair in drawn]
        batch = dict(read([number for number, _ in drawn]))
        changed: dict[str, list[Tensor]] = {key: [] for key in self._keys}
        for row, (_, seed) in enumerate(drawn):
            with drawn_from(seed):
                for key, rows in changed.items():
                    rows.append(self._transformed(batch[key][row]))
        return batch | {key: torch.stack(rows) for key, rows in changed.items()}

    def _transformed(self, frames: Tensor) -> Tensor:
        if frames.ndim < 5:
            return self._transforms(frames)
        return torch.stack([self._transforms(view) for view in frames.unbind(1)], dim=1)


class DrawnOrder(Sampler[list[tuple[int, int]]]):
    """An order of samples with a seed for each, which depends on the run's seed, the epoch, the batch and the sample.

    Neither workers nor processes nor where the epoch is entered have a part in it: a resumed run draws as one that was
    not stopped.

    Args:
        order: The order.
        seed: The run's, >= 0.
    """

    def __init__(self, order: Order, seed: int) -> None:
        self._order, self._seed = order, seed

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Read now, as the order itself does.
        state = self._order.state_dict()
        return self._drawn(iter(self._order), state["epoch"], state["position"])

    def _drawn(self, batches: Iterator[list[int]], epoch: int, first: int) -> Iterator[list[tuple[int, int]]]:
        for number, batch in enumerate(batches, first):
            yield [(i, _mixed(self._seed, epoch, number, i)) for i in batch]

    @property
    def sampler(self) -> "DrawnOrder":
        """Itself: Lightning calls `set_epoch` on the sampler of a loader's batch sampler."""
        return self

    @property
    def global_batch(self) -> int:
        """As the order's own."""
        return self._order.global_batch

    @property
    def samples(self) -> int:
        """As the order's own."""
        return self._order.samples

    def set_epoch(self, epoch: int) -> None:
        """As the order's own."""
        self._order.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """As the order's own."""
        return self._order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As the order's own."""
        self._order.load_state_dict(state)


def augmented(
    samples: Dataset[Any], order: Order, transforms: Transforms | None, keys: Sequence[str], seed: int
) -> tuple[Dataset[Any], Any]:
    """Samples and their order for a loader, transformed; without transforms as they are."""
    if transforms is None:
        return samples, order
    return AugmentedSamples(samples, transforms, keys), DrawnOrder(order, seed)


def _mixed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint32)[0])
