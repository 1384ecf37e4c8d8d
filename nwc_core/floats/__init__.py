"""The coder "float": tensors of floats, bit for bit. The bytes are specified in artifact/SPEC.md, section "Float body"."""
