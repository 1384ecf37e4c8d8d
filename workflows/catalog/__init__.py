"""Many models by one file: `nwc catalog`."""
