"""Label a dataset with a quantizer of random weights, to measure what trains on labels.

python scripts/make_random_table.py DATASET_ROOT TABLE [--camera NAME] [--device cuda]
"""

import argparse
from pathlib import Path

import torch

from hlrp.data import read_dataset
from hlrp.data.episodes import check_camera
from hlrp.laq import LAQ, LAQConfig
from hlrp.latents.labelling import LabelRequest, LAQEncoder, label


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("dataset_root", type=Path)
    options.add_argument("table", type=Path)
    options.add_argument("--camera", help="default: the dataset's only one")
    options.add_argument("--device", default="cpu")
    args = options.parse_args()
    info = read_dataset(None, args.dataset_root)
    torch.manual_seed(0)
    config = LAQConfig.preset("tiny", offset_seconds=2 / info.fps)
    request = LabelRequest(info, check_camera(info, args.camera), args.table, config, "0" * 64)
    label(request, LAQEncoder(LAQ(config).eval().to(args.device)), device=args.device)


if __name__ == "__main__":
    main()
