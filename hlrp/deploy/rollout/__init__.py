"""Trials of policies on robots, on LeRobot's rollout engine: checks before the robot moves, outcomes, series."""
