"""What published models answer, each loaded by a name: that of a folder, or on a Hub. Run in the test and elsewhere."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

CAMERA = "observation.images.front"


def policy_actions(name: str, kind: str, camera: str, size: tuple[int, int], task: str) -> np.ndarray:
    """Actions of LeRobot's own loading and loop, over a few observations."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    policy = get_policy_class(kind).from_pretrained(name)
    before, after = make_pre_post_processors(policy.config, pretrained_path=name)
    rng = torch.Generator().manual_seed(3)
    actions = []
    torch.manual_seed(0)
    for _ in range(3):
        seen = {camera: torch.rand(1, 3, *size, generator=rng), "observation.state": torch.rand(1, 2, generator=rng)}
        with torch.inference_mode():
            actions.append(after(policy.select_action(before({**seen, "task": [task]}))))
    return torch.cat(actions).numpy()


def answers(names: dict[str, str], dataset: str, *, allow_download: bool) -> dict[str, np.ndarray]:
    """What each model says: `act`, `latent`, `laq`, `foundation`, `decoder`, `table`, `export` (ONNX),
    `openvino` (an export too), by their names.

    Args:
        names: Folder or Hub name of each.
        dataset: Folder of the dataset whose table it is.
        allow_download: Whether what is not here may be fetched.
    """
    from hlrp.data import read_dataset
    from hlrp.foundation import Foundation
    from hlrp.laq import LAQ
    from hlrp.latents import LatentTable
    from hlrp.latents.actions import ActionDecoder
    from hlrp.runs.published import folder_of
    from hlrp.runtime import load

    def here(name: str) -> Path:
        return folder_of(Path(names[name]), "the test", allow_download=allow_download)

    found: dict[str, Any] = {
        "act": policy_actions(names["act"], "act", "observation.image", (96, 96), ""),
        "latent": policy_actions(names["latent"], "hlrp_action_expert_latent", CAMERA, (64, 80), "push"),
    }
    frames = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found["laq"] = LAQ.from_checkpoint(here("laq")).encode_vectors(
            frames[:, None, :, :48, :48].expand(2, 2, 3, 48, 48)
        )
        found["foundation"] = Foundation.from_checkpoint(here("foundation")).predict_codes({"top": frames}, "push")
    info, table = read_dataset(None, Path(dataset)), LatentTable.open(here("table"))
    arrays = (*table.codes(range(len(table))), table.vectors([3]))
    found["table"] = torch.cat([array.flatten().float() for array in arrays])
    for kind in ("export", "openvino"):
        runtime, rng = load(here(kind), seed=0), np.random.default_rng(5)
        seen = ({"observation.image": rng.integers(0, 256, (96, 96, 3), np.uint8)} for _ in range(3))
        found[kind] = np.stack([runtime.select_action({**o, "observation.state": rng.random(2)}) for o in seen])
    found["decoder"] = ActionDecoder.load(here("decoder")).episode(table, info, 3).actions
    return {name: np.asarray(value) for name, value in found.items()}
