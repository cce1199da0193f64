"""Which process of how many this is, and on which node, as torchrun or Slurm's srun say."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from hlrp.errors import UserError


class Launch(NamedTuple):
    """The place of a process among those that a launcher started together.

    Args:
        by: The launcher.
        rank: Number of the process, from 0.
        world: Processes in all.
        local_rank: Its number on its node.
        local_world: Processes on every node.
    """

    by: str
    rank: int
    world: int
    local_rank: int
    local_world: int

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return self.world // self.local_world

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Launch | None":
        """As torchrun says, or else srun: of a job step, since in a batch script nothing is started twice.

        Returns:
            None for a process that was started alone.

        Raises:
            UserError: What they say makes no sense, or the nodes have different numbers of processes.
        """
        if "RANK" in environment and "WORLD_SIZE" in environment:
            launch = _read(environment, "torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        elif "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
            spread = set(_tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", "1")))
            if len(spread) > 1:
                raise UserError(
                    f"srun started different numbers of processes on its nodes: {sorted(spread)}",
                    where="SLURM_STEP_TASKS_PER_NODE",
                    fix="give --nodes and --ntasks-per-node in place of --ntasks",
                )
            each = {"_EACH": str(*spread), **environment}
            launch = _read(each, "srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "_EACH")
        else:
            return None
        return launch if launch.world > 1 else None

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What torchrun would have set, for libraries that know torchrun alone; imports Lightning under srun.

        Args:
            environment: Of this process.
        """
        said = {
            "RANK": self.rank,
            "WORLD_SIZE": self.world,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_world,
            "GROUP_RANK": self.rank // self.local_world,
        }
        variables = {name: str(value) for name, value in said.items()}
        if self.by == "srun":
            from lightning.fabric.plugins.environments import SLURMEnvironment

            first = SLURMEnvironment.resolve_root_node_address(environment["SLURM_STEP_NODELIST"])
            # Two steps of a job, and two jobs on a node, meet at different ports.
            port = 15000 + (int(environment["SLURM_JOB_ID"]) * 7 + int(environment["SLURM_STEP_ID"])) % 10000
            variables |= {"MASTER_ADDR": first, "MASTER_PORT": str(port)}
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if name in environment:
                variables[name] = environment[name]
        return variables


def _read(environment: Mapping[str, str], by: str, rank: str, world: str, local: str, local_world: str) -> Launch:
    try:
        launch = Launch(
            by,
            int(environment[rank]),
            int(environment[world]),
            int(environment.get(local, "0")),
            int(environment.get(local_world, "1")),
        )
    except (KeyError, ValueError):
        launch = Launch(by, -1, 0, 0, 1)
    if not 0 <= launch.rank < launch.world or launch.local_world < 1 or launch.world % launch.local_world:
        raise UserError(
            f"{rank}={environment.get(rank)} and {world}={environment.get(world)} are no rank and number of ranks",
            where="environment",
            fix="start it through torchrun or srun, or unset both",
        )
    return launch


def _tasks_per_node(text: str) -> list[str]:
    """The numbers in Slurm's `2(x3),1`: without how often each occurs."""
    return [part.partition("(")[0] for part in text.split(",")]


class Ranks(NamedTuple):
    """Which process of how many this is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Ranks":
        """As the launcher says; a single process otherwise.

        Raises:
            UserError: What it says makes no sense.
        """
        launch = Launch.of(environment)
        return cls() if launch is None else cls(launch.rank, launch.world)

    def share(self, count: int) -> range:
        """Which of ``count`` pieces are this process's: neighbours, so that videos are read in order."""
        return range(self.rank * count // self.world, (self.rank + 1) * count // self.world)


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the first of the processes that a launcher started, in the words of torchrun, Slurm or LSF."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    rank = next((environment[name] for name in names if environment.get(name)), "0")
    return not rank.isdecimal() or int(rank) == 0


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores(environment: Mapping[str, str] = os.environ) -> int:
    """The share of `cores` of one process: torchrun starts several processes on a machine and gives all of them all."""
    beside = environment.get("LOCAL_WORLD_SIZE", "")
    return max(1, cores() // max(1, int(beside))) if beside.isdecimal() else cores()
