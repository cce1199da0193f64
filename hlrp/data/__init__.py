"""LeRobotDataset access."""
