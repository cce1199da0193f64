"""Exports of the six kinds of policies: what they compute is what the policy in torch computes."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from exporting import TASKS, UNIT, export, run_alone, save
from openpi import OpenpiClient
from serving import acted, in_process, observations, running
from tiny_policies import save_tiny

from hlrp.deploy.served import load_served
from hlrp.errors import UserError, WorkError
from hlrp.evaluation.exported import load_exported
from hlrp.runtime import Manifest, load
from hlrp.runtime.engines import open_graph

LANGUAGE = ("smolvla", "hlrp_vla_direct", "hlrp_action_expert_latent", "hlrp_action_expert_direct")
POLICIES = ("act", "diffusion", *LANGUAGE)
# What the latent expert does, the direct one does without codes.
QUICK = [pytest.param(n, marks=pytest.mark.slow) if n == "hlrp_action_expert_direct" else n for n in POLICIES]
TWO_GRAPHS = {"encode": "encode.onnx", "step": "step.onnx"}
TOLERANCE = 1e-4


class Exports:
    """Checkpoints and exports, made when a test asks for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def checkpoint(self, name: str) -> Path:
        folder = self._folder / name / "pretrained_model"
        return folder if folder.exists() else save(name, folder)

    def __call__(self, name: str, kind: str = "onnx", quantize: str | None = None) -> Path:
        folder = self._folder / f"{name}_{kind}_{quantize}"
        if not folder.exists():
            export(self.checkpoint(name), folder, kind, quantize=quantize)
        return folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    torch.set_num_threads(1)
    return Exports(tmp_path_factory.mktemp("exports"))


def task_of(name: str) -> str:
    return TASKS[0] if name in LANGUAGE else ""


@pytest.mark.parametrize("name", QUICK)
def test_an_export_acts_as_its_policy_over_twenty_observations(name: str, exports: Exports) -> None:
    """Queue, chunks, history and noise too: LeRobot's own loop runs both, its random numbers begun at the same seed."""
    folder, shown = exports(name), observations(20)
    manifest = Manifest.read(folder)
    assert manifest.check["max_error"] <= TOLERANCE and manifest.check["observations"] == 8
    assert manifest.graphs == ({"whole": "whole.onnx"} if name in ("act", "hlrp_vla_direct") else TWO_GRAPHS)
    policy = in_process(exports.checkpoint(name), shown, seed=3, task=task_of(name))
    exported = in_process(folder, shown, seed=3, task=task_of(name))
    assert np.abs(policy - exported).max() <= TOLERANCE * UNIT
    assert np.abs(np.diff(exported, axis=0)).max() > 1, "the actions differ, so that their order is seen"


def test_a_chunk_that_is_looked_at_changes_no_action_that_follows(exports: Exports) -> None:
    """Of a policy that looks at two observations: each is remembered once, whoever else asks what would be done."""
    name = "diffusion"
    shown = observations(12)
    plain, asked = (load(exports(name), threads=1, seed=3) for _ in range(2))
    assert plain.manifest.history == 2 and plain.manifest.noise is not None
    noise = np.zeros((plain.manifest.noise.draws, *plain.manifest.noise.shape), np.float32)
    for seen in shown:
        asked.predict_chunk(seen, noise=noise)
        assert np.array_equal(asked.select_action(seen), plain.select_action(seen))
    remembered = [held["observation.state"][0] for held in asked.history]
    assert np.array_equal(remembered, [seen["observation.state"] for seen in shown[-2:]])
    policy = load_exported(SimpleNamespace(device="cpu", pretrained_path=exports(name)))
    batch = {n: torch.from_numpy(value)[None] for n, value in shown[0].items()}
    batch["observation.image"] = batch["observation.image"].permute(0, 3, 1, 2)
    assert policy.predict_action_chunk(batch).shape == (1, plain.manifest.chunk, 2) and not policy.runtime.history


def test_temporal_ensembling_is_part_of_the_runtime(ensembled: Path, exports: Exports, tmp_path: Path) -> None:
    """The weights are those of the policy that acts from a queue."""
    folder = shutil.copytree(exports("act"), tmp_path / "export")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"ensemble": 0.01, "n_action_steps": 1}))
    shown = observations(20)
    policy, exported = in_process(ensembled, shown), in_process(folder, shown)
    assert np.abs(policy - exported).max() <= TOLERANCE * UNIT
    assert np.abs(policy - in_process(exports("act"), shown)).max() > 10 * TOLERANCE * UNIT


