"""What a model card says by the kind of what is published: what it is for, and how to load it."""

from collections.abc import Mapping
from typing import Any

from hlrp.deploy.contents import EXPORT, POLICY
from hlrp.runtime.engines import ENGINES

_INSTALL = "pip install lerobot_policy_felix_bundle"

_OF_ACTING = (
    "Control of the robot, or of the simulator, that its data were recorded with: same cameras, same order and "
    "units of joints and actions. It knows nothing of limits, forces or people: those are the robot's own controller's "
    "to keep. Elsewhere, try it in simulation first."
)
USE: dict[str, str] = {
    POLICY: _OF_ACTING,
    EXPORT: _OF_ACTING,
    "a latent action quantizer": "Labelling video with discrete codes of what changes between frames, to pretrain on "
    "video without actions. Codes of other cameras or rates than those above mean other things.",
    "a foundation model": "Weights that a policy starts from, and predictions of the latent codes above. It has no "
    "actions of its own and drives no robot.",
    "an action decoder": "Actions for videos of the same robot and camera that have none (pseudo-labels), from the "
    "latents of the quantizer above and no other. Numbers with a low R2 are not to be trusted.",
    "a latent table": "Training on the dataset above, whose frames it labels; with any other it is refused.",
}
_LOADING: dict[str, str] = {
    "a latent action quantizer": "hlrp precompute-latents --laq {repo} --allow-download --dataset-root DIR "
    "--output TABLE",
    "a foundation model": "hlrp train --policy hlrp_action_expert_latent --init-from {repo} --allow-download "
    "--dataset-root DIR",
    "an action decoder": "hlrp pseudo-label --decoder {repo} --allow-download --latents TABLE --dataset-root DIR "
    "--output NEW",
    "a latent table": "hlrp train --policy hlrp_action_expert_latent --latents {repo} --allow-download "
    "--dataset-root DIR",
}
_OF_POLICIES = """With `{install}`, here:

```bash
hlrp eval {repo} --allow-download --env ENV
hlrp serve {repo} --allow-download
```

In LeRobot:

```bash
lerobot-eval --policy.path={repo} --env.type=ENV
```

```python
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.utils.import_utils import register_third_party_plugins

register_third_party_plugins()
policy = get_policy_class("{type}").from_pretrained("{repo}")
preprocessor, postprocessor = make_pre_post_processors(policy.config, pretrained_path="{repo}")
```"""
_OF_EXPORTS = """Without torch and LeRobot, with `pip install numpy {engine} huggingface_hub` and
`pip install --no-deps lerobot_policy_felix_bundle`:

```python
from huggingface_hub import snapshot_download

from hlrp.runtime import load

policy = load(snapshot_download("{repo}"))
policy.reset()  # an episode begins
action = policy.select_action(observation)
```

`observation` holds the inputs above by their names, pictures as uint8 `[H, W, C]`, and for a policy that reads
instructions one of those above as `task`. With `{install}`:

```bash
hlrp serve {repo} --allow-download
```"""


def loading(kind: str, repo_id: str, described: Mapping[str, Any]) -> str:
    """How to load it, in Markdown.

    Args:
        kind: What it is, as `Contents` calls it.
        repo_id: Where it is.
        described: Its `config.json`, or its manifest.
    """
    if kind == POLICY:
        return _OF_POLICIES.format(repo=repo_id, type=described["type"], install=_INSTALL)
    if kind == EXPORT:
        engine = ENGINES[described["format"]][0]
        return _OF_EXPORTS.format(repo=repo_id, engine=engine, install=f"{_INSTALL}[export,serve]")
    return f"```bash\n{_INSTALL}\n{_LOADING[kind].format(repo=repo_id)}\n```"
