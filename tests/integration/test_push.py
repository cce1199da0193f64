"""`hlrp push` with the real client and a Hub on this machine: what comes back is the same, and nothing private goes."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command import assert_user_error, hlrp_argv, hlrp_in_turn
from local_hub import TOKEN
from published_folders import KINDS, Made, publish

from hlrp.errors import UserError, WorkError
from hlrp.files import sha256_of
from hlrp.runs import DatasetRecord, RunDirectory
from trainers.pushing import keep_offline

sys.path.append(str(Path(__file__).parents[1] / "deploy"))
from openpi import OpenpiClient
from serving import acted, in_process, observations


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    yield from publish(tmp_path_factory.mktemp("publish"))


LOAD = """
import json, sys
import numpy as np
from lerobot.configs.train import DatasetConfig, TrainPipelineConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.utils.import_utils import register_third_party_plugins
from huggingface_hub import ModelCard
from published_models import CAMERA, answers, policy_actions
names, dataset, latent, target = json.loads(sys.argv[1])
found = answers(names, dataset, allow_download=True)

# LeRobot's own upload, as at the end of its training; its card asks huggingface.co, whatever the endpoint is.
ModelCard.validate = lambda self, **_: None
register_third_party_plugins()
policy = get_policy_class("hlrp_action_expert_latent").from_pretrained(latent)
policy.config.repo_id = "me/native"
policy.push_model_to_hub(TrainPipelineConfig(dataset=DatasetConfig(repo_id="me/toy"), policy=policy.config))
for processor in make_pre_post_processors(policy.config, pretrained_path=latent):
    processor.push_to_hub("me/native")
