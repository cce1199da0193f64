"""What a published card says of the configuration of a run."""

from pathlib import Path

from hlrp.deploy.card import _configuration
from hlrp.runs import RunDirectory


def test_nothing_of_the_machine_is_published(tmp_path: Path) -> None:
    """Lines of `slurm.setup` are where people set their keys."""
    yaml = """
output_dir: /home/me/run
trainer: {steps: 3, learning_rate: null}
slurm: {partition: gpu, account: secret, setup: [export WANDB_API_KEY=0123456789abcdef]}
"""
    run = RunDirectory.create(tmp_path / "run", config_yaml=yaml, trainer="lerobot")
    assert _configuration(run) == "trainer:\n  steps: 3"
