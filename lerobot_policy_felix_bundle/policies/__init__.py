"""LeRobot policies of this project, one folder each; what they share is in `common`."""