def test_the_runtime_needs_neither_torch_nor_lerobot(exports: Exports, tmp_path: Path) -> None:
    shown = observations(20)
    alone = run_alone(exports("act"), shown, tmp_path)
    assert (alone["heavy"], alone["engine"]) == ([], "onnxruntime")
    assert np.abs(np.array(alone["actions"]) - in_process(exports.checkpoint("act"), shown)).max() <= TOLERANCE * UNIT


def test_instructions_and_noise_without_torch(exports: Exports, tmp_path: Path) -> None:
    name, shown = "smolvla", observations(1)
    noise = np.random.default_rng(0).standard_normal((1, 6, 32), np.float32)
    alone = run_alone(exports(name), shown, tmp_path, noise=noise, task=TASKS[1])
    loaded = load_served(exports.checkpoint(name), device="cpu").loaded
    picture = torch.from_numpy(shown[0]["observation.image"]).permute(2, 0, 1)[None] / 255
    batch = {"observation.image": picture, "observation.state": torch.from_numpy(shown[0]["observation.state"])[None]}
    with torch.inference_mode():
        chunk = loaded.policy.predict_action_chunk(
            loaded.preprocessor(batch | {"task": [TASKS[1]]}), noise=torch.from_numpy(noise)
        )
        action = loaded.postprocessor(chunk[:, 0])[0].numpy()
    assert alone["heavy"] == []
    assert np.abs(np.array(alone["actions"][0]) - action).max() <= TOLERANCE * UNIT
    other = run_alone(exports(name), shown, tmp_path, noise=noise, task=TASKS[0])
    assert np.abs(np.array(other["actions"][0]) - action).max() > 10 * TOLERANCE * UNIT, (
        "instructions make a difference"
    )


def test_openvino_runs_what_onnxruntime_runs(exports: Exports) -> None:
    folder = exports("hlrp_action_expert_latent")
    noise = np.random.default_rng(0).standard_normal((1, 6, 2), np.float32)
    shown = observations(1)[0] | {"task": TASKS[0]}
    chunks = [load(folder, engine=e, threads=1).predict_chunk(shown, noise=noise) for e in ("onnxruntime", "openvino")]
    assert chunks[0].shape == (6, 2) and np.abs(chunks[0] - chunks[1]).max() <= TOLERANCE * UNIT


@pytest.mark.parametrize("name", ["act", "hlrp_action_expert_latent"])
def test_openvino_names_what_a_graph_takes_and_gives_as_the_file_does(name: str, exports: Exports) -> None:
    """It also knows tensors by names from inside, of which one graph's keys may have one of the next graph's values."""
    for path in exports(name).glob("*.onnx"):
        ours, theirs = (open_graph(path, engine) for engine in ("openvino", "onnxruntime"))
        assert (list(ours._inputs), list(ours._outputs)) == (theirs._inputs, theirs._outputs)


def test_openvino_forgets_the_instruction_before(exports: Exports) -> None:
    """Longer after shorter: both as onnxruntime has them."""
    folder, shown = exports("smolvla"), observations(1)[0]
    onnx, openvino = (load(folder, engine=e, threads=1) for e in ("onnxruntime", "openvino"))
    assert onnx.manifest.noise is not None
    noise = np.random.default_rng(0).standard_normal((1, *onnx.manifest.noise.shape), np.float32)
    tasks = sorted(TASKS, key=len)
    assert len(onnx.ids(tasks[0])) < len(onnx.ids(tasks[-1]))
    for task in (tasks[-1], tasks[0], tasks[-1]):
        found = [runtime.predict_chunk(shown | {"task": task}, noise=noise) for runtime in (onnx, openvino)]
        assert np.abs(found[0] - found[1]).max() <= TOLERANCE * UNIT, task


@pytest.mark.parametrize("kind", [pytest.param("openvino", marks=pytest.mark.slow), "torch"])
def test_the_other_formats_act_as_the_policy(kind: str, exports: Exports) -> None:
    name = "hlrp_vla_direct"
    folder, shown = exports(name, kind), observations(6)
    assert Manifest.read(folder).check["max_error"] <= TOLERANCE
    off = in_process(exports.checkpoint(name), shown, task=TASKS[0]) - in_process(folder, shown, task=TASKS[0])
    assert np.abs(off).max() <= TOLERANCE * UNIT


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openvino", "torch"])
@pytest.mark.parametrize("name", [n for n in POLICIES if n != "hlrp_vla_direct"])
def test_every_format_of_every_policy(name: str, kind: str, exports: Exports) -> None:
    assert Manifest.read(exports(name, kind)).check["max_error"] <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "quantize"), [("onnx", "int8"), ("onnx", "bf16"), ("openvino", "int8")])
