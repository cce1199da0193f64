"""What is asked of Slurm and what it answers: a scheduler that records stands in for it."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import hlrp, hlrp_in_turn
from fake_slurm import FakeSlurm

from hlrp.errors import UserError
from hlrp.locks import FolderLock
from hlrp.ranks import Launch, Ranks
from hlrp.slurm import job_states, own_job, own_log, own_start, requeue_own_job

STEP = {
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
    "SLURM_STEP_NODELIST": "gpu[07-09]",
    "SLURM_JOB_ID": "20004",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin")
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)
    return fake


def test_the_place_of_a_process_by_torchrun_and_by_srun() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    place = Launch.of(torchrun | STEP)
    assert place == ("torchrun", 3, 4, 1, 2) and place.nodes == 2
    place = Launch.of(STEP)
    assert place == ("srun", 5, 6, 1, 2) and place.nodes == 3
    assert place.environment(STEP) == {
        "RANK": "5",
        "WORLD_SIZE": "6",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "2",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(15000 + (20004 * 7 + 1) % 10000),
    }
    assert place.environment(STEP | {"MASTER_ADDR": "here"})["MASTER_ADDR"] == "here"


def test_ranks_come_from_the_launcher() -> None:
    assert Ranks.of({}) == (0, 1)
    assert Ranks.of({"RANK": "3", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}) == (3, 4)
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    assert Ranks.of({"SLURM_PROCID": "1", **step}) == (1, 2)
    for wrong in ("4", "x", "-1"):
        with pytest.raises(UserError, match="RANK"):
            Ranks.of({"RANK": wrong, "WORLD_SIZE": "4"})
    for world in range(1, 9):
        shares = [list(Ranks(r, world).share(5)) for r in range(world)]
        assert [piece for share in shares for piece in share] == list(range(5))


def test_one_process_is_alone_and_so_is_a_batch_script() -> None:
    assert Launch.of({}) is None
    assert (
        Launch.of(STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_PROCID": "0"}) is None
    )
    script = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
    assert Launch.of(script) is None and Ranks.of(script) == (0, 1)
    with pytest.raises(UserError, match="different numbers of processes"):
        Launch.of(STEP | {"SLURM_STEP_TASKS_PER_NODE": "4,2"})


def test_the_number_of_a_job_and_its_starts() -> None:
    assert own_job({}) is None and own_start({}) is None
    task = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "3"}
    assert (own_job(task), own_start(task)) == ("7_2", "7_2+3")


@pytest.mark.parametrize(
    ("said", "goes_on", "requeued"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"preempted": "2026-01-01T00:00:00"}, False, True),
        ({"state": "CANCELLED"}, True, False),
        ({"requeue": 0}, True, False),
        ({"batch": 0}, True, False),
    ],
)
def test_a_stopped_job_is_put_back_unless_it_was_cancelled(
    slurm: FakeSlurm, said: dict[str, object], goes_on: bool, requeued: bool
) -> None:
    slurm.says_of_job(**said)  # type: ignore[arg-type]
    assert requeue_own_job(goes_on=goes_on) == ("7" if requeued else None)
    assert slurm.calls == (["scontrol requeue 7"] if requeued else [])
    assert own_log() == "/logs/7.log"


def test_the_states_of_jobs(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_states(["7"]) == {}
    slurm.says_of_queue("PENDING")
    assert job_states(["7", "7"]) == {"7": "PENDING"}
    monkeypatch.setenv("PATH", "/nowhere")
    assert job_states(["7"]) == {}


def _written_elsewhere(folder: Path, job: str | None, *, seconds_ago: float = 0) -> None:
    folder.mkdir(exist_ok=True)
    record = folder / ".writer.json"
    record.write_text(json.dumps({"host": "elsewhere", "since": "noon", "processes": [[1, 1.0]], "job": job}))
    (folder / "run.json").write_text("{}")
    os.utime(record, (time.time() - seconds_ago,) * 2)


def test_a_writer_on_another_node_keeps_its_lock_while_its_job_runs(slurm: FakeSlurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slurm.says_of_queue("RUNNING")
    _written_elsewhere(run, "8+0")
    with pytest.raises(UserError, match="process 1 on elsewhere, job 8, since noon"), FolderLock(run):
        pass
    slurm.says_of_queue("SUSPENDED")
    _written_elsewhere(run, "8+0", seconds_ago=1000)
    with pytest.raises(UserError, match="job 8"), FolderLock(run):
        pass


@pytest.mark.parametrize(
    ("job", "queue", "seconds_ago"),
    [("8+0", None, 0), ("8+0", "PENDING", 0), ("7+1", "RUNNING", 0), ("8+0", "RUNNING", 100), (None, None, 100)],
    ids=["gone", "waits", "this job before", "died in its job", "no job"],
)
def test_the_lock_of_a_dead_writer_on_another_node_is_taken_over(
    slurm: FakeSlurm, tmp_path: Path, job: str | None, queue: str | None, seconds_ago: float
) -> None:
    slurm.says_of_queue(queue)
    _written_elsewhere(tmp_path / "run", job, seconds_ago=seconds_ago)
    with FolderLock(tmp_path / "run"):
        said = json.loads((tmp_path / "run" / ".writer.json").read_text())
        assert (said["processes"][0][0], said["job"]) == (os.getpid(), "7+0")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_without_a_job_a_writer_elsewhere_is_believed_for_a_while(tmp_path: Path) -> None:
    _written_elsewhere(tmp_path / "run", None, seconds_ago=60)
    with pytest.raises(UserError, match="process 1 on elsewhere, since noon"), FolderLock(tmp_path / "run"):
        pass


def test_a_node_that_is_too_late_leaves_the_record_of_the_faster_one(tmp_path: Path) -> None:
    """Two nodes have read a dead one's record, on a file system that passes no locks on."""
    run, record = tmp_path / "run", tmp_path / "run" / ".writer.json"

    class Late(FolderLock):
        def _claim(self, dead: Any) -> bool:
            _written_elsewhere(run, None)
            record.write_text(record.read_text().replace("elsewhere", "node-a"))
            return super()._claim(dead)

    _written_elsewhere(run, None, seconds_ago=100)
    for late in (Late, FolderLock):
        with pytest.raises(UserError, match="process 1 on node-a, since noon"), late(run):
            pass
        assert json.loads(record.read_text())["host"] == "node-a"
        assert sorted(path.name for path in run.iterdir() if path.name != ".lock") == [".writer.json", "run.json"]


