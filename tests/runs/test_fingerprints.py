"""A run mixes neither models nor media: a file that is another one now is named, and what is there can be set aside."""

from __future__ import annotations

import os
import shutil

import pytest
import tiny_job
import torch
import yaml
from command import avflow_, one_line_error
from demo_folder import demo
from safetensors.torch import load_file, save_file
from test_runs import CONFIG, fill, rows_of

from avflow import fingerprints, weights
from avflow.errors import InputError, RunError
from avflow.fingerprints import of_file, of_weights
from avflow.models.fingerprint import checkpoint_fingerprint, model_fingerprint
from avflow.prompts.sample import Sample
from avflow.report import report_together
from avflow.results.results import read
from avflow.runs.folder import RunFolder, read_config
from avflow.runs.loop import run
from avflow.runs.merge import merge
from avflow.runs.records import media_state, read_records

WAS = {"config.json": "10-0123456789abcdef", "model.safetensors": "900-0123456789abcdef"}


# Files


def test_a_copy_has_the_fingerprint_of_its_original(tmp_path):
    (tmp_path / "a").write_bytes(os.urandom(3 << 20))
    shutil.copy(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b", (1, 1))
    assert of_file(tmp_path / "a") == of_file(tmp_path / "b")
    assert of_file(tmp_path / "a").startswith(f"{3 << 20}-")


@pytest.mark.parametrize("size", [1000, 1 << 20, 5 << 20])
@pytest.mark.parametrize("at", [0, -1])
def test_a_byte_at_an_end_counts_in_files_of_every_size(tmp_path, size, at):
    data = bytearray(os.urandom(size))
    (tmp_path / "a").write_bytes(data)
    before = of_file(tmp_path / "a")
    data[at] ^= 1
    (tmp_path / "a").write_bytes(data)
    assert of_file(tmp_path / "a") != before


@pytest.fixture
def tensors(tmp_path, monkeypatch):
    """Weights that count as large, and their file."""
    monkeypatch.setattr(fingerprints, "_WHOLE_WEIGHTS", 1000)
    found = {f"layer.{n}": torch.full((40, 100), float(n)) for n in range(30)} | {"scale": torch.ones(1)}
    save_file(found, tmp_path / "model.safetensors")
    return found, tmp_path / "model.safetensors"


def test_every_tensor_of_large_weights_counts(tensors):
    found, path = tensors
    before = of_weights(path)
    for name in found:
        save_file(found | {name: found[name] * 1.001 + 1}, path)
        assert of_weights(path) != before, name
    save_file({("other" if k == "scale" else k): v for k, v in found.items()}, path)
    assert of_weights(path) != before  # the same numbers under another name
    save_file(found, path)
    assert of_weights(path) == before


@pytest.mark.parametrize("begin", [b"\xff" * 8, (30).to_bytes(8, "little") + b"{" * 30, b"", b"PK"])
def test_weights_that_are_no_safetensors_are_hashed_as_any_file(tmp_path, monkeypatch, begin):
    monkeypatch.setattr(fingerprints, "_WHOLE_WEIGHTS", 10)
    (tmp_path / "model.bin").write_bytes(begin + b"x" * 100)
    assert of_weights(tmp_path / "model.bin") == of_file(tmp_path / "model.bin")


def test_what_of_a_checkpoint_counts(tmp_path):
    folder = tmp_path / "ck"
    shutil.copytree(weights.folder("tiny-omni"), folder)
    found = checkpoint_fingerprint("tiny-omni")
    assert found == checkpoint_fingerprint(str(folder))
    assert {"model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json", "merges.txt"} <= {*found}
    assert not any(name.startswith("MODEL_CARD") for name in found)
    (folder / "optimizer.pt").write_text("of a training")
    (folder / "gone.json").symlink_to(tmp_path / "nowhere")
    (folder / "folder.json").mkdir()
    assert checkpoint_fingerprint(str(folder)) == found
    for name in ("no-such-folder", "/no/such/folder", "./x/y"):
        assert checkpoint_fingerprint(name) == {}


def test_of_a_name_on_the_hub_it_is_the_commit(tmp_path, monkeypatch):
    import transformers.utils

    config = tmp_path / "snapshots" / "0a1b2c" / "config.json"
    monkeypatch.setattr(transformers.utils, "cached_file", lambda name, file, **options: str(config))
    assert checkpoint_fingerprint("org/name") == {"revision": "0a1b2c"}
    monkeypatch.setattr(transformers.utils, "cached_file", lambda name, file, **options: None)
    assert checkpoint_fingerprint("org/name") == {}


# Run folders


@pytest.mark.parametrize(
    "now, told",
    [
        (
            {**WAS, "model.safetensors": "900-ffffffffffffffff"},
            r"model.safetensors: other content in the same 900 bytes",
        ),
        ({**WAS, "model.safetensors": "901-ffffffffffffffff"}, r"model.safetensors: it had 900 bytes and has 901"),
        ({**WAS, "config.json": "9-ffffffffffffffff"}, r"config.json: it had 10 bytes and has 9"),
        ({"config.json": WAS["config.json"]}, "model.safetensors is gone"),
        ({**WAS, "tokenizer.json": "1-0123456789abcdef"}, "tokenizer.json is new"),
        ({"revision": "abc"}, "config.json is gone; model.safetensors is gone; revision is new"),
    ],
)
def test_other_weights_are_refused_with_the_file(tmp_path, now, told):
    fill(tmp_path, ["a"], {**CONFIG, "fingerprint": WAS})
    assert fill(tmp_path, ["a", "b"], {**CONFIG, "fingerprint": WAS}) == ["b"]
    with pytest.raises(InputError, match=rf"measured with other weights .*\({told}\).*--restart"):
        fill(tmp_path, ["a", "b", "c"], {**CONFIG, "fingerprint": now})
    assert read(tmp_path).table["prompt"].unique().to_pylist() == ["a", "b"]


def test_a_folder_of_an_earlier_version_is_resumed_with_a_warning(tmp_path):
    fill(tmp_path, ["a"])
    with pytest.warns(UserWarning, match="does not say which weights"):
        assert fill(tmp_path, ["a", "b"], {**CONFIG, "fingerprint": WAS}) == ["b"]
    assert read_config(tmp_path) == CONFIG  # nobody has checked of which weights the first rows are
    assert "fingerprint" not in read(tmp_path).meta["config"]


def test_restart_sets_the_run_aside_whole(tmp_path):
    out = tmp_path / "run"
    fill(out, ["a"], {**CONFIG, "fingerprint": WAS})
    before = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    for number in (1, 2):
        with RunFolder(out, {**CONFIG, "window": 9}, restart=True) as opened:
            assert opened.aside == tmp_path / f"run.before-{number}"
            assert opened.records == {}
            with pytest.raises(RunError, match="being written"):
                RunFolder(out, CONFIG)
            opened.add("a", rows_of("a"))
    kept = {p: (tmp_path / "run.before-1" / p).read_bytes() for p in before}
    assert kept == before and read_config(tmp_path / "run.before-1")["window"] == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run.before-1", "run.before-2"]


def test_restart_of_nothing_and_through_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with RunFolder(tmp_path / "run", CONFIG, restart=True) as opened:
        assert opened.aside is None
        opened.add("a", rows_of("a"))
    with RunFolder(tmp_path / "run", CONFIG, restart=True) as opened:
        assert opened.aside == tmp_path / "disk.before-1"
    assert (tmp_path / "run").is_symlink() and (tmp_path / "disk" / "config.yaml").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not a run folder"):
        RunFolder(tmp_path / "thesis", CONFIG, restart=True)


@pytest.fixture
def clip(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"0" * 5000)
    return tmp_path / "a.mp4"


def with_media(folder, clip):
    with RunFolder(folder, CONFIG) as opened:
        if not opened.finished("a", "digest"):
            opened.add("a", rows_of("a"), digest="digest", media=media_state([str(clip)]))
            return True
    return False


@pytest.mark.parametrize(
    "content, told", [(b"1" * 5000, "other content in the same 5000"), (b"0", "5000 bytes and has 1")]
)
def test_a_medium_that_was_replaced_is_refused(tmp_path, clip, content, told):
    assert with_media(tmp_path / "run", clip) and not with_media(tmp_path / "run", clip)
    clip.write_bytes(content)
    with pytest.raises(InputError, match=rf"sample 'a' was finished .*a\.mp4 has changed since \(.*{told}.*--restart"):
        with_media(tmp_path / "run", clip)


def test_a_medium_that_was_copied_or_is_gone_is_the_same(tmp_path, clip):
    assert with_media(tmp_path / "run", clip)
    shutil.copy(clip, tmp_path / "copy")
    os.replace(tmp_path / "copy", clip)
    os.utime(clip, (1, 1))
    assert not with_media(tmp_path / "run", clip)
    clip.unlink()
    assert not with_media(tmp_path / "run", clip)


def test_the_state_is_that_before_decoding_and_of_every_file(tmp_path):
    """Here, by workers, and for a sample that is selected out, the record says what was read."""
    path = tiny_job.write(tmp_path / "samples.jsonl", ["s1", "s22", "broken"])
    for name in ("s1", "s22", "broken"):
        (tmp_path / f"{name}.mp4").write_text(name)
    run(tiny_job.job(path), tmp_path / "one", quiet=True)
    records = {r["id"]: r.get("media") for r in read_records(tmp_path / "one")}
    assert records == {n: media_state([f"{tmp_path}/{n}.mp4"]) for n in ("s1", "s22")} | {"broken": None}
    item = Sample(id="x", question="?", answer="A", candidates=["a.png", "b.png"], reference="c.wav")
    assert item.files == ["c.wav", "a.png", "b.png"]
    assert Sample(id="x", question="?", answer="A", video="v", audio="a", image="i").files == ["v", "a", "i"]


def test_a_model_in_memory_is_known_too(tmp_path, monkeypatch):
    """A job of one's own, whose model comes from no checkpoint's files."""
    path = tiny_job.write(tmp_path / "samples.jsonl", ["s1"])
    run(tiny_job.job(path), tmp_path / "run", quiet=True)
    assert "tensors" in read_config(tmp_path / "run")["fingerprint"]["in memory"]
    tiny_job.write(path, ["s1", "s22"])
    assert run(tiny_job.job(path), tmp_path / "run", quiet=True).skipped == 1
    real = tiny_job.TinyJob.load

    def trained(job):
        model = real(job)
        with torch.no_grad():
            next(p for name, p in model.hf.named_parameters() if "mlp" in name).mul_(1.5)
        return model

    monkeypatch.setattr(tiny_job.TinyJob, "load", trained)
    assert run(tiny_job.job(path), tmp_path / "run", quiet=True).skipped == 2  # nothing is measured, none is loaded
    tiny_job.write(path, ["s1", "s22", "s333"])
    with pytest.raises(InputError, match="measured with other weights .*in memory: .* tensors .* there"):
        run(tiny_job.job(path), tmp_path / "run", quiet=True)


def test_of_a_model_in_memory_names_shapes_types_and_values_count():
    def of(**tensors):
        module = torch.nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return model_fingerprint(module)

    same = of(a=torch.arange(5.0), b=torch.ones(2, 3))
    assert same == of(b=torch.ones(2, 3), a=torch.arange(5.0))
    others = [of(c=torch.arange(5.0), b=torch.ones(2, 3)), of(a=torch.arange(5.0), b=torch.ones(3, 2))]
    others += [of(a=torch.arange(5), b=torch.ones(2, 3)), of(a=torch.arange(5.0) + 1, b=torch.ones(2, 3))]
    others += [of(a=torch.empty(0), b=torch.empty(3, device="meta"), c=torch.ones(1, dtype=torch.complex64))]
    assert same not in others


# Merges


def test_runs_of_other_weights_do_not_merge(tmp_path):
    fill(tmp_path / "1", ["a"], {**CONFIG, "fingerprint": WAS})
    fill(tmp_path / "2", ["b"], {**CONFIG, "fingerprint": {**WAS, "config.json": "11-0123456789abcdef"}})
    fill(tmp_path / "3", ["c"], {**CONFIG, "fingerprint": WAS})
    fill(tmp_path / "4", ["d"])
    with pytest.raises(InputError, match="config.json: it had 10 bytes and has 11.*do not merge"):
        merge(tmp_path / "out", [tmp_path / "1", tmp_path / "2"])
    merge(tmp_path / "same", [tmp_path / "1", tmp_path / "3"])
    assert read_config(tmp_path / "same")["fingerprint"] == WAS
    with pytest.warns(UserWarning, match="4 does not say which weights"):
        merge(tmp_path / "old", [tmp_path / "1", tmp_path / "4"])
    assert "fingerprint" not in read_config(tmp_path / "old")


def test_one_sample_of_two_files_does_not_merge(tmp_path, clip):
    with_media(tmp_path / "1", clip)
    os.utime(clip, (1, 1))
    with_media(tmp_path / "2", clip)
    merge(tmp_path / "same", [tmp_path / "1", tmp_path / "2"])
    clip.write_bytes(b"1" * 5000)
    with_media(tmp_path / "3", clip)
    with pytest.raises(InputError, match=r"sample 'a' .*is of another file .*a\.mp4"):
        merge(tmp_path / "out", [tmp_path / "1", tmp_path / "3"])


# The command


def test_a_model_that_was_trained_on_in_place_is_noticed(tmp_path):
    folder, out = tmp_path / "ck", tmp_path / "run"
    shutil.copytree(weights.folder("tiny-omni"), folder)
    (tmp_path / "s.jsonl").write_text(Sample.read_jsonl(demo()["samples"])[0].to_json() + "\n")
    command = ["sweep", folder, tmp_path / "s.jsonl", "--select", "all", "--knockouts", "all->last", "--out", out]
    assert avflow_(*command).exit_code == 0
    rows = read(out).table
    page = (out / "report.html").read_text()
    assert "files of the model" in page and "model.safetensors" not in page.split('id="data"')[0]
    tensors = load_file(folder / "model.safetensors")
    tensors = {k: v * 1.05 if "mlp" in k else v for k, v in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    told = one_line_error(avflow_(*command))
    assert "model.safetensors: other content" in told and "--restart" in told
    assert read(out).table.equals(rows)
    done = avflow_(*command, "--restart")
    assert done.exit_code == 0 and f"is kept in {out}.before-1" in done.stderr
    assert read(f"{out}.before-1").table.equals(rows) and not read(out).table.equals(rows)
    assert yaml.safe_load((out / "config.yaml").read_text())["fingerprint"] == checkpoint_fingerprint(str(folder))
    assert report_together([out, f"{out}.before-1"], tmp_path / "both")
