"""Further targets than pixels: heads that predict an image model's features and optical flow, and RAFT, frozen."""

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

from hlrp.errors import UserError

_RAFT_MIN_SIDE, _RAFT_STRIDE, _RAFT_UPDATES = 128, 8, 4


class RaftFlow(nn.Module):
    """Frozen optical flow between two frames (torchvision's RAFT, large or small).

    Args:
        file: The weights as safetensors; which of the two it is follows from them.

    Raises:
        UserError: The file is missing or holds other weights.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        from torchvision.models.optical_flow import raft_large, raft_small

        from hlrp.runs.model_folder import check_state

        where = f"model.flow_model: {file}"
        fix = "save torchvision's RAFT weights with safetensors.torch.save_file(model.state_dict(), file)"
        try:
            stored = load_file(file)
        except (OSError, SafetensorError) as error:
            raise UserError(f"the flow model cannot be read: {error}", where=where, fix=fix) from error
        stem = stored.get("feature_encoder.convnormrelu.0.weight")
        if stem is None:
            raise UserError("the file holds no RAFT weights", where=where, fix=fix)
        self.model = (raft_large if len(stem) == len(_stem(raft_large)) else raft_small)(weights=None, progress=False)
        check_state(stored, self.model.state_dict(), where)
        self.model.load_state_dict(stored)
        self.model.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, current: Tensor, following: Tensor) -> Tensor:
        """Two ``[N, 3, H, W]`` in [0, 1] to flow ``[N, 2, H, W]``: x as a share of the width, y of the height."""
        size = (current.shape[-2], current.shape[-1])
        scale = max(1.0, _RAFT_MIN_SIDE / min(size))
        inner = [-(-int(side * scale) // _RAFT_STRIDE) * _RAFT_STRIDE for side in size]
        # RAFT's correlation volume loses small motions in half precision.
        with torch.autocast(current.device.type, enabled=False):
            pair = [
                F.interpolate(x.float(), inner, mode="bilinear", align_corners=False) * 2 - 1
                for x in (current, following)
            ]
            flow = self.model(*pair, num_flow_updates=_RAFT_UPDATES)[-1]
            flow = flow / flow.new_tensor([inner[1], inner[0]]).view(2, 1, 1)
            return F.interpolate(flow, size, mode="bilinear", align_corners=False)


def _stem(factory: Any) -> Tensor:
    with torch.device("meta"):
        weight: Tensor = factory(weights=None, progress=False).feature_encoder.convnormrelu[0].weight
    return weight


class FeatureHead(nn.Module):
    """Predicts the teacher's features of the following frame from the decoder's tokens."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., N, dim] -> [..., N, width]``."""
        return self.project(tokens)


class FlowHead(nn.Module):
    """Predicts flow to the following frame from the decoder's tokens."""

    def __init__(self, dim: int, patch_size: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.patch_size, self.grid = patch_size, grid
        self.project = nn.Linear(dim, 2 * patch_size**2)
        # Starts from no motion, which is right for most pixels.
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., N, dim] -> [..., 2, H, W]``."""
        p, rows = self.patch_size, self.grid[0]
        return rearrange(self.project(tokens), "... (h w) (p q c) -> ... c (h p) (w q)", h=rows, p=p, q=p)