native = policy_actions("me/native", policy.config.type, CAMERA, (64, 80), "push")
np.savez(target, native=native, **found)
"""


def test_every_kind_acts_the_same_from_the_hub(made: Made, tmp_path: Path) -> None:
    """In a process that has never seen the folders, by LeRobot's own loading; their tables and models are gone.

    What LeRobot itself uploads, JSON, YAML, Markdown and safetensors files, is enough too: the chat template is in one.
    """
    latent = shutil.copytree(made.folders["latent"], tmp_path / "latent")
    hidden = {kind: made.sources[kind].rename(made.sources[kind].with_name(f"{kind} elsewhere")) for kind in KINDS}
    try:
        names = {kind: f"me/{kind}" for kind in KINDS}
        made.in_another_process(LOAD, names, str(made.root), str(latent), str(tmp_path / "found.npz"))
    finally:
        for kind, place in hidden.items():
            place.rename(made.sources[kind])
    found = np.load(tmp_path / "found.npz")
    assert set(found) == {*KINDS, "native"}
    for name, expected in (made.expected | {"native": made.expected["latent"]}).items():
        assert expected.size > 2 and len(np.unique(expected)) > 1
        assert found[name].dtype == expected.dtype and np.array_equal(found[name], expected), name
    template = json.loads(made.files("native")["backbone/chat_template.json"])["chat_template"]
    assert "<image>" in template
    assert not any(name.endswith(".jinja") for name in made.files("native"))


def test_nothing_of_this_machine_and_nothing_that_runs_is_published(made: Made) -> None:
    private = [str(made.root.parents[1]), str(Path.home() / "x")[:-1], sys.prefix]
    for kind in KINDS:
        for name, content in made.files(kind).items():
            assert Path(name).suffix in (".safetensors", ".json", ".md", ".onnx", ".xml", ".bin", ""), name
            for text in private:
                assert text.encode() not in content, (kind, name, text)
    config = json.loads(made.files("latent")["config.json"])
    assert (config["latent_table"], config["latent_dataset"], config["latent_source"]) == (None, None, "none")
    assert config["codebook_size"] == 8 and config["type"] == "hlrp_action_expert_latent"
    steps = json.loads(made.files("latent")["policy_preprocessor.json"])["steps"]
    labels = next(step["config"] for step in steps if step.get("registry_name") == "hlrp_latent_labels")
    assert (labels["source"], labels["table"], labels["dataset"]) == ("none", None, None)
    assert json.loads(made.files("latent")["train_config.json"])["dataset"]["root"] == "data"
    assert json.loads(made.files("foundation")["manifest.json"])["backbone"]["name"] == "vlm"
    assert made.files("act")["model.safetensors"] == (made.folders["act"] / "model.safetensors").read_bytes()


def _front(card: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert found is not None
    front: dict[str, Any] = yaml.safe_load(found[1])
    return front


def test_the_card_says_what_the_run_was(made: Made) -> None:
    weights = sha256_of(made.folders["act"] / "model.safetensors")
    summary = {"successes": 3, "episodes": 4, "success_rate": 0.75, "success_interval": [0.3, 0.95]}
    own, foreign, exported = {"weights_sha256": weights}, {"weights_sha256": "0" * 64}, {"export": "onnx, int8"}
    for name, policy in (("mine", own), ("of other weights", foreign), ("of an export", own | exported)):
        folder = made.sources["act"] / "eval" / name
        folder.mkdir(parents=True)
        result = {
            "policy": policy,
            "env": {"type": "pusht"},
            "seed": 1000,
            "tasks": {name: summary},
        }
        (folder / "results.json").write_text(json.dumps(result))
    again, other, private = hlrp_in_turn(
        [
            ["push", made.sources["act"], "me/act", "--licence", "Apache-2.0"],
            ["push", made.sources["act"], "me/shown", "--dry-run", "--json"],
            ["push", made.sources["laq"], "me/hidden", "--private"],
        ],
        env=made.environment,
    )
    assert again.code == 0 and "pushed" in again.out, again.err
    card = made.files("act")["README.md"].decode()
    front = _front(card)
    assert front["license"] == "apache-2.0" and front["library_name"] == "lerobot"
    assert front["pipeline_tag"] == "robotics" and front["datasets"] == ["me/toy"]
    assert {"robotics", "lerobot", "act"} <= set(front["tags"])
    for line in (
        f"| me/toy | 6 | 240 | 10 | `{'f' * 40}` |",
        "python -m trainers.lerobot.worker --dataset.root=data --output_dir=act",
        "| step | 2 of 2 |",
        "| step | loss | eval_loss |",
        "| 2 | 0.25 | 0.75 |",
        "| pusht | mine | 3 of 4 | 75% | 30% to 95% | 1000 |",
        "- Warning of the run: something of x",
        "  root: data",
        'get_policy_class("act").from_pretrained("me/act")',
        "hlrp eval me/act --allow-download",
        "Licence: apache-2.0.",
    ):
        assert line in card, (line, card)
    assert "of other weights" not in card and "of an export" not in card
    assert "me/shown" in other.json()["card"] and "me/shown" not in made.hub.repositories
    assert private.code == 0 and made.hub.repositories["me/hidden"].private
    front = _front(made.files("latent")["README.md"].decode())
    assert front["license"] == "mit", "the policy's own"
    for kind, said in (
        ("laq", "8 codes at 2 positions"),
        ("decoder", "| x | "),
        ("table", "frames | 72"),
        ("foundation", "vlm"),
        ("export", "| format | onnx |"),
        ("export", 'from hlrp.runtime import load\n\npolicy = load(snapshot_download("me/export"))'),
    ):
        card = made.files(kind)["README.md"].decode()
        assert said in card and _front(card)["library_name"] == "hlrp", card


def test_pushed_again_it_is_the_same_commit_or_an_update(made: Made, tmp_path: Path) -> None:
    """And a revision names the one or the other, wherever a folder is taken."""
    laq = shutil.copytree(made.sources["laq"], tmp_path / "laq")
    environment = made.environment | {"HF_HOME": str(tmp_path / "hf")}
    made.hub.environment(tmp_path / "hf")
    first, same = hlrp_in_turn([["push", laq, "me/again", "--json"]] * 2, env=environment)
    assert first.json()["new"] and not same.json()["new"], same.err
    assert first.json()["commit"] == same.json()["commit"] and not same.err
    assert first.json()["left_out"] == {"old.ckpt": "reading such a file can run code"}
    manifest = json.loads((laq / "manifest.json").read_text())
    (laq / "manifest.json").write_text(json.dumps(manifest | {"step": 9}))
    made.hub.repositories["me/again"].commits[first.json()["commit"]] |= {"demo.gif": b"mine", "left.safetensors": b""}
    update = hlrp_in_turn([["push", laq, "me/again", "--json"]], env=environment)[0].json()
    files = made.files("again")
    assert update["new"] and update["commit"] != first.json()["commit"]
    assert "demo.gif" in files and "left.safetensors" not in files, "a user's own files stay, those of a push go"
    made.hub.repositories["me/again"].tags["v1"] = first.json()["commit"]
    code = (
        "import json, sys; from pathlib import Path; from hlrp.runs.published import folder_of\n"
        "def step(name, fetch):\n"
        "    folder = folder_of(Path(name), '--laq', allow_download=fetch)\n"
        "    return json.loads((folder / 'manifest.json').read_text())['step']\n"
        "names, target = json.loads(sys.argv[1])\n"
        "Path(target).write_text(json.dumps([*(step(name, True) for name in names), step(names[0], False)]))"
    )
    names = ["me/again", "me/again@v1", f"me/again@{first.json()['commit'][:12]}"]
    made.in_another_process(code, names, str(tmp_path / "steps"))
    assert json.loads((tmp_path / "steps").read_text()) == [9, 0, 0, 9]


def test_what_keeps_it_from_being_published_is_one_message(made: Made, tmp_path: Path) -> None:
    act, laq = made.sources["act"], made.sources["laq"]
    local = shutil.copytree(made.folders["act"], tmp_path / "local")
    steps = json.loads((local / "policy_preprocessor.json").read_text())
    steps["steps"].append({"registry_name": "tokenizer_processor", "config": {"tokenizer_name": str(tmp_path / "vlm")}})
    (local / "policy_preprocessor.json").write_text(json.dumps(steps))
    cut = shutil.copytree(laq, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((laq / "model.safetensors").read_bytes()[:-4])
    torch_archive, changed = (shutil.copytree(made.sources["export"], tmp_path / name) for name in ("pt2", "changed"))
    manifest = json.loads((torch_archive / "manifest.json").read_text())
    (torch_archive / "manifest.json").write_text(json.dumps(manifest | {"format": "torch"}))
    (changed / "config.json").write_text((changed / "config.json").read_text() + "\n")
    cases = [
        (["push", torch_archive, "me/x"], ["can run code", "--format onnx"]),
        (["push", changed, "me/x"], ["is not whole: config.json has changed since the export"]),
        (["push", tmp_path / "none", "me/x"], ["does not exist"]),
        (["push", tmp_path, "me/x"], ["nothing that can be published"]),
        (["push", made.root, "me/x"], ["holds a dataset", "push_to_hub()"]),
        (["push", cut, "me/x"], ["is not whole", "truncated"]),
        (["push", local, "me/x"], ["names a folder of this machine", "tokenizer_name", str(tmp_path / "vlm")]),
        (["push", laq, "x"], ["'x' is no name on the Hub", "USER/NAME"]),
        (["push", laq, "me/x", "--licence", "not one!"], ["is no licence", "apache-2.0"]),
        (["push", laq, "me/x", "--licence", "unheard-of"], ["does not take the model card", "unknown licence"]),
        (["push", laq, "you/x"], ["you/x cannot be written", "hf auth login"]),
        (["push", act, "me/laq", "--private"], ["is there already, and public", "--private"]),
    ]
    for (_, mentions), done in zip(cases, hlrp_in_turn([c for c, _ in cases], env=made.environment), strict=True):
        assert_user_error(done, *mentions)
    assert list(made.files("x")) == [".gitattributes"], "a refusal uploads nothing"
    outside = [
        (made.environment | {"HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE"]),
        (made.environment | {"HF_ENDPOINT": "http://127.0.0.1:9"}, ["was not uploaded", "run the same command again"]),
        (made.environment | {"HF_HOME": str(tmp_path / "nobody")}, ["cannot be written", "hf auth login"]),
    ]
    for environment, mentions in outside:
        (done,) = hlrp_in_turn([["push", laq, "me/x"]], env=environment)
        assert_user_error(done, *mentions)
        assert TOKEN not in done.err
    decoder = ["push", made.sources["decoder"], "me/troubled"]
    made.hub.large.clear()
    for trouble in ("/large/", "/commit/"):
        made.hub.fails_at = trouble
        (failed,) = hlrp_in_turn([decoder], env=made.environment)
        assert_user_error(failed, "me/troubled", "nothing half there", "the same command again")
        assert list(made.files("troubled")) == [".gitattributes"]
    made.hub.fails_at = None
    (done,) = hlrp_in_turn([decoder], env=made.environment)
    assert done.code == 0 and "pushed" in done.out, done.err


def _on_the_page() -> dict[str, list[str]]:
    """The commands of the page's part on publishing, by their words before the first argument."""
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf8")
    section = page.partition("## Publishing\n")[2].partition("\n## ")[0]
    found = map(str.split, re.findall(r"^    hlrp (.+)$", section, re.MULTILINE))
    return {f"{words[0]} dry" if "--dry-run" in words else words[0]: words for words in found}


