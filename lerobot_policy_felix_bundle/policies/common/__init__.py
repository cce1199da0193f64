"""What the policies share: configuration, labels in LeRobot's loop, observations, the action expert, losses."""
