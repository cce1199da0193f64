"""How what is on the Hub is named."""

HUB_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"
"""Pattern of `USER/NAME`."""
