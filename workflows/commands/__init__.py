"""The commands of `nwc`, one file each; nwc_workflows.cli names them."""
