"""Training of codecs on datasets of weights."""
