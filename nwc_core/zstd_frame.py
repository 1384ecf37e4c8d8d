"""Records as one Zstandard frame with its content size, read back within a bound.

The declared size is compared before anything is allocated, so a small frame cannot unpack into more than its reader allows.
"""

from __future__ import annotations

from nwc_core.errors import FormatError


def pack(data: bytes, level: int) -> bytes:
    """One frame; equal arguments give equal bytes with the same version of Zstandard only."""
    import zstandard

    return bytes(zstandard.ZstdCompressor(level=level, write_content_size=True).compress(data))


def unpack(frame: bytes, most: int, where: str) -> bytes:
    """What the frame holds.

    Args:
        frame: one frame, and nothing behind it.
        most: bytes that it may hold.
        where: names the record in errors.

    Raises:
        FormatError: the frame is damaged, declares no size, none but 0 or one above `most`, or holds another number of bytes.
    """
    import zstandard

    try:
        declared = zstandard.frame_content_size(frame)  # -1 if it says nothing
        if not 0 < declared <= most:  # behind a frame of nothing the library would not look
            found = f"{len(frame)} bytes with a Zstandard frame of {declared}"
            raise FormatError(where, found, f"a frame of at most {most} bytes, but not of none")
        data = bytes(zstandard.ZstdDecompressor().decompress(frame, max_output_size=most, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise FormatError(where, f"a damaged Zstandard frame ({error})", "an intact one") from None
    if len(data) != declared:
        raise FormatError(where, f"{len(data)} bytes in a Zstandard frame of {declared}", "as many as it declares")
    return data
