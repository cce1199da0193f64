"""Names of the trainers, without importing them: those of this project, and those of other packages (entry points)."""

TRAINERS: dict[str, str] = {"lerobot": "LeRobot", "lightning": "Lightning"}
"""`trainer_type` of this project's trainers, as people write it; the class is called `<that>Trainer`."""

GROUP = "hlrp.trainers"
"""Group of entry points; of each, the name is the `trainer_type`, the value `module:Class`."""


def other_trainers() -> dict[str, str]:
    """`trainer_type` to `module:Class` of every installed package's trainers."""
    # Imported late: the command line needs the names above for its help.
    from importlib import metadata

    return {found.name: found.value for found in metadata.entry_points(group=GROUP)}
