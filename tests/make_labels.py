"""Quantizers of random weights and latent tables of their labels, made by the real labelling pass."""

from pathlib import Path


def make_quantizer(folder: Path, *, num_frames: int = 2, seed: int = 0, camera: str = "observation.image") -> Path:
    """Save a tiny quantizer for windows of ``num_frames`` frames, 0.2 s apart: K = 8 codes, 2 a transition."""
    import torch

    from hlrp.laq import LAQ, LAQConfig

    torch.manual_seed(seed)
    config = LAQConfig(
        image_size=(48, 48),
        patch_size=16,
        dim=32,
        heads=2,
        spatial_layers=1,
        num_frames=num_frames,
        offset_seconds=0.2,
        codebook_size=8,
        code_seq_len=2,
        code_dim=8,
    )
    LAQ(config).eval().save(folder, cameras=[camera])
    return folder


def make_table(root: Path, laq: Path, output: Path, *, vectors: bool = False, camera: str | None = None) -> Path:
    """Label a dataset, its only camera or another, with continuous latents if asked."""
    from hlrp.data import read_dataset
    from hlrp.latents.labelling import LabelRequest, label, load_encoder

    encoder, manifest = load_encoder(laq, "cpu", vectors=vectors)
    info, sha256 = read_dataset(None, root), manifest.weights_sha256
    request = LabelRequest(info, camera, output, manifest.config, sha256, vectors=vectors)
    assert label(request, encoder, workers=1).complete
    return output