def test_scripts_and_their_mistakes(tmp_path: Path) -> None:
    train = ["train", "--policy", "act", "--dataset-root", str(tmp_path), "--launcher", "slurm"]
    asked = ["slurm.time=2:00:00", "slurm.gpus_per_node=4", "slurm.nodes=2", "slurm.setup=[module load cuda]"]
    template = ["slurm", "template", "--slurm", "partition=gpu", "--slurm", "cpus=8", "--command", "hlrp collect"]
    printed, mine, named, key, array, elsewhere, typo, clash = hlrp_in_turn(
        [
            [*train, *asked, "--dry-run"],
            template,
            [*train, "--output-dir", str(tmp_path / "a run"), "slurm.array=0-3", "--dry-run"],
            [*train, f"output_dir={tmp_path}/a run", "slurm.array=0-3", "--dry-run"],
            ["train", "--launcher", "slurm", "--resume", str(tmp_path), "slurm.array=2"],
            ["train", "--policy", "act", "--dataset-root", str(tmp_path), "slurm.nodes=2"],
            ["eval", "run", "--launcher", "slurm", "--slurm", "partitio=a"],
            [*train, "slurm.nodes=2", "--nodes", "3"],
        ]
    )
    assert printed.code == 0, printed.err
    wanted = [
        "--time=2:00:00",
        "--gpus-per-node=4",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--requeue",
        "--signal=TERM@90",
    ]
    assert [line for line in wanted if f"#SBATCH {line}" not in printed.out] == []
    assert "\nmodule load cuda\n" in printed.out
    *_, last = printed.out.rstrip().splitlines()
    assert (
        last.startswith("exec srun --unbuffered ") and " --dry-run" not in last and "slurm" not in last.split("--")[-1]
    )
    assert last.endswith('_job"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}" --resume auto')
    assert "#SBATCH --partition=gpu" in mine.out
    assert mine.out.rstrip().endswith("exec srun --unbuffered --cpus-per-task=8 hlrp collect")
    task = f"--output-dir '{tmp_path}/a run/task-'\"$SLURM_ARRAY_TASK_ID\" --resume auto"
    assert task in named.out and named.out == key.out, key
    assert (array.code, elsewhere.code, typo.code, clash.code) == (2, 2, 2, 2)
    assert "add --launcher slurm" in elsewhere.err and "did you mean 'partition'?" in typo.err
    assert "slurm.nodes is 2, but trainer.num_nodes is 3" in clash.err