def test_quantized_weights_are_smaller_and_their_error_is_told(kind: str, quantize: str, exports: Exports) -> None:
    name, shown = "hlrp_vla_direct", observations(6)
    folder = exports(name, kind, quantize)
    manifest = Manifest.read(folder)
    assert manifest.quantize == quantize and manifest.check["max_error"] <= TOLERANCE
    assert 1e-6 < manifest.check["quantized_max_error"] < 0.2
    size, full = (sum((f / n).stat().st_size for n in Manifest.read(f).files) for f in (folder, exports(name)))
    assert size < 0.65 * full
    off = in_process(exports.checkpoint(name), shown, task=TASKS[0]) - in_process(folder, shown, task=TASKS[0])
    assert 0 < np.abs(off).max() < 0.2 * UNIT


def test_an_export_is_served_as_a_checkpoint_is(exports: Exports) -> None:
    name, shown = "hlrp_vla_direct", observations(12)
    served = load_served(exports(name), device="cpu")
    assert served.metadata["policy"] == name and served.metadata["prompt"] == "needed"
    weights = load_served(exports.checkpoint(name), device="cpu").metadata["run"]["weights_sha256"]
    assert served.metadata["run"]["weights_sha256"] == weights
    assert served.metadata["run"]["export"] == "onnx"
    with running(served) as server, OpenpiClient(server.address) as client:
        actions = acted(client, [o | {"prompt": TASKS[0]} for o in shown])
        with pytest.raises(
            RuntimeError, match="exported without the instruction 'dance'; it knows 'pull', 'push the T'"
        ):
            client.infer(shown[0] | {"prompt": "dance"})
        with pytest.raises(RuntimeError, match="does not resize"):
            client.infer({**shown[0], "observation.image": np.zeros((50, 50, 3), np.uint8), "prompt": TASKS[0]})
    assert np.array_equal(actions, in_process(exports(name), shown, task=TASKS[0]))


def test_an_only_instruction_need_not_be_given(exports: Exports, tmp_path: Path) -> None:
    """To the runtime, nor to the server, which tells its clients which it is."""
    folder = shutil.copytree(exports("hlrp_vla_direct"), tmp_path / "export")
    shown, told = observations(1)[0], observations(1)[0] | {"task": TASKS[0]}
    assert load_served(folder, device="cpu").metadata["task"] is None
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["instructions"]["known"] = {TASKS[0]: manifest["instructions"]["known"][TASKS[0]]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    policy = load(folder)
    assert np.array_equal(policy.predict_chunk(shown), policy.predict_chunk(told))
    served = load_served(folder, device="cpu")
    assert (served.metadata["prompt"], served.metadata["task"]) == ("optional", TASKS[0])
    assert served.reader.read(shown).prompt == TASKS[0]


def test_nothing_of_this_machine_is_in_an_export(exports: Exports) -> None:
    home, here = str(Path.home()).encode(), str(Path(__file__).parents[2]).encode()
    for kind in ("onnx", "torch"):
        folder = exports("hlrp_vla_direct", kind)
        for path in folder.iterdir():
            inside = [path.read_bytes()]
            if path.suffix == ".pt2":
                with zipfile.ZipFile(path) as archive:
                    inside = [archive.read(entry) for entry in archive.namelist()]
            for content in inside:
                assert here not in content and (home == b"/" or home not in content), path
                assert os.sep.encode() + b"site-packages" not in content, path


def test_openvino_does_not_report_that_it_is_used(exports: Exports) -> None:
    code = (
        "import sys, threading; from hlrp.runtime import load; load(sys.argv[1], engine='openvino'); "
        "assert 'openvino' in sys.modules and 'openvino_telemetry.main' not in sys.modules; "
        "assert threading.enumerate() == [threading.main_thread()], threading.enumerate()"
    )
    argv = [sys.executable, "-c", code, str(exports("act"))]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_signals_reach_their_handler_after_openvino(exports: Exports) -> None:
    """On processors with AMX the first one ended the process, once graphs were released in the order of loading."""
    code = (
        "import gc, signal, sys; from hlrp.runtime import load; "
        "loaded = [load(sys.argv[1], engine='openvino') for _ in range(2)]; "
        "loaded.pop(0); gc.collect(); loaded.clear(); gc.collect(); "
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); signal.raise_signal(signal.SIGTERM)"
    )
    argv = [sys.executable, "-c", code, str(exports("act"))]
    assert subprocess.run(argv, check=False, timeout=120).returncode == 7


