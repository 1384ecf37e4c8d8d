"""Fuzz every reader of untrusted bytes: ``python -m tests.fuzz.run SECONDS`` (for each target).

With atheris installed coverage guides the inputs (the Python code; libFuzzer does not see into compiled kernels), each
target in a process of its own with a limit on memory. Without it, or with --blind, inputs are mutated at random. Ends
with a table, and with exit code 1 if there was a finding, whose input is kept under --keep.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

MEMORY = 6 << 30  # of address space; torch and compiled kernels alone reserve half of that
RSS_MB = 1500
HANG = 20  # seconds for one input
COMPILED = [f"nwc_core.{name}" for name in ("rans", "scales", "transform", "trellis")]
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=int, help="for each target")
    parser.add_argument("--target", action="append", help="its name; repeatable; all without")
    parser.add_argument("--blind", action="store_true", help="without atheris")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "nwc-fuzz", help="for findings")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    guided = not options.blind and find_spec("atheris") is not None
    if options.child:
        (_guided if guided else _blind)(options.child, options.seconds, options.keep)
        return 0
    from tests.fuzz.targets import TARGETS

    found = 0
    print(f"{'target':30} {'how':8} {'inputs':>9} {'seconds':>8} {'per s':>7}  finding")
    for name in options.target or TARGETS:
        inputs, seconds, finding = _one(name, options, guided)
        found += bool(finding)
        how = "atheris" if guided else "mutation"
        print(f"{name:30} {how:8} {inputs:9,} {seconds:8.0f} {inputs / seconds:7.0f}  {finding or 'none'}", flush=True)
    return int(found > 0)


def _one(name: str, options: argparse.Namespace, guided: bool) -> tuple[int, float, str]:
    """(inputs tried, seconds, finding) of one target, in a process of its own: it may crash for good."""
    keep = options.keep / re.sub(r"\W+", "-", name)
    keep.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.run", str(options.seconds), "--child", name, "--keep", str(keep)]
    started = time.monotonic()
    done = subprocess.run(
        command + ([] if guided else ["--blind"]), cwd=ROOT, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    (keep / "log.txt").write_text(output)
    counts = re.findall(r"^(?:stat::number_of_executed_units:|inputs) *(\d+)", output, re.M)
    counts = counts or re.findall(r"^#(\d+)\s", output, re.M)
    finding = ""
    if done.returncode:
        said = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception|Warning|ERROR)\b.*|^==\d+== ?ERROR.*", output, re.M)
        finding = f"exit code {done.returncode}: {(said or ['no message'])[0][:120]}; see {keep}"
    return int(counts[-1]) if counts else 0, time.monotonic() - started, finding


def _guided(name: str, seconds: int, keep: Path) -> None:
    import atheris

    # Instrumented code does not compile any more.
    with atheris.instrument_imports(include=["nwc_core"], exclude=COMPILED):
        from tests.fuzz.targets import TARGETS, only_our_errors
    target = TARGETS[name]
    corpus = keep / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
        assert only_our_errors(target.run, seed), "a sound input was refused"

    def one(data: bytes) -> None:
        only_our_errors(target.run, data)

    longest = max(4096, 2 * max(map(len, target.seeds())))
    flags = [f"-max_total_time={seconds}", f"-timeout={HANG}", f"-rss_limit_mb={RSS_MB}", f"-max_len={longest}"]
    atheris.Setup(
        [sys.argv[0], str(corpus), *flags, f"-artifact_prefix={keep}/", "-print_final_stats=1", "-seed=1"], one
    )
    atheris.Fuzz()


def _blind(name: str, seconds: int, keep: Path) -> None:
    from tests.fuzz.mutate import mutate
    from tests.fuzz.targets import TARGETS, only_our_errors

    target, chance = TARGETS[name], random.Random(f"{name} {time.time_ns()}")
    seeds = target.seeds()
    for seed in seeds:
        assert only_our_errors(target.run, seed), "a sound input was refused"
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    pool, tried, end = list(seeds), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(chance, chance.choice(pool), chance.choice(seeds))
        (keep / "last").write_bytes(data)  # for a crash that takes the process with it
        started = time.monotonic()
        try:
            accepted = only_our_errors(target.run, data)
            assert time.monotonic() - started < HANG, "a hang"
        except BaseException:
            traceback.print_exc()
            (keep / f"finding-{tried}").write_bytes(data)
            print(f"inputs {tried}")
            raise SystemExit(1) from None
        if accepted and len(pool) < 1000:
            pool.append(data)
        tried += 1
    print(f"inputs {tried}")
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}))


if __name__ == "__main__":
    sys.exit(main())