@pytest.mark.slow
def test_the_commands_of_the_page(made: Made, toy_root: Path, tmp_path: Path) -> None:
    """A name is taken as the folder is, once it may be fetched; and then without asking anybody."""
    environment = made.environment | {"HF_HOME": str(tmp_path / "hf")}
    made.hub.environment(tmp_path / "hf")
    simulator = "env.observation_height=96 env.observation_width=96 env.episode_length=6 --episodes 2 --videos 0"
    simulator = [*simulator.split(), "--device", "cpu", "--json"]
    more = {"eval": simulator, "train": ["--dry-run"], "pseudo-label": ["--json"], "serve": ["--port", "0"]}
    stands_for = {"RUN": str(made.sources["act"]), "DIR": str(made.root), "NEW": str(tmp_path / "new")}
    page = {
        name: [*(stands_for.get(word, word) for word in words), *more.get(name, ())]
        for name, words in _on_the_page().items()
    }
    assert list(page) == ["push dry", "push", "train", "eval", "serve", "latents", "pseudo-label"]
    page["train"][page["train"].index(str(made.root))] = str(toy_root)
    pusht = ["--env", "pusht", *simulator]
    commands = [
        *(page[name] for name in ("push dry", "push")),
        ["eval", "me/reach", *pusht],
        ["eval", "me/reach@unheard-of", "--allow-download", *pusht],
        ["eval", "me/nothing", "--allow-download", *pusht],
        *(page[name] for name in ("train", "latents", "pseudo-label", "eval")),
        ["eval", made.folders["act"], "--output", tmp_path / "local", *pusht],
    ]
    done = hlrp_in_turn(commands, cwd=tmp_path, env=environment)
    dry, pushed, unasked, revision, nothing, train, verified, labelled, hub, local = done
    assert "left out  training_state/" in dry.out and "library_name: lerobot" in dry.out and pushed.code == 0
    assert made.hub.repositories["me/reach"].private
    assert_user_error(unasked, "me/reach does not exist", "--allow-download")
    assert_user_error(revision, "me/reach has no revision 'unheard-of'")
    assert_user_error(nothing, "there is no me/nothing on the Hub")
    assert train.code == 0 and "--policy.push_to_hub=false" in train.out, train.err
    assert verified.code == 0, verified.err
    assert labelled.code == 0 and (tmp_path / "new/meta/info.json").is_file(), labelled.err
    assert hub.code == 0 and local.code == 0, (hub.err, local.err)
    assert hub.json()["episodes"] == local.json()["episodes"]
    assert Path(hub.json()["folder"]).is_relative_to(tmp_path / "outputs"), "not into the Hub's cache"
    asked = len(made.hub.asked)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    argv = hlrp_argv(*page["serve"])
    with subprocess.Popen(argv, env=os.environ | environment, cwd=tmp_path, **pipes) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            ready = process.stdout.readline()
            assert ready.startswith("ready    "), ready + process.stderr.read()
            served = acted(OpenpiClient(ready.split()[1]), observations(12))
        finally:
            process.kill()
    assert np.array_equal(served, in_process(made.folders["act"], observations(12)))
    assert len(made.hub.asked) == asked, "what was fetched before needs no Hub"


