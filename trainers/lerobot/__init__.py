"""LeRobot's own training, in a process of its own."""
