"""Exporting a policy: traced into graphs, written in a format, compared with the policy in torch."""
