"""Codecs that ship with the package, one safetensors file each."""
