"""Simulators: light rendering, scripted experts, demonstration recording. Nothing heavy is imported here."""
