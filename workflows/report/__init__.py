"""`nwc report`: what an artifact, a catalog or a benchmark holds, as one HTML file that loads nothing from anywhere."""
