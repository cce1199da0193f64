"""Packages whose names are imported on first use: every public name is there, and no other."""

import inspect
from importlib import import_module

import pytest

PACKAGES = ["hlrp.config", "hlrp.data", "hlrp.foundation", "hlrp.foundation.backends", "hlrp.laq", "hlrp.latents"]
PACKAGES += ["hlrp.policies", "hlrp.runs", "trainers"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_found_and_no_other(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert (value.__module__.partition(".")[0], value.__name__) == (package.partition(".")[0], name)
    with pytest.raises(AttributeError, match=rf"module '{package}' has no attribute 'no_such_name'"):
        getattr(module, "no_such_name")  # noqa: B009 - the name is the point
