"""Which object keys are allowed: one rule for every store, so that an artifact moves between them unchanged."""

from __future__ import annotations


def key_fault(key: str) -> str | None:
    """What is wrong with a key, in words that follow "found", or None if it is sound.

    A sound key is one or more parts joined by "/", none of them empty, "." or "..", without NUL, in Unicode text: on
    a file system such a key can only name something below the store's root.
    """
    parts = key.split("/")
    faults = {
        "an empty key": not key,
        "a key with a NUL character": "\0" in key,
        "an absolute key": key.startswith("/"),
        "a key with an empty part": "" in parts,
        "a key that climbs out of its folder": "." in parts or ".." in parts,
        "a key that is not Unicode text": key.encode("utf-8", "ignore").decode("utf-8") != key,
    }
    return next((fault for fault, is_so in faults.items() if is_so), None)
