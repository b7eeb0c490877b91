"""The run folder: durable, resumable, one writer, and clear when the disk says no."""

import errno
import fcntl
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from avflow import files
from avflow.errors import InputError, RunError
from avflow.results.results import read
from avflow.results.table import table_from_rows, write_table
from avflow.runs.folder import RunFolder
from avflow.runs.records import file_name, part_name, read_records

HERE = Path(__file__).parent
HELPERS = HERE.parent / "helpers"
CONFIG = {"model": "m", "knockouts": ["video->question"], "window": 7, "layers": "all"}


def rows_of(sample_id, layers=3, change=-10.0):
    return [
        {
            "prompt": sample_id,
            "task": "",
            "knockout": "video->question",
            "layer": layer,
            "window": 7,
            "first_layer": 0,
            "last_layer": layer,
            "answer": "B",
            "p_clean": 0.5,
            "p_knockout": 0.45,
            "logp_clean": -0.7,
            "logp_knockout": -0.8,
            "change_percent": change,
            "top_clean": "B",
            "top_knockout": "B",
            "correct": True,
            "correct_knockout": True,
            "status": "ok",
            "kernel": "cpu-avx2",
        }
        for layer in range(layers)
    ]


def fill(folder, ids, config=CONFIG):
    """One run over `ids`; returns the ids that it had to compute."""
    computed = []
    with RunFolder(folder, config) as run:
        for sample_id in ids:
            if not run.finished(sample_id):
                run.add(sample_id, rows_of(sample_id), p_clean=0.5, correct=True, seconds=0.1)
                computed.append(sample_id)
        run.finish(ids)
    return computed


