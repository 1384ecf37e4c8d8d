"""The compressed artifact: manifest, Parquet index, safetensors payloads, and the reader. SPEC.md has every byte."""
