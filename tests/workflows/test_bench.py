"""`nwc bench codec`: its figures are those of the bytes."""

from __future__ import annotations

import json

import pytest

from nwc_workflows.cli import main


def test_bench_codec_meets_the_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "codec", "--rows", "512", "--columns", "1024", "--bits", "3", "--bits", "5", "--output", "json"])
    assert ended.value.code == 0
    said = json.loads(capsys.readouterr().out)
    bound = {"scalar": 0.275, "default": 0.10}
    assert len(said["rate"]) == 4
    for point in said["rate"]:
        assert abs(point["bits_per_weight"] - point["wanted"]) < 0.02
        assert 0 < point["gap"] <= bound[point["preset"]]
        assert 1 <= point["bits_per_weight"] / point["ideal_bits"] < 1.01
    whats = [timed["what"] for timed in said["speed"]]
    assert whats == [
        *("memcpy", "zstd -3 compress", "zstd -3 decompress"),
        *("encode, scalar", "decode, scalar", "encode, default", "decode, default"),
    ]
    assert all(timed["seconds"] > 0 for timed in said["speed"])