def test_layout(tmp_path):
    folder = tmp_path / "run"
    with RunFolder(folder, CONFIG) as run:
        run.add("b/1", rows_of("b/1"), p_clean=0.5, correct=True, seconds=1.5)
        run.add("a", status="selected_out", reason="the clean answer is wrong", p_clean=0.1, correct=False)
        run.add("c", status="failed", reason="no such file: c.mp4")
        assert not (folder / "rows.parquet").exists()
        run.finish(["c", "a", "b/1"], {"avflow": "0.1"})
    assert yaml.safe_load((folder / "config.yaml").read_text()) == CONFIG
    assert [p.name for p in (folder / "parts").iterdir()] == ["b%2F1.parquet"]
    records = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [(r["id"], r["status"]) for r in records] == [("b/1", "ok"), ("a", "selected_out"), ("c", "failed")]
    assert set(records[0]) == {"id", "status", "reason", "p_clean", "correct", "seconds"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["samples"] == {"ok": 1, "selected_out": 1, "failed": 1}
    assert summary["failed"] == {"c": "no such file: c.mp4"}
    assert summary["rows"] == 3 and summary["kernels"] == ["cpu-avx2"] and summary["config"] == CONFIG
    assert summary["paths"]["video->question"]["mean_change_percent"] == -10
    results = read(folder)
    assert len(results) == 3 and results.meta["finished"] and results.meta["avflow"] == "0.1"


def test_resume_does_only_what_is_left_and_merges_all(tmp_path):
    with RunFolder(tmp_path, CONFIG) as run:
        run.add("a", rows_of("a"))
        run.add("b", status="failed", reason="broken")
        run.add("c", status="selected_out")
    assert read(tmp_path).table["prompt"].unique().to_pylist() == ["a"]
    assert read(tmp_path).meta["finished"] is False
    assert fill(tmp_path, ["a", "b", "c", "d"]) == ["b", "d"]  # what failed is tried again
    assert read(tmp_path).table["prompt"].to_pylist() == ["a"] * 3 + ["b"] * 3 + ["d"] * 3
    assert [r["status"] for r in read_records(tmp_path)].count("failed") == 0
    assert fill(tmp_path, ["a", "b", "c", "d"]) == []


def test_a_finished_run_may_be_extended_and_reads_right_meanwhile(tmp_path):
    fill(tmp_path, ["a"])
    with RunFolder(tmp_path, CONFIG) as run:
        run.add("b", rows_of("b"))
        assert sorted(set(read(tmp_path).table["prompt"].to_pylist())) == ["a", "b"]
        assert read(tmp_path).meta["finished"] is False
    fill(tmp_path, ["a", "b"])
    assert read(tmp_path).meta["finished"] is True


def test_a_part_without_its_line_counts_as_done(tmp_path):
    """A kill between the two."""
    with RunFolder(tmp_path, CONFIG) as run:
        run.add("a", rows_of("a"), p_clean=0.5)
    (tmp_path / "samples.jsonl").unlink()
    assert fill(tmp_path, ["a"]) == []
    assert read_records(tmp_path)[0]["p_clean"] == 0.5


def test_rows_are_merged_in_the_order_asked_for(tmp_path):
    fill(tmp_path, ["c", "a"])
    fill(tmp_path, ["a", "b", "c"])
    assert read(tmp_path).table["prompt"].unique().to_pylist() == ["a", "b", "c"]


def test_another_configuration_is_refused_with_the_keys_named(tmp_path):
    fill(tmp_path, ["a"])
    with pytest.raises(InputError) as error:
        RunFolder(tmp_path, {**CONFIG, "window": 9, "fps": 2.0})
    told = str(error.value)
    assert "window: 7 there, 9 now" in told and "fps: 'absent' there, 2.0 now" in told and "model" not in told
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG
    fill(tmp_path, ["a"])  # the refused one left no lock behind


def test_a_first_try_without_a_sample_does_not_fix_the_configuration(tmp_path):
    RunFolder(tmp_path, {**CONFIG, "layers": [99]}).__exit__()
    fill(tmp_path, ["a"])
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG


def test_a_sample_that_changed_is_refused(tmp_path):
    with RunFolder(tmp_path, CONFIG) as run:
        run.add("a", rows_of("a"), digest="1")
        assert run.finished("a", "1")
        with pytest.raises(InputError, match="'a' was finished .* changed since"):
            run.finished("a", "2")


def test_only_a_run_folder_is_written_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not a run folder .*thesis.tex"):
        RunFolder(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="is a file"):
        RunFolder(tmp_path / "thesis.tex", CONFIG)


def test_parts_removed_after_the_merge_are_not_merged_away(tmp_path):
    fill(tmp_path, ["a", "b"])
    (tmp_path / "parts" / part_name("b")).unlink()
    with pytest.raises(InputError, match="1 samples .*'b'.* are gone"):
        fill(tmp_path, ["a"])
    assert sorted(set(read(tmp_path).table["prompt"].to_pylist())) == ["a", "b"]


@pytest.mark.parametrize("torn", ['{"id": "x", "sta', '{"id": "x"}\n', "null\n", "\x00\x00\n"])
def test_a_torn_record_is_dropped(tmp_path, torn):
    with RunFolder(tmp_path, CONFIG) as run:
        run.add("a", rows_of("a"))
    with open(tmp_path / "samples.jsonl", "a") as file:
        file.write(torn)
    assert fill(tmp_path, ["a", "x"]) == ["x"]
    assert [r["id"] for r in read_records(tmp_path)] == ["a", "x"]


def test_a_damaged_part_is_done_again(tmp_path):
    with RunFolder(tmp_path, CONFIG) as run:
        run.add("a", rows_of("a"))
        run.add("b", rows_of("b"))
    (tmp_path / "parts" / part_name("a")).write_bytes(b"PAR1")
    assert fill(tmp_path, ["a", "b"]) == ["a"]


def test_file_names_differ_where_ids_do():
    ids = ["a", "A", "a/b", "a%2Fb", "a.b", "..", ".", "~", "é", "x" * 300, "x" * 299 + "y", "a b"]
    names = [part_name(i) for i in ids]
    assert len(set(names)) == len(ids)
    assert all("/" not in n and not n.startswith(".") and len(n.encode()) < 200 for n in names)
    assert file_name("plain-1") == "plain-1"


def test_rows_of_another_sample_are_refused(tmp_path):
    with RunFolder(tmp_path, CONFIG) as run, pytest.raises(InputError, match="rows of .'b'. given as those of .*'a'"):
        run.add("a", rows_of("b"))


# One writer


def test_a_folder_in_use_is_refused_and_names_the_process(tmp_path):
    with RunFolder(tmp_path, CONFIG):
        with pytest.raises(RunError, match=f"being written by process {os.getpid()} on"):
            RunFolder(tmp_path, CONFIG)
    fill(tmp_path, ["a"])


def test_a_sample_that_is_tried_again_has_one_line_at_the_end(tmp_path):
    """Its newer line comes last until then, and is the one that is read."""
    for status in ("failed", "failed", "ok"):
        with RunFolder(tmp_path, CONFIG) as run:
            run.add("a", rows_of("a") if status == "ok" else (), status=status, reason=status)
            assert [r["status"] for r in read_records(tmp_path)] == [status]
            run.finish(["a"])
        assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 1


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = (
        "import os, signal, sys; from avflow.runs.folder import RunFolder; "
        f"run = RunFolder(sys.argv[1], {CONFIG!r}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=ENV).returncode == -9
    assert (tmp_path / ".lock").exists()
    fill(tmp_path, ["a"])


def test_a_lock_that_is_a_link_is_refused_and_its_target_stays(tmp_path):
    (tmp_path / "precious").write_text("thesis")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match=r"\.lock is a symbolic link, to .*precious: remove it"):
        RunFolder(tmp_path / "run", CONFIG)
    assert (tmp_path / "precious").read_text() == "thesis"


def test_a_link_that_appears_after_that_look_is_not_followed_either(tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("thesis")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    with pytest.raises(RunError, match=r"cannot write .*\.lock"):
        RunFolder(tmp_path / "run", CONFIG)
    assert (tmp_path / "precious").read_text() == "thesis"


def test_only_temporary_files_of_avflow_are_removed(tmp_path):
    fill(tmp_path, ["a"])
    own = [".rows.parquet.12.avflow.tmp", ".rows.parquet.12.tmp", ".config.yaml.3.tmp", "parts/.b.parquet.9.avflow.tmp"]
    own.append("figures/.flow.png.12.avflow.tmp")
    others = [".x.tmp", ".notes.12.tmp", "parts/.x.tmp", ".avflow.tmp", "x.1.avflow.tmp"]
    (tmp_path / "figures").mkdir()
    for name in (*own, *others):
        (tmp_path / name).write_text("x")
    fill(tmp_path, ["a"])
    assert {name for name in (*own, *others) if (tmp_path / name).exists()} == {*others}


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_with_a_warning(tmp_path, monkeypatch, code):
    def refuse(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="no locks on this file system"):
        run = RunFolder(tmp_path, CONFIG)
    run.add("a", rows_of("a"))
    run.__exit__()
    assert [r["id"] for r in read_records(tmp_path)] == ["a"]
    monkeypatch.undo()
    fill(tmp_path, ["a", "b"])  # nothing that was left there keeps out the next


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """One that outlives the run, as a loader's or a server's may, has the run's open files."""
    run = RunFolder(tmp_path, CONFIG)
    waits, ends = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ends)
        os.read(waits, 1)
        os._exit(0)
    os.close(waits)
    try:
        run.__exit__()
        fill(tmp_path, ["a"])
    finally:
        os.close(ends)
        os.waitpid(child, 0)


# The disk says no


def deny(monkeypatch, name, code, when):
    """os.`name` fails with `code` where when(*args) holds."""
    real = getattr(os, name)

    def failing(*args, **kwargs):
        if when(*args):
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(files.os, name, failing)


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
@pytest.mark.parametrize(
    "code, told", [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only")]
)
def test_a_write_that_fails_is_told_and_leaves_earlier_samples_whole(tmp_path, monkeypatch, call, code, told):
    run = RunFolder(tmp_path, CONFIG)
    run.add("a", rows_of("a"))
    with monkeypatch.context() as patched:
        deny(patched, call, code, lambda *args: True)
        with pytest.raises(RunError, match=told) as error:
            run.add("b", rows_of("b"))
        assert "b.parquet" in str(error.value) or "samples.jsonl" in str(error.value)
    run.__exit__()
    assert not list(tmp_path.rglob("*.tmp"))
    before = (tmp_path / "parts" / part_name("a")).read_bytes()
    computed = fill(tmp_path, ["a", "b"])
    assert "a" not in computed
    assert (tmp_path / "parts" / part_name("a")).read_bytes() == before
    assert [r["id"] for r in read_records(tmp_path)] == ["a", "b"]
    assert read(tmp_path).table.num_rows == 6


def test_a_record_that_does_not_fit_whole_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    files.append_line(path, "first")
    real = os.write
    monkeypatch.setattr(files.os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    with pytest.raises(RunError, match="disk is full"):
        files.append_line(path, "second")
    assert path.read_text() == "first\n"


def test_a_really_full_disk(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "samples.jsonl").symlink_to(full)
    with pytest.raises(RunError, match="disk is full"):
        files.append_line(tmp_path / "samples.jsonl", "x")


def test_a_read_only_folder(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        if os.access(folder, os.W_OK):  # root writes anywhere
            deny(monkeypatch, "open", errno.EACCES, lambda path, *_: str(path).startswith(str(folder)))
        with pytest.raises(RunError, match="no permission"):
            RunFolder(folder, CONFIG)
    finally:
        folder.chmod(0o700)
    assert not (folder / "config.yaml").exists()


def test_a_table_is_never_half_there(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    write_table(table_from_rows(rows_of("a")), path)
    before = path.read_bytes()
    deny(monkeypatch, "replace", errno.ENOSPC, lambda *args: True)
    with pytest.raises(RunError):
        write_table(table_from_rows(rows_of("b")), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


# kill -9

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HELPERS), *sys.path])}

# Kills itself at the n-th call that changes the disk, for every n until a run gets through; forked, so that the imports
# are paid once. After every kill a second run must find all that was durable, and do each other sample once.
CRASHER = """
import os, shutil, signal, sys
from avflow import files
from test_runs import CONFIG, fill
from avflow.runs.folder import RunFolder, read_records
from avflow.results import read

def crash_at(n):
    left = [n]
    for name in ("write", "fsync", "replace", "open", "pwrite"):
        def counted(*args, _real=getattr(os, name), **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return _real(*args, **kwargs)
        setattr(files.os, name, counted)

ids = ["a", "b", "c"]
for n in range(200):
    folder = f"{sys.argv[1]}/{n}"
    told = f"{folder}.told"
    child = os.fork()
    if child == 0:
        log = open(told, "w")
        crash_at(n)
        with RunFolder(folder, CONFIG) as run:
            from test_runs import rows_of
            for i in ids:
                run.add(i, rows_of(i))
                log.write(i); log.flush()
            run.finish(ids)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    durable = list(open(told).read())
    if durable:
        assert set(read(folder).table["prompt"].to_pylist()) >= set(durable), n
    computed = fill(folder, ids)
    assert not set(durable) & set(computed), (n, durable, computed)
    assert len(computed) >= len(ids) - len(durable) - 1, (n, durable, computed)
    assert read(folder).table["prompt"].to_pylist() == [i for i in ids for _ in range(3)], n
    assert [r["id"] for r in read_records(folder)] == ids, n
    left = [f for _, _, fs in os.walk(folder) for f in fs if f.endswith(".tmp")]
    assert not left, (n, left)
    shutil.rmtree(folder)
    if os.WIFEXITED(status):
        print("points", n)
        break
else:
    raise SystemExit("never got through")
"""

# Adds samples for ever so long, saying each one that is durable; the test kills it whenever.
WRITER = """
import sys
from test_runs import CONFIG, rows_of
from avflow.runs.folder import RunFolder
with RunFolder(sys.argv[1], CONFIG) as run:
    print("open", flush=True)
    for index in range(int(sys.argv[2])):
        i = f"s{index}"
        if not run.finished(i):
            print("start", i, flush=True)
            run.add(i, rows_of(i))
            print("done", i, flush=True)
    run.finish([f"s{k}" for k in range(int(sys.argv[2]))])
"""


def test_killed_at_every_point_nothing_is_lost_or_done_twice(tmp_path):
    done = subprocess.run([sys.executable, "-c", CRASHER, str(tmp_path)], env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 20, done.stdout  # the calls were counted


def test_killed_at_random_times(tmp_path):
    rng, done, total = random.Random(0), [], 250
    for attempt in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "run"), str(total)],
            env=ENV,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "open\n"
        if attempt < 4:
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
        said = process.stdout.read().split("\n")
        code = process.wait()
        started = [line.split()[1] for line in said if line.startswith("start s") and line != said[-1]]
        assert not set(started) & set(done)  # a sample whose add() returned is never begun again
        done += [line.split()[1] for line in said if line.startswith("done s") and line != said[-1]]
        if code == 0:
            break
    assert code == 0
    assert len(done) == len(set(done))
    expected = [f"s{k}" for k in range(total) for _ in range(3)]
    assert read(tmp_path / "run").table["prompt"].to_pylist() == expected
    assert [r["id"] for r in read_records(tmp_path / "run")] == [f"s{k}" for k in range(total)]
