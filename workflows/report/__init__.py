"""Reports: what an artifact, a catalog or benchmarks came to, as one HTML file that needs no network."""
