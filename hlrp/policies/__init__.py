"""Policies as Lightning trains them: the base class, the adapter for LeRobot, the clean classes."""
