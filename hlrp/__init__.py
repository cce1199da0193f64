"""hlrp: from robot video to a policy that acts, on LeRobot and Lightning."""

__version__ = "0.3.0"
