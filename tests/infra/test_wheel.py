"""The wheel that a cluster gets: the code that runs here, the same bytes wherever it is made."""

import base64
import csv
import hashlib
import os
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from nwc_core.errors import UsageError
from nwc_infra.wheel import PACKAGES, unpack_wheel, write_wheel

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return write_wheel(tmp_path_factory.mktemp("wheel"))


def run(program, *arguments, path=None):
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT.parent)
    return done.stdout.split()


def test_it_is_a_wheel_with_a_digest_of_every_file(wheel):
    assert wheel.name.startswith("nwc-")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (record,) = [name for name in names if name.endswith(".dist-info/RECORD")]
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        assert [row[0] for row in rows] == names
        for name, digest, size in rows[:-1]:
            data = archive.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={expected}", len(data)), name
        assert b"Tag: py3-none-any" in archive.read(record.replace("RECORD", "WHEEL"))


def test_it_holds_what_pyproject_says_is_the_package_and_nothing_else(wheel):
    """Also that no package and no data file was forgotten in pyproject.toml, which `pip install` goes by."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    with zipfile.ZipFile(wheel) as archive:
        files = [Path(name) for name in archive.namelist() if ".dist-info" not in name]
    folders = {".".join(file.parent.parts) for file in files if file.name == "__init__.py"}
    assert folders == set(setuptools["packages"])
    for file in files:
        if file.suffix == ".py":
            assert ".".join(file.parent.parts) in folders, file
        else:
            patterns = setuptools["package-data"][file.parts[0]]
            inside = "/".join(file.parts[1:])
            assert any(fnmatch(inside, pattern) for pattern in patterns), file


def test_the_same_code_gives_the_same_bytes_installed_or_not(wheel, tmp_path):
    """The installed one runs from its own folder, whose wheel is this one again, byte for byte."""
    again = write_wheel(tmp_path)
    assert again.read_bytes() == wheel.read_bytes()
    site = tmp_path / "site"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    done = subprocess.run([sys.executable, "-m", "pip", *install], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "from-site").mkdir()
    program = """
import sys; from pathlib import Path; from nwc_infra import wheel
print(wheel.__file__, wheel.write_wheel(Path(sys.argv[1])))
"""
    where, made = run(program, tmp_path / "from-site", path=site)
    assert where.startswith(str(site))
    assert Path(made).name == wheel.name
    assert Path(made).read_bytes() == wheel.read_bytes()


def test_its_folders_run_as_they_are(wheel, tmp_path):
    """As Ray puts each of them into a place of its own."""
    folders = unpack_wheel(wheel, tmp_path / "all")
    assert {folder.name for folder in folders} > set(PACKAGES)
    for folder in folders:
        place = tmp_path / "places" / folder.name
        place.mkdir(parents=True)
        folder.rename(place / folder.name)
    path = os.pathsep.join(str(place) for place in sorted((tmp_path / "places").iterdir()))
    program = """
import nwc_workflows.cli, nwc_core
from nwc_core.codec import Codec; from nwc_core.store import open_store
Codec.load("default"); open_store("/nowhere"); print(nwc_workflows.cli.__file__)
"""
    (where,) = run(program, path=path)
    assert where.startswith(str(tmp_path))


def test_what_is_no_wheel_of_nwc_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"missing\.whl: found no wheel that can be read"):
        unpack_wheel(tmp_path / "missing.whl", tmp_path / "a")
    (tmp_path / "text.whl").write_text("not a zip")
    with pytest.raises(UsageError, match=r"text\.whl: found no wheel that can be read"):
        unpack_wheel(tmp_path / "text.whl", tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
        archive.writestr("other-1.0.dist-info/METADATA", "")
    (tmp_path / "c").mkdir()
    with pytest.raises(UsageError, match=r"found a wheel of other, other-1\.0\.dist-info; wanted one of nwc"):
        unpack_wheel(tmp_path / "other.whl", tmp_path / "c")
