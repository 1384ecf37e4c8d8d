"""The published NWC codec (arXiv 2510.11234) as a reference to compare with.

A nonlinear autoencoder over chunks of 16 weights, coded to real bytes. What follows the paper and what had to be decided
here is said in `nwc_core.reference.coder`.
"""
