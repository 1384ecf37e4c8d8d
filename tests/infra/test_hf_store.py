"""The Hugging Face Hub as a store to read from, against a server on loopback."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator

import pytest
from hub_server import Fault, Hub
from huggingface_hub import constants

from nwc_core.errors import NotFoundError, PermissionDeniedError, StoreError, UsageError
from nwc_core.store import ObjectInfo, Upload, open_store
from nwc_infra.stores import hf_download
from nwc_infra.stores.conformance_reading import ReadingConformance
from nwc_infra.stores.hf import HfStore
from nwc_infra.stores.hf_location import parse_location

LARGE = bytes(range(256)) * 40
FILES = {"config.json": b"{}", "onnx/model.onnx": b"x", "model.safetensors": LARGE, "größe #1.txt": b"ab"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setitem(hf_download.RETRIES, "base_wait_time", 0.01)
    monkeypatch.setitem(hf_download.RETRIES, "max_retries", 2)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield hub
    hub.close()


@pytest.fixture
def store(hub: Hub) -> HfStore:
    hub.push("org/model", FILES)
    return HfStore("hf://org/model")


class TestHfStore(ReadingConformance):
    @pytest.fixture
    def stored(self, hub):
        def make(objects):
            hub.push("org/model", {**{f"below/it/{key}": data for key, data in objects.items()}, "below/other": b"y"})
            return HfStore("hf://org/model/below/it/")

        return make


# --- names


@pytest.mark.parametrize(
    ("uri", "repo", "revision", "folder"),
    [
        ("hf://org/model", "org/model", "main", ""),
        ("hf://org/model/", "org/model", "main", ""),
        ("hf://org/model/a/b c", "org/model", "main", "a/b c"),
        ("hf://org/model@v1.0", "org/model", "v1.0", ""),
        ("hf://org/model@v1/a", "org/model", "v1", "a"),
        ("hf://org/model@feature%2Fx/a/b", "org/model", "feature/x", "a/b"),
        ("hf://org/model@refs/pr/3", "org/model", "refs/pr/3", ""),
        ("hf://org/model@refs/pr/3/a/b", "org/model", "refs/pr/3", "a/b"),
        ("hf://gpt2", "gpt2", "main", ""),
        ("hf://gpt2@v1/a", "gpt2", "v1", "a"),
        ("hf://org/model/a@b", "org/model", "main", "a@b"),
    ],
)
def test_a_location_is_read(uri, repo, revision, folder):
    found = parse_location(uri)
    assert (found.repo, found.revision, found.folder) == (repo, revision, folder)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://", "not a model on the Hugging Face Hub"),
        ("hf:///x", "no name of a model"),
        ("hf://org/../x", "no name of a model"),
        ("hf://org/mo del", "no name of a model"),
        ("hf://org/model@", "'' is no revision"),
        ("hf://org/model@a\nb", "is no revision"),
        ("hf://org/model@..%2F..", "is no revision"),
        ("hf://org/model/a/../b", "climbs out of its folder"),
        ("hf://datasets/org/data", "found one of the Hub's datasets; only models are read"),
        ("s3://org/model", "not a model on the Hugging Face Hub"),
    ],
)
def test_a_location_of_another_form_is_refused(uri, message):
    with pytest.raises(UsageError) as caught:
        HfStore(uri)
    assert message in str(caught.value)
    assert "wanted hf://organisation/model" in str(caught.value)


def test_the_scheme_leads_here(hub):
    assert isinstance(open_store("hf://org/model", "source"), HfStore)


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"read by huggingface_hub; pip install 'nwc\[hf\]'"):
        HfStore("hf://org/model")


def test_an_endpoint_that_is_no_url_is_refused():
    with pytest.raises(UsageError, match="HF_ENDPOINT: found 'example'"):
        HfStore("hf://org/model", endpoint="example")


# --- one commit


def test_all_is_read_from_the_commit_that_the_revision_was(hub, store):
    assert store.get("config.json") == b"{}"
    copied = pickle.dumps(store)
    hub.push("org/model", {"config.json": b"other", "new": b""})
    for old in (store, pickle.loads(copied)):
        assert old.get("config.json") == b"{}"
        assert [info.key for info in old.list()] == sorted(FILES)
    assert HfStore("hf://org/model").get("config.json") == b"other"


def test_a_store_is_pinned_when_it_is_sent_away(hub, store):
    copied = pickle.dumps(store)
    hub.push("org/model", {"config.json": b"other"})
    assert pickle.loads(copied).get("config.json") == b"{}"


def test_a_revision_is_read(hub, store):
    hub.push("org/model", {"a": b"1"}, "v1")
    hub.push("org/model", {"a": b"2"}, "feature/x")
    hub.push("org/model", {"a": b"3"}, "refs/pr/7")
    for revision, data in (("v1", b"1"), ("feature%2Fx", b"2"), ("refs/pr/7", b"3")):
        assert HfStore(f"hf://org/model@{revision}").get("a") == data


def test_a_commit_needs_no_resolving(hub):
    commit = hub.push("org/model", FILES)
    hub.push("org/model", {})
    assert HfStore(f"hf://org/model@{commit}").get_range("config.json", 0, 1) == b"{"
    assert [seen.path for seen in hub.log] == [f"/org/model/resolve/{commit}/config.json"]


def test_a_version_is_the_contents_digest(hub, store):
    before = {key: store.version(key) for key in FILES}
    hub.push("org/model", {**FILES, "model.safetensors": LARGE[::-1]})
    now = HfStore("hf://org/model")
    assert {key for key in FILES if now.version(key) != before[key]} == {"model.safetensors"}


# --- requests


def test_what_reading_costs(hub, store):
    assert store.get_range("model.safetensors", 300, 310) == LARGE[300:310]
    assert len(hub.log) == 3  # the commit, the redirect, the bytes
    assert hub.log[-1].headers["range"] == "bytes=300-309"
    hub.log.clear()
    assert store.get("config.json") == b"{}"
    assert store.size("model.safetensors") == len(LARGE)
    assert list(store.list("onnx/")) == [ObjectInfo("onnx/model.onnx", 1)]
    assert [seen.path.split("/")[-2] for seen in hub.log] == ["tree", "tree", store.commit]  # two pages, and the bytes


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, store):
    hub.token = "hf_secret"
    assert store.get("model.safetensors") == LARGE
    asked = {seen.server: seen.headers.get("authorization") for seen in hub.log}
    assert asked == {"hub": "Bearer hf_secret", "files": None}
    assert b"hf_secret" not in pickle.dumps(store)


def test_an_answer_that_breaks_off_is_taken_up_where_it_broke(hub, store):
    hub.faults = [Fault(lambda seen: seen.server == "files", times=2, cut=1000)]
    assert store.get("model.safetensors") == LARGE
    ranges = [seen.headers["range"] for seen in hub.log if seen.server == "files"]
    assert ranges == ["bytes=0-10239", "bytes=1000-10239", "bytes=2000-10239"]


def test_an_answer_that_always_breaks_off_is_an_error(hub, store):
    hub.faults = [Fault(lambda seen: seen.server == "files", cut=10)]
    with pytest.raises(StoreError, match="broke off with 10210 bytes missing, still after 3 attempts"):
        store.get("model.safetensors")


def test_a_busy_server_is_asked_again(hub, store):
    hub.faults = [Fault(lambda seen: "/resolve/" in seen.path or "/revision/" in seen.path, times=2, status=503)]
    assert store.get_range("config.json", 0, 2) == b"{}"
    hub.faults = [Fault(lambda seen: True, status=503)]
    with pytest.raises(StoreError, match="overloaded or out of order, still after several attempts"):
        store.get_range("config.json", 0, 2)


@pytest.mark.parametrize("key", ["config.json", "model.safetensors"])
def test_a_server_that_ignores_ranges_is_refused(hub, store, key):
    hub.faults = [Fault(lambda seen: "range" in seen.headers, ignores_range=True)]
    assert store.get(key) == FILES[key]  # all of it was asked for
    with pytest.raises(StoreError, match="ignored the byte range"):
        store.get_range(key, 1, 2)


def test_another_range_than_the_one_asked_for_is_refused(hub, store):
    wrong = {"Content-Range": "bytes 0-4/10"}
    hub.faults = [Fault(lambda seen: "/resolve/" in seen.path, status=206, headers=wrong, body=b"01234")]
    with pytest.raises(StoreError, match=r"sent bytes \[0, 5\); wanted \[2, 7\)"):
        store.get_range("config.json", 2, 7)


# --- what goes wrong


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "words"),
    [
        (401, "RepoNotFound", "Repository not found", PermissionDeniedError, "no such model at .*, or a private one"),
        (401, "", "Invalid credentials in Authorization header", PermissionDeniedError, "or a wrong token"),
        (401, "GatedRepo", "Access is restricted", PermissionDeniedError, "is gated: accept its conditions at http"),
        (
            403,
            "GatedRepo",
            "You must be approved",
            PermissionDeniedError,
            "/org/model, then log in .hf auth login. or set",
        ),
        (403, "", "no", PermissionDeniedError, "the token lacks a permission; log in"),
        (403, "", "Access to this resource is disabled.", PermissionDeniedError, "access to the model is disabled"),
        (404, "RepoNotFound", "Repository not found", NotFoundError, "no model org/model at http"),
        (404, "RevisionNotFound", "Invalid rev id", NotFoundError, "has no such revision"),
        (404, "EntryNotFound", "Entry not found", NotFoundError, "no such object"),
        (404, "", "", NotFoundError, "no such object"),
        (429, "", "slow down", StoreError, "too many requests"),
        (500, "", "\x1b[2J", StoreError, "overloaded or out of order"),
        (418, "", "teapot", StoreError, "the server refused .*418: 'teapot'"),
    ],
)
def test_what_the_hub_says_in_plain_words(hub, store, status, code, message, kind, words):
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    # Not for listings of a busy server: huggingface_hub's patience with those is half a minute.
    for part in ("/revision/", "/resolve/", *(["/tree/"] if status not in (429, 500) else [])):
        hub.faults = [Fault(lambda seen, part=part: part in seen.path, status=status, headers=headers)]
        fresh = HfStore("hf://org/model")
        with pytest.raises(kind, match=words) as caught:
            _ = list(fresh.list()) if part == "/tree/" else fresh.get_range("config.json", 0, 1)
        assert type(caught.value) is kind
        assert "\x1b" not in str(caught.value)
        assert "hf_secret" not in str(caught.value)


def test_offline_is_said(hub, store, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        StoreError, match=r"hf://org/model.*: offline: HF_HUB_OFFLINE is set; unset it, or name a local folder"
    ):
        store.get("config.json")


def test_nobody_at_the_endpoint_is_said(hub, store):
    hub.close()
    with pytest.raises(StoreError, match="nobody answers at http://127"):
        store.get("config.json")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"sha": "../../x"}'])
def test_a_server_that_is_no_hub_is_said(hub, store, body):
    hub.faults = [Fault(lambda seen: "/revision/" in seen.path, status=200, body=body)]
    with pytest.raises(StoreError, match="check HF_ENDPOINT"):
        store.get("config.json")


@pytest.mark.parametrize(
    "body", [b'[{"type": "file"}]', b"[1]", b'{"error": 1}', b'[{"type": "file", "path": 1, "size": "x", "oid": ""}]']
)
def test_a_listing_that_is_none_is_said(hub, store, body):
    hub.faults = [Fault(lambda seen: "/tree/" in seen.path, status=200, body=body)]
    with pytest.raises(StoreError, match="hf://org/model"):
        list(store.list())


def test_nothing_is_written(hub, store):
    before = len(hub.log)
    for write in (
        lambda: store.put("a", b""),
        lambda: store.put_stream("a", [b""]),
        lambda: store.create("a", b""),
        lambda: store.delete("config.json"),
        lambda: store.abort(Upload("a", "1", 0.0)),
    ):
        with pytest.raises(StoreError, match="only read from; write to a folder or to s3://"):
            write()
    assert list(store.uploads()) == []
    assert len(hub.log) == before