def test_both_trainers_ask_who_is_logged_in_before_they_start(
    made: Made, toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hlrp.config import load_config
    from trainers import get_trainer

    for name, value in (made.environment | {"HF_HOME": str(tmp_path / "nobody")}).items():
        monkeypatch.setenv(name, value)
    for trainer in ("lerobot", "lightning"):
        keys = {"trainer_type": trainer, "model.policy_type": "act", "data.root": str(toy_root)}
        keys |= {"push_to_hub": "me/trained", "output_dir": str(tmp_path / "out")}
        run = load_config(None, (), {key: (value, "test") for key, value in keys.items()}).config
        with pytest.raises(UserError, match="me/trained cannot be written"):
            get_trainer(trainer)().fit(run=run)
    assert not (tmp_path / "out").exists() and "me/trained" not in made.hub.repositories


def test_a_finished_run_is_published_when_that_was_asked(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what both trainers end with; a Hub in trouble costs nothing but the upload."""
    from hlrp.config import LeRobotRun
    from trainers.lifecycle import RunLifecycle

    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    keep_offline()  # as a run does, while it trains
    section = {"model": {"policy_type": "act"}, "data": {"root": str(made.root)}, "push_to_hub": "me/trained"}
    for fails_at in ("/commit/", None):
        made.hub.fails_at = fails_at
        run = LeRobotRun.model_validate({**section, "output_dir": str(tmp_path / f"run {fails_at is None}")})
        lifecycle, command = RunLifecycle(quiet=True), ["train"]
        assert run.output_dir is not None
        lifecycle.create(run.output_dir, run, policy="act", dataset=DatasetRecord(), steps=2, command=command)
        folder = run.output_dir / "checkpoints/000002/pretrained_model"
        shutil.copytree(made.folders["act"], folder)
        if fails_at is None:
            published = lifecycle.finish().published
            assert published is not None and published.startswith(f"{made.hub.url}/me/trained (commit ")
        else:
            with pytest.raises(WorkError, match=r"the run is finished, but(.|\n)*later: hlrp push .* me/trained"):
                lifecycle.finish()
        assert RunDirectory.open(run.output_dir).manifest.status == "finished"
    assert made.files("trained")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
