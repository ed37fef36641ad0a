"""Saved datasets are read by row range; extension types are refused."""

import datasets
import pyarrow as pa
import pytest

from batchgen.errors import InputError, OutputConflict
from batchgen.read import reader
from batchgen.read.formats.dataset import load_dataset
from batchgen.records import Shard, Span
from tests.support.planning import make, touch
from tests.support.reading import hostile_column, job_of, planned, read_all


def saved(folder, count=50):
    dataset = datasets.Dataset.from_list([{"prompt": f"p{number}", "n": number} for number in range(count)])
    dataset.save_to_disk(folder)
    return folder


def test_a_saved_dataset_is_read_by_row_range(tmp_path):
    shard = Shard(0, str(saved(tmp_path / "set")), "dataset", 0, "", "", 50, 50)
    wanted = [Span(0, 3, 10, 7), Span(0, 10, 11, 1)]
    parts = list(reader.read_spans(job_of(format="dataset"), shard, wanted, pa.schema([("n", pa.int64())]), {"prompt"}))
    assert [[row.ordinal for row in rows] for _, rows, _ in parts] == [[3, 4, 5, 6, 7, 8, 9], [10]]
    assert [row.data for row in parts[1][1]] == [{"prompt": "p10"}]
    assert parts[0][2].to_pydict() == {"n": [3, 4, 5, 6, 7, 8, 9]}


def test_a_saved_dataset_is_read_whole(tmp_path):
    rows, table = read_all(saved(tmp_path / "set", 2500), input={"format": "dataset"}, spans={"rows": 700})
    assert [(row.ordinal, row.data) for row in rows] == [(n, {"prompt": f"p{n}"}) for n in range(2500)]
    assert table.column("n").to_pylist() == list(range(2500))


def test_the_split_of_a_saved_dictionary_is_chosen(tmp_path):
    splits = {name: datasets.Dataset.from_list([{"prompt": name}]) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    rows, _ = read_all(tmp_path / "set", input={"format": "dataset", "split": "test"})
    assert [row.data for row in rows] == [{"prompt": "test"}]


def test_a_directory_that_is_no_dataset_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=rf"^dataset {tmp_path}: .*; name a Hub dataset or a directory made by save_to_disk$"):
        load_dataset(job_of(format="dataset").input, str(tmp_path))


@pytest.mark.parametrize("way", ["as saved", "behind much metadata", "in a file of another name"])
def test_an_extension_type_in_a_saved_dataset_is_refused_before_it_is_interpreted(tmp_path, extension, way):
    folder = saved(tmp_path / "set", 2)
    [file] = folder.glob("*.arrow")
    schema = pa.schema([("prompt", extension())], metadata={"x": "y" * (3 << 20)} if way == "behind much metadata" else None)
    file.unlink()
    if way == "in a file of another name":
        state = folder / "state.json"
        state.write_text(state.read_text().replace(file.name, "data.bin"))
        file = folder / "data.bin"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.table([hostile_column(extension, "plain")], schema=schema))
    extension.opened = 0
    with pytest.raises(InputError):
        load_dataset(job_of(format="dataset").input, str(folder))
    assert extension.opened == 0


def test_a_signed_address_in_an_error_of_the_hub_is_not_shown(monkeypatch):
    def fail(*_, **__):
        raise OSError("403 for url: https://user:secret@hub.example/data.parquet?X-Amz-Signature=secret")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError) as caught:
        load_dataset(job_of(format="dataset").input, "some/set")
    assert "OSError: 403 for url: https://hub.example/data.parquet?..." in str(caught.value)
    assert "secret" not in str(caught.value)


def edited(folder, before, after):
    """Change bytes in the one data file of a saved dataset, as nobody should."""
    [path] = folder.glob("*.arrow")
    data = path.read_bytes()
    assert data.count(before) == 1
    path.write_bytes(data.replace(before, after))
    touch(path)


def test_a_saved_dataset_that_is_edited_is_refused_and_one_that_is_touched_is_not(tmp_path):
    folder = saved(tmp_path / "set")
    job, columns, [shard], spans = planned(folder, input={"format": "dataset"})
    for path in folder.glob("*.arrow"):
        touch(path)
    assert make(job, [shard]) == ([], [])
    assert sum(len(rows) for _, rows, _ in reader.read_spans(job, shard, spans, columns.kept, {"prompt"})) == 50
    edited(folder, b"p47p48", b"p84p74")
    with pytest.raises(InputError, match="it is not what was planned: it changed"):
        list(reader.read_spans(job, shard, spans, columns.kept, {"prompt"}))
    with pytest.raises(OutputConflict, match="its rows changed"):
        make(job, [shard])
