"""A foundation model is measured with the settings that a training has."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from hlrp.errors import UserError


def test_products_are_those_of_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import bench_foundation

    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    nothing = str(tmp_path / "none")
    argv = ["bench_foundation.py", nothing, "--table", nothing, "--laq", nothing, "--device", "cuda"]
    monkeypatch.setattr("sys.argv", argv)
    with (
        patch("torch.cuda.is_available", return_value=True),
        patch("torch.cuda.device_count", return_value=1),
        pytest.raises(UserError, match="none"),
    ):
        bench_foundation.main()
    found = [backend.allow_tf32 for backend in backends]
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed
    assert found == [True, True]
