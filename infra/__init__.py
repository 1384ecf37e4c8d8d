"""Where nwc runs: object stores and the Ray runtime."""
