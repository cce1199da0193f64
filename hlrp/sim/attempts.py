"""Which attempts at a task are made, which count, and when there is no point in another."""

from collections.abc import Mapping
from dataclasses import dataclass

from hlrp.errors import WorkError
from hlrp.sim.pool import Job

MAX_FAILURES_IN_A_ROW = 20


@dataclass(frozen=True)
class Attempts:
    """The attempts at each task of a recording, by number from 0 on; an outcome is whether one succeeded.

    Attributes:
        episodes: Successes wanted of a task.
        seed: Reset seed of the first attempt; attempt k uses ``seed + k``.
        different: How many attempts differ: one more would be the first again. None: all do.
    """

    episodes: int
    seed: int
    different: int | None = None

    def that_count(self, outcomes: Mapping[int, bool]) -> dict[int, bool]:
        """Outcomes without those that repeat earlier ones, or that only a larger number of episodes asked for."""
        counted: dict[int, bool] = {}
        # One that is not known was under way when the recording was stopped: it may succeed.
        wanted = self.episodes
        for number in range(max(outcomes, default=-1) + 1):
            if wanted == 0 or number == self.different:
                break
            if number in outcomes:
                counted[number] = outcomes[number]
            wanted -= outcomes.get(number, True)
        return counted

    def next_job(self, known: Mapping[str, dict[int, bool]], under_way: Mapping[str, set[int]]) -> Job | None:
        """The attempt to make next, if one more may be needed.

        Args:
            known: Outcomes by task.
            under_way: Numbers of the attempts that are being made, by task.
        """
        for task, outcomes in known.items():
            taken = outcomes.keys() | under_way[task]
            if sum(outcomes.values()) + len(under_way[task]) < self.episodes and len(taken) != self.different:
                number = next(k for k in range(len(taken) + 1) if k not in taken)
                return Job(task, number, self.seed + number)
        return None

    def kept(self, outcomes: Mapping[int, bool]) -> list[int]:
        """Numbers of the attempts that become episodes: the first successes."""
        return [number for number in sorted(outcomes) if outcomes[number]][: self.episodes]

    def check(self, task: str, outcomes: Mapping[int, bool]) -> None:
        """Find that the expert cannot do what is asked.

        Raises:
            WorkError: It failed too often in a row, or has tried every first state without success in enough of them.
        """
        row = 0
        for number in range(max(outcomes, default=-1) + 1):
            # An attempt under way ends a row: it may still succeed.
            row = row + 1 if outcomes.get(number) is False else 0
            if row >= MAX_FAILURES_IN_A_ROW:
                raise WorkError(
                    f"the scripted expert of {task} failed {row} times in a row"
                    "\n  fix:   record with less --noise, or leave the task out"
                )
        solved = sum(outcomes.values())
        if len(outcomes) == self.different and solved < self.episodes:
            raise WorkError(
                f"{solved} episodes of {task} are recorded: the scripted expert solved as many of its {self.different} "
                f"first states, and without noise each gives one episode; {self.episodes} are asked for"
                f"\n  fix:   go on with --episodes {solved}, or give --noise and another --output"
            )
