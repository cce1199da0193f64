"""The wheel in a clean environment, away from the checkout: stock LeRobot trains, evaluates and loads the policies.

    python scripts/check_wheel.py DATASET[=LATENT_TABLE] [DATASET[=LATENT_TABLE] ...] [--keep FOLDER]

The first dataset must be one that `hlrp collect --env metaworld` recorded: its policies are rolled out in
`metaworld_light`. A dataset without a table gets one: a small quantizer is trained on it for some steps and labels it.

Builds the wheel, installs it with the pinned dependencies into an environment of its own, and then there: both
`--help`s, the shipped configurations, `lerobot-train` of every policy on every dataset for 4 steps, `lerobot-eval` of
each of the first dataset's, and the actions of each after saving and loading in another process, bit for bit.
Prints one line a check with its seconds; ends with exit code 1 at the first that fails.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
POLICIES = ("hlrp_vla_direct", "hlrp_action_expert_latent", "hlrp_action_expert_direct")
ACT = """
import sys, torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.utils.import_utils import register_third_party_plugins
register_third_party_plugins()
torch.set_num_threads(1)
actions = {}
for path in sys.argv[3:]:
    config = PreTrainedConfig.from_pretrained(path)
    policy = get_policy_class(config.type).from_pretrained(path)
    before, after = make_pre_post_processors(config, pretrained_path=path)
    generator = torch.Generator().manual_seed(0)
    seen = {n: torch.rand(f.shape, generator=generator) for n, f in config.input_features.items()}
    torch.manual_seed(0)
    chunk = after(policy.predict_action_chunk(before({**seen, "task": "push the button"})))
    assert chunk.shape == (1, config.chunk_size, *config.output_features["action"].shape), chunk.shape
    assert torch.isfinite(chunk).all()
    actions[config.type, config.output_features["action"].shape] = chunk
    if sys.argv[1] == "save":
        policy.save_pretrained(path + "_again")
        before.save_pretrained(path + "_again")
        after.save_pretrained(path + "_again")
values = [chunk.double().flatten().tolist() for chunk in actions.values()]
import json
from pathlib import Path
if sys.argv[1] == "save":
    Path(sys.argv[2]).write_text(json.dumps(values))
else:
    assert json.loads(Path(sys.argv[2]).read_text()) == values, "other actions after loading"
"""


class Check:
    """Runs commands of the clean environment in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "venv" / "bin"
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self._environment = {**kept, "HF_HUB_OFFLINE": "1", "PATH": f"{self.bin}{os.pathsep}{kept.get('PATH', '')}"}

    def run(self, what: str, *command: Any, mentions: tuple[str, ...] = (), cwd: Path | None = None) -> str:
        """Standard output of a command that must succeed."""
        began = time.perf_counter()
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd or self.work,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
        missing = [text for text in mentions if text not in done.stdout]
        print(f"{'ok' if done.returncode == 0 and not missing else 'FAILED'}  {seconds:6.1f} s  {what}", flush=True)
        if done.returncode != 0 or missing:
            raise SystemExit(
                f"{' '.join(map(str, command))}\nmissing: {missing}\n{(done.stdout + done.stderr)[-4000:]}"
            )
        return done.stdout

    def ours(self, what: str, name: str, *arguments: Any, mentions: tuple[str, ...] = ()) -> str:
        """A command that the wheel, or LeRobot, has installed."""
        return self.run(what, self.bin / name, *arguments, mentions=mentions)


def install(check: Check) -> None:
    uv = REPOSITORY / ".venv" / "bin" / "uv"
    uv = uv if uv.is_file() else Path("uv")
    check.run("build the wheel", uv, "build", "--wheel", "--out-dir", check.folder / "dist", cwd=REPOSITORY)
    (wheel,) = (check.folder / "dist").glob("*.whl")
    check.run("make an environment", uv, "venv", "--python", sys.executable, check.folder / "venv")
    python = check.bin / "python"
    pinned = ("--constraints", REPOSITORY / "constraints.txt")
    options = ("--compile-bytecode", "--python", python, *pinned)  # compiled, as pip does
    check.run("install it", uv, "pip", "install", *options, f"{wheel}[sim,smolvla]")
    where = check.run("import it", python, "-c", "import hlrp_cli, lerobot_policy_felix_bundle as b; print(b.__file__)")
    assert str(check.folder) in where, where


def labels_of(check: Check, dataset: Path, number: int) -> Path:
    """A quantizer of some steps, and its labels."""
    laq, table = check.work / f"laq{number}", check.work / f"table{number}"
    data = ("--dataset-root", dataset, "--device", "cpu")
    options = ("--model", "laq", "--steps", 4, "--batch-size", 4, "--output-dir", laq, "model.preset=tiny")
    check.ours(f"a quantizer of {dataset.name}", "hlrp", "train", *data, *options)
    check.ours("labels of it", "hlrp", "precompute-latents", *data, "--laq", laq, "--output", table)
    return table


def train(check: Check, policy: str, dataset: Path, table: Path, out: Path) -> Path:
    arguments: dict[str, Any] = {
        "policy.type": policy,
        "policy.device": "cpu",
        "policy.push_to_hub": "false",
        "dataset.repo_id": dataset.name,
        "dataset.root": dataset,
        "output_dir": out,
        "steps": 4,
        "batch_size": 4,
        "num_workers": 0,
    }
    if policy != "hlrp_action_expert_direct":
        arguments["policy.latent_table"] = table
    what = f"lerobot-train {policy} on {dataset.name}"
    check.ours(what, "lerobot-train", *(f"--{key}={value}" for key, value in arguments.items()))
    return out / "checkpoints" / "000004" / "pretrained_model"


def roll_out(check: Check, policy: str, saved: Path) -> None:
    arguments = {
        "policy.path": saved,
        "policy.device": "cpu",
        "env.type": "metaworld_light",
        "env.task": "reach-v3",
        "env.episode_length": 10,
        "eval.n_episodes": 1,
        "eval.batch_size": 1,
        "output_dir": check.work / f"eval_{policy}",
    }
    check.ours(
        f"lerobot-eval {policy} in metaworld_light", "lerobot-eval", *(f"--{k}={v}" for k, v in arguments.items())
    )
    assert (check.work / f"eval_{policy}" / "eval_info.json").is_file()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET[=TABLE]")
    parser.add_argument("--keep", type=Path, help="a new folder to work in and leave behind")
    args = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        check = Check((args.keep or Path(scratch)).absolute())
        install(check)
        check.ours("lerobot-train --help lists the policies", "lerobot-train", "--help", mentions=POLICIES)
        check.ours("a shipped configuration", "hlrp", "config", "show", "-c", "lightning/act", mentions=("act",))
        check.ours("hlrp demo --help", "hlrp", "demo", "--help", mentions=("--output",))
        saved = []
        for number, given in enumerate(args.datasets):
            root, _, table = given.partition("=")
            dataset = Path(root).absolute()
            labels = Path(table).absolute() if table else labels_of(check, dataset, number)
            for policy in POLICIES:
                saved.append(train(check, policy, dataset, labels, check.work / f"run{number}_{policy}"))
                if number == 0:
                    roll_out(check, policy, saved[-1])
        python, actions = check.bin / "python", check.work / "actions.json"
        check.run("load, act, save", python, "-c", ACT, "save", actions, *saved)
        again = [f"{path}_again" for path in saved]
        check.run("load in a new process: the same actions", python, "-c", ACT, "compare", actions, *again)
    print(f"all of it: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