def test_other_commands_are_submitted_as_they_were_typed(tmp_path: Path) -> None:
    fake = FakeSlurm(tmp_path / "bin")
    labels = ["precompute-latents", "--laq", "me/laq", "--allow-download", "--dataset-root", "D"]
    labels += ["--output", str(tmp_path / "table")]
    given = ["--launcher", "slurm", "--slurm", "gpus_per_node=2", "--slurm", "account=lab"]
    done = hlrp(*labels, *given, env={"PATH": fake.environment["PATH"]})
    assert (done.code, done.out.split()) == (0, ["job", "7", "log", str(tmp_path / "slurm" / "7.log")]), done.err
    text = (fake.folder / "job.sh").read_text()
    assert "#SBATCH --account=lab" in text and "#SBATCH --ntasks-per-node=2" in text
    assert text.rstrip().endswith(f"-m hlrp_cli.main {' '.join(labels)}")
    done = hlrp(*labels, *given, env={"PATH": str(Path(sys.executable).parent)})
    assert done.code == 2 and "there is no Slurm on this machine" in done.err


def test_what_cannot_be_done_is_not_submitted(toy_root: Path, tmp_path: Path) -> None:
    """What the job would be refused for, without a look at its node; what the job itself fetches is left to it."""
    fake, policy = FakeSlurm(tmp_path / "bin"), tmp_path / "policy"
    policy.mkdir()
    for name in ("config", "policy_preprocessor", "policy_postprocessor"):
        (policy / f"{name}.json").write_text('{"type": "act"}')
    (policy / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "results.json").write_text("{}")
    evaluate, data = ["eval", "policy", "--env", "xarm"], ["--dataset-root", str(toy_root)]
    refused = {
        "eval nope --episodes 2": "nope",
        "eval policy --env xarm --episodes 0": "flag --episodes",
        "eval policy": "nothing says which environment",
        "eval policy --env xarm --compare gone": "gone",
        "eval policy --diagnose": "the data that this policy was trained on are not here",
        "eval results.json": "only shown, which takes no job",
        f"precompute-latents --laq nope {' '.join(data)}": "nope",
        "precompute-latents --laq policy --dataset-root nowhere": "there is no dataset folder nowhere",
        f"precompute-latents --laq policy {' '.join(data)} --output t": "holds a policy, not a latent action quantizer",
        f"pseudo-label --decoder policy --latents t {' '.join(data)} --output o": "policy",
        "collect --tasks no-such-v3 --output o": "no-such-v3",
    }
    commands = [command.split() for command in refused]
    taken = [
        evaluate,
        [*evaluate, "--compare", "results.json", "--device", "cuda"],
        ["eval", "me/policy", "--allow-download"],
        ["pseudo-label", "--decoder", "me/it", "--laq", "me/laq", *data, "--output", "o", "--allow-download"],
        ["collect", "--env", "metaworld", "--tasks", "button-press-v3", "--output", "o"],
    ]
    done = hlrp_in_turn(
        [[*command, "--launcher", "slurm"] for command in [*commands, *taken]],
        cwd=tmp_path,
        env={"PATH": fake.environment["PATH"]},
    )
    for (command, mention), ended in zip(refused.items(), done, strict=False):
        assert ended.code == 2 and mention in ended.err, (command, ended)
    for command, ended in zip(taken, done[len(refused) :], strict=True):
        assert (ended.code, ended.out.splitlines()[0]) == (0, "job  7"), (command, ended)
    assert len(fake.calls) == len(taken), "no other was submitted"
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["bin", "outputs", "policy", "results.json", "slurm"], "the logs of jobs alone are new"
