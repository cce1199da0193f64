"""`hlrp eval --diagnose`: which of data, environment, processors and weights fails; see `run.diagnose`."""
