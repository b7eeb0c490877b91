"""Damage to a Parquet file is found, wherever in the file it is; other programs read and write the same files."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from result_rows import row

from avflow.errors import InputError
from avflow.results.results import read
from avflow.results.seal import MARK
from avflow.results.table import meta_of, read_parquet, read_parquet_schema, table_from_rows, write_table

META = {"record": {"id": "a", "p_clean": 0.5}}


@pytest.fixture
def path(tmp_path):
    write_table(table_from_rows([row("a", layer=layer) for layer in range(20)], META), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def flipped(data, bit):
    bad = bytearray(data)
    bad[bit // 8] ^= 1 << bit % 8
    return bytes(bad)


def test_a_flipped_bit_is_found_or_is_one_of_the_seals_own_mark(path):
    data, want = path.read_bytes(), read_parquet(path)
    mark = range(8 * data.rindex(MARK), 8 * (data.rindex(MARK) + len(MARK)))
    bits = random.Random(0).sample(range(8 * len(data)), 1000)
    footer = range(8 * (len(data) - 8), 8 * len(data))  # its length, and the magic word
    for bit in {*bits, *footer, *mark[::16]}:
        path.write_bytes(flipped(data, bit))
        if bit in mark:
            assert read_parquet(path).equals(want) and meta_of(read_parquet(path)) == META
            continue
        for read_it in (read_parquet, read_parquet_schema):
            with pytest.raises(InputError, match=r"a\.parquet is (damaged|not a readable Parquet file)"):
                read_it(path)


@pytest.mark.parametrize("size", [0, 4, 100, 2000, -1])
def test_a_truncated_file_is_named(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"a\.parquet is not a readable|is damaged"):
        read_parquet(path)


def test_other_programs_read_it_and_write_it_anew_without_the_seal(path):
    assert pq.read_table(path, page_checksum_verification=True).equals(read_parquet(path))
    pq.write_table(pq.read_table(path).slice(0, 5), path)  # as a user does, who keeps some rows
    assert MARK not in path.read_bytes() and read_parquet(path).num_rows == 5


def test_the_pages_of_a_file_without_a_seal_are_checked_by_their_own_sums(path):
    """Written by avflow, then by another program that kept page checksums."""
    pq.write_table(pq.read_table(path), path, write_page_checksum=True, compression="none")
    data = path.read_bytes()
    path.write_bytes(flipped(data, 8 * data.index(b"video->question")))
    with pytest.raises(InputError, match="CRC"):
        read_parquet(path)


@pytest.mark.parametrize("meta, told", [(b"{", "not JSON"), (b"[1]", "is list, not an object")])
def test_metadata_that_is_none_of_ours_is_told(path, meta, told):
    pq.write_table(table_from_rows([row("a")]).replace_schema_metadata({b"avflow": meta}), path)
    with pytest.raises(InputError, match=told):
        read(path)


def test_a_footer_longer_than_the_file_is_told(path):
    pq.write_table(pa.table({"prompt": ["a"]}), path)
    data = path.read_bytes()
    path.write_bytes(data[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read(path)