# ---- refusals


def test_a_graph_that_is_not_the_policy_is_not_written(exports: Exports, tmp_path: Path, monkeypatch: Any) -> None:
    """An error is planted where graphs are traced alone: the policy in torch stays as it is."""
    from hlrp.deploy.export import programs

    honest = programs.Program._in_units
    monkeypatch.setattr(programs.Program, "_in_units", lambda self, chunk: honest(self, chunk + 2e-4))
    with pytest.raises(WorkError, match=r"differ by up to 0\.0002 in normalised units .* more than 0\.0001; nothing"):
        export(exports.checkpoint("act"), tmp_path / "export", "torch")
    assert list(tmp_path.iterdir()) == []


def test_policies_that_cannot_be_exported_say_so(exports: Exports, tmp_path: Path) -> None:
    fields = {"n_obs_steps": 2, "action_chunk_size": 3, "n_action_pred_token": 2, "vqvae_n_embed": 4}
    fields |= {"gpt_n_layer": 1, "gpt_n_head": 2, "gpt_hidden_dim": 32, "gpt_input_dim": 32, "gpt_output_dim": 32}
    vqbet = save_tiny("vqbet", tmp_path / "vqbet", fields=fields)
    with pytest.raises(UserError, match="policies of type 'vqbet' cannot be exported"):
        export(vqbet, tmp_path / "export")
    with pytest.raises(UserError, match="this is an export already"):
        export(exports("act"), tmp_path / "export")
    with pytest.raises(UserError, match="the output exists already"):
        export(exports.checkpoint("act"), tmp_path / "vqbet")
    assert not (tmp_path / "export").exists()


def test_observations_that_do_not_fit_are_refused(exports: Exports) -> None:
    policy, shown = load(exports("hlrp_vla_direct")), observations(1)[0] | {"task": TASKS[0]}
    refused = [
        ({"observation.image": np.zeros((95, 96, 3), np.uint8)}, r"uint8 \[95, 96, 3\], the export takes uint8 \[96"),
        ({"observation.image": np.zeros((96, 96, 3))}, "float64"),
        ({"observation.state": np.zeros(3)}, r"shape \[3\], the policy takes \[2\]"),
        ({"observation.state": [np.nan, 0]}, "all of them finite"),
        ({"task": "push the t"}, "did you mean 'push the T'"),
    ]
    for change, message in refused:
        with pytest.raises(UserError, match=message):
            policy.select_action(shown | change)
    with pytest.raises(UserError, match=r"lacks observation\.state"):
        policy.select_action({k: v for k, v in shown.items() if k != "observation.state"})
    assert policy.select_action(shown).shape == (2,)


def test_damaged_exports_are_refused(exports: Exports, tmp_path: Path) -> None:
    folder = shutil.copytree(exports("act"), tmp_path / "export")
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, message in [
        ({"schema_version": 2}, "version 2"),
        ({"kind": "x"}, "no export"),
        ({"graphs": {}}, "damaged"),
    ]:
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(UserError, match=message):
            load(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    graph = folder / "whole.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"whole\.onnx has changed since the export"):
        load(folder)
    graph.unlink()
    with pytest.raises(UserError, match=r"whole\.onnx is missing"):
        load_served(folder)


def test_a_torch_archive_with_pickled_weights_is_not_opened(exports: Exports, tmp_path: Path) -> None:
    source = exports("hlrp_vla_direct", "torch") / "whole.pt2"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "whole.pt2", "w") as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry).replace(b'"use_pickle": false', b'"use_pickle": true', 1))
    with pytest.raises(UserError, match="holds pickled data"):
        open_graph(tmp_path / "whole.pt2", "torch")


def test_an_export_runs_on_the_cpu_alone(exports: Exports) -> None:
    from hlrp.evaluation.policy import load_policy, policy_config

    config = policy_config(exports("act"), "cpu")
    config.device = "cuda"
    with pytest.raises(UserError, match="exports run on the CPU"):
        load_policy(config, None, {}, rename_given=False)
