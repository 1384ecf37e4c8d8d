"""Reads every hostile file in a process that may take little more memory than it has when it starts; run by a test."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "nwc_core")]

import artifact_cases  # noqa: E402
import codec_cases  # noqa: E402
import coded_cases  # noqa: E402

HEADROOM = 512 << 20  # of address space; threads' stacks and arenas of malloc take some of it


def main() -> int:
    for data in coded_cases.sound().values():
        coded_cases.decode(data)
    artifact_cases.sound()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    cases = [*coded_cases.CASES, *codec_cases.CASES, *artifact_cases.CASES]
    failed = 0
    for case in cases:
        try:
            case.check(traced=False)
        except BaseException as error:
            failed += 1
            print(f"{case.name}: {type(error).__name__}: {error}")
    print(f"{len(cases)} files")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
