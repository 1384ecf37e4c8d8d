"""A small catalog for tests: sound models, and one that is cut off."""

import json

from checkpoints import normal, save

SOUND = ("a", "b/deep", "c")


def make_models(folder):
    """Three sound models and `bad` below a folder."""
    save(folder / "a" / "model.safetensors", {"w": normal(64, 128, seed=1), "norm": normal(64, seed=2)})
    (folder / "a" / "config.json").write_text(json.dumps({"model_type": "none"}))
    save(folder / "b" / "deep" / "weights.safetensors", {"w": normal(96, 96, seed=3)})
    save(folder / "c" / "model.safetensors", {"w": normal(64, 64, seed=4)})
    bad = save(folder / "bad" / "model.safetensors", {"w": normal(64, 64, seed=5)})
    bad.write_bytes(bad.read_bytes()[:-1])
    return folder


def write_catalog(path, models, results, more=""):
    """Of all models below `models`, one of them with a size of its own. Gives the path."""
    path.write_text(
        f"destination: {results}/{{name}}\n"
        f"models:\n- {{source: {models}/a, bits: 15}}\n- {{prefix: {models}}}\n"
        f"defaults: {{bits: 20, preset: scalar}}\nprice: 1000\n{more}"
    )
    return path


def record_path(results, name):
    return results / ".nwc-catalog" / name / "status.json"


def change_record(results, name, **changes):
    """Write a record as another time or another driver would have."""
    path = record_path(results, name)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
