"""Importing tables: every format gives the same data set, and every kind of wrong input one clear message."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import ConfigError, DataError, UsageError
from recbench.data.columns import Role
from recbench.data.importing import guess_format, import_dataset
from recbench.data.sources.options import ImportOptions

EVENTS = pd.DataFrame(
    {
        "user_id": ["b", "a", "b", "a", "b", "c"],
        "item_id": ["2", "1", "1", "3", "3", "2"],
        "timestamp": [30, 10, 20, 20, 30, 5],
        "rating": [4.0, 3.5, 1.0, 5.0, 2.0, 3.0],
    }
)
ITEMS = pd.DataFrame(
    {
        "item_id": ["1", "2", "3"],
        "title": ['Comma, "quoted"', "Café", "NA"],
        "genres": ["x", "y", ""],
    }
)


def read(paths: Path | list[Path], **options: object) -> Dataset:
    columns: Mapping[Role, str] = options.pop("columns", {})  # type: ignore[assignment]
    settings = ImportOptions(name="mine", columns=columns, **options)  # type: ignore[arg-type]
    return import_dataset(paths if isinstance(paths, list) else [paths], settings)


def write(frame: pd.DataFrame, path: Path) -> None:
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    else:
        text = "\n".join("\t".join(map(str, row)) for row in [list(frame), *frame.itertuples(index=False)])
        data = (text + "\n").encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound folder with events.csv and items.csv."""
    write(EVENTS, tmp_path / "events.csv")
    write(ITEMS, tmp_path / "items.csv")
    return tmp_path


def test_by_hand(folder: Path) -> None:
    dataset = read(folder)
    assert dataset.users == ("b", "a", "c")  # first appearance
    assert dataset.catalog.ids == ("1", "2", "3")
    assert dataset.catalog.titles == ('Comma, "quoted"', "Café", "NA")
    assert dataset.catalog.categories == ("x", "y", "")
    events = dataset.interactions
    assert events.user.tolist() == [0, 0, 0, 1, 1, 2]
    assert events.item.tolist() == [0, 1, 2, 0, 2, 1]  # of b's two events at 30, the first row comes first
    assert events.timestamp.tolist() == [20, 30, 30, 10, 20, 5]
    assert events.rating is not None
    assert events.rating.tolist() == [1.0, 4.0, 2.0, 3.5, 5.0, 3.0]
    assert dataset.has_time
    assert not dataset.notes


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "tsv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_every_format_gives_the_same(folder: Path, tmp_path_factory: pytest.TempPathFactory, suffix: str) -> None:
    other = tmp_path_factory.mktemp("other")
    write(EVENTS, other / f"events.{suffix}")
    write(ITEMS, other / f"items.{suffix}")
    assert read(other).fingerprint == read(folder).fingerprint


def test_numbers_and_text_are_the_same_ids(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("numbers")
    EVENTS.assign(item_id=EVENTS["item_id"].astype(float)).to_parquet(other / "events.parquet")
    ITEMS.assign(item_id=ITEMS["item_id"].astype(int)).to_json(other / "items.jsonl", orient="records", lines=True)
    assert read(other).fingerprint == read(folder).fingerprint


def test_guesses_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        dataset = read(folder)
    sentence = "columns of events.csv guessed: user 'user_id', item 'item_id', time 'timestamp', rating 'rating'"
    assert sentence in caplog.text
    assert sentence in dataset.source
    assert "format 'table' guessed" in dataset.source


def test_columns_can_be_named(tmp_path: Path) -> None:
    write(EVENTS.set_axis(["who", "what", "when", "stars"], axis=1), tmp_path / "e.csv")
    write(ITEMS.set_axis(["code", "label", "genres"], axis=1), tmp_path / "i.csv")
    columns: dict[Role, str] = {"user": "who", "item": "what", "time": "when", "title": "label"}
    with pytest.raises(DataError, match=r"i.csv has no column that looks like the item. Found: code, label, genres"):
        read([tmp_path / "e.csv", tmp_path / "i.csv"], columns=columns)
    write(ITEMS.set_axis(["what", "label", "genres"], axis=1), tmp_path / "i.csv")
    dataset = read([tmp_path / "e.csv", tmp_path / "i.csv"], columns=columns, noun="films")
    assert dataset.interactions.timestamp.tolist() == [20, 30, 30, 10, 20, 5]
    assert dataset.catalog.noun == "films"


def test_an_order_without_times(folder: Path) -> None:
    frame = EVENTS.drop(columns=["timestamp", "rating"]).assign(position=[2, 0, 1, 1, 3, 0])
    write(frame, folder / "events.csv")
    dataset = read(folder)
    assert not dataset.has_time
    assert dataset.interactions.item.tolist() == [0, 1, 2, 0, 2, 1]
    assert dataset.interactions.timestamp.tolist() == [0, 1, 2, 0, 1, 0]
    assert dataset.interactions.rating is None


def test_a_position_breaks_ties_in_time(folder: Path) -> None:
    write(EVENTS.assign(position=[2, 0, 0, 1, 1, 0]), folder / "events.csv")
    assert read(folder).interactions.item.tolist() == [0, 2, 1, 0, 2, 1]


def test_rows_alone_give_the_order(folder: Path) -> None:
    write(EVENTS[["user_id", "item_id"]], folder / "events.csv")
    dataset = read(folder)
    assert dataset.interactions.item.tolist() == [1, 0, 2, 0, 2, 1]
    assert "no column of times or positions" in dataset.source


def test_sequences(folder: Path) -> None:
    (folder / "events.csv").unlink()
    (folder / "sequences.tsv").write_text("user_id\titem_ids\nb\t2 1 3\na\t1 3\nc\t2\n")
    dataset = read(folder)
    assert dataset.users == ("b", "a", "c")
    assert dataset.interactions.item.tolist() == [1, 0, 2, 0, 2, 1]
    assert dataset.interactions.timestamp.tolist() == [0, 1, 2, 0, 1, 0]
    assert not dataset.has_time


@pytest.mark.parametrize(("factor", "unit"), [(10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")])
def test_finer_times_become_seconds(folder: Path, factor: int, unit: str) -> None:
    seconds = EVENTS["timestamp"] + 1_500_000_000
    write(EVENTS.assign(timestamp=seconds * factor + factor // 2), folder / "events.csv")
    dataset = read(folder)
    assert unit in dataset.source
    write(EVENTS.assign(timestamp=seconds), folder / "events.csv")
    assert dataset.fingerprint == read(folder).fingerprint


def test_fractions_order_events_before_they_are_dropped(folder: Path) -> None:
    write(EVENTS.assign(timestamp=[30.9, 10, 20, 20, 30.1, 5]), folder / "events.csv")
    dataset = read(folder)
    assert dataset.interactions.item.tolist()[:3] == [0, 2, 1]
    assert dataset.interactions.timestamp.tolist()[:3] == [20, 30, 30]


def test_titles_are_cleaned_and_missing_ones_said(folder: Path) -> None:
    titles = pd.Series(["  two\r\n\tlines \u2028 ", None, "Q&amp;A <b>"])
    ITEMS.assign(title=titles).to_json(folder / "items.jsonl", orient="records", lines=True)
    (folder / "items.csv").unlink()
    dataset = read(folder)
    assert dataset.catalog.titles == ("two lines", "", "Q&amp;A <b>")
    assert "1 of 3 items" in dataset.source
    assert read(folder, unescape_html=True).catalog.titles[2] == "Q&A <b>"


def test_lists_of_categories_are_joined(folder: Path) -> None:
    (folder / "items.csv").unlink()
    records = [{"item_id": str(n), "title": f"t{n}", "categories": ["a", "b > c"]} for n in (1, 2, 3)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert read(folder).catalog.categories == ("a | b > c",) * 3


def test_titles_beside_the_events(folder: Path) -> None:
    (folder / "items.csv").unlink()
    names = {"1": "One", "2": "Two", "3": "Three"}
    write(EVENTS.assign(item_title=EVENTS["item_id"].map(names)), folder / "events.csv")
    dataset = read(folder)
    assert dataset.catalog.ids == ("2", "1", "3")
    assert dataset.catalog.titles == ("Two", "One", "Three")


def test_no_item_table_is_noted(folder: Path) -> None:
    (folder / "items.csv").unlink()
    dataset = read(folder)
    assert dataset.catalog.titles == ("", "", "")
    assert dataset.notes == ("the source has no item table: all items are untitled",)


def test_items_missing_in_the_item_table_are_added_untitled(folder: Path) -> None:
    write(ITEMS[1:], folder / "items.csv")
    dataset = read(folder)
    assert dataset.catalog.ids == ("2", "3", "1")
    assert dataset.catalog.titles[2] == ""
    assert dataset.catalog.categories == ("y", "", "")
    assert dataset.notes == ("items without title because the item table lacks them: 1 (in 2 events)",)


def test_tables_that_do_not_belong_together(folder: Path) -> None:
    write(ITEMS.assign(item_id=["7", "8", "9"]), folder / "items.csv")
    with pytest.raises(DataError, match=r"6 of 6 events .*the first is '2'; the first item there is '7'"):
        read(folder)


def test_repeated_item_rows(folder: Path) -> None:
    write(pd.concat([ITEMS, ITEMS[:1]]), folder / "items.csv")
    assert "left out: 1" in read(folder).source
    write(pd.concat([ITEMS, ITEMS[:1].assign(title="Other")]), folder / "items.csv")
    with pytest.raises(DataError, match="data rows 1 and 4 both describe the item '1'"):
        read(folder)


def test_a_split_column_is_not_used_and_that_is_said(folder: Path) -> None:
    write(EVENTS.assign(split="train"), folder / "events.csv")
    assert "the column 'split' of events.csv is not used" in read(folder).source


def test_guessed_ratings_that_are_none_are_left_out(folder: Path) -> None:
    write(EVENTS.assign(rating=["good"] * 6), folder / "events.csv")
    assert read(folder).interactions.rating is None
    with pytest.raises(DataError, match="data row 1 has the rating 'good', expected a number"):
        read(folder, columns={"rating": "rating"})


def test_other_encodings(folder: Path) -> None:
    ITEMS.to_csv(folder / "items.csv", index=False, encoding="latin-1")
    with pytest.raises(DataError, match=r"items.csv is not utf-8 text: invalid at byte \d+ \(line 3: 0xe9\)") as error:
        read(folder)
    assert "--encoding latin-1" in str(error.value)
    assert read(folder, encoding="latin-1").catalog.titles[1] == "Café"
    with pytest.raises(ConfigError, match="no encoding 'latin-99'"):
        read(folder, encoding="latin-99")


def test_a_byte_order_mark_is_no_part_of_the_first_column(folder: Path) -> None:
    for name, frame in (("events.csv", EVENTS), ("items.csv", ITEMS)):
        frame.to_csv(folder / name, index=False, encoding="utf-8-sig")
    assert read(folder).catalog.ids == ("1", "2", "3")


def test_windows_line_ends_and_semicolons(folder: Path) -> None:
    before = read(folder).fingerprint
    for name, frame in (("events.csv", EVENTS), ("items.csv", ITEMS)):
        frame.to_csv(folder / name, index=False, sep=";", lineterminator="\r\n")
    assert read(folder).fingerprint == before


WRONG: list[tuple[str, bytes, str]] = [
    ("empty", b"", "events.csv is empty"),
    ("blank", b"\n\n", "events.csv is empty"),
    ("header only", b"user_id,item_id,timestamp\n", "has no rows"),
    ("ragged row", b"user_id,item_id,timestamp\na,1,5\nb,2\n", r"#3.*xpected 3 columns, got 2"),
    ("missing user", b"user_id,item_id,timestamp\na,1,5\n,2,6\n", "data row 2 has no user id"),
    ("missing time", b"user_id,item_id,timestamp\na,1,5\nb,2,\n", "data row 2 has the time '', expected seconds"),
    ("date", b"user_id,item_id,timestamp\na,1,2018-01-01\n", "data row 1 has the time '2018-01-01'"),
    ("nan", b"user_id,item_id,timestamp\na,1,nan\n", "has the time 'nan'"),
    ("infinite", b"user_id,item_id,timestamp\na,1,inf\n", "has the time 'inf'"),
    ("mixed units", b"user_id,item_id,timestamp\na,1,1500000000\na,1,1500000000000\n", "cannot be of one unit"),
    ("same name twice", b"user_id,item_id,item_id\na,1,5\n", "two columns called 'item_id'"),
    ("no header", b"196,242,881250949\n186,302,891717742\n", "no table of interactions.*196, 242"),
    ("cut-off gzip", gzip.compress(b"user_id,item_id,timestamp\n" + b"a,1,5\n" * 5000)[:-20], "damaged gzip"),
    ("broken gzip", b"\x1f\x8b" + b"rubbish" * 9, "damaged gzip"),
]


@pytest.mark.parametrize(("content", "words"), [entry[1:] for entry in WRONG], ids=[entry[0] for entry in WRONG])
def test_wrong_files_are_named(folder: Path, content: bytes, words: str) -> None:
    (folder / "events.csv").write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        read(folder)
    assert str(folder) in error.value.message
    assert error.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"user_id": 1, "item_id": 1, "timestamp": 1}\n{"user_id": 1, "it', "line 2: not valid JSON"),
        (b'{"user_id": 1, "item_id": 1, "timestamp": 1}\n[1, 2]\n', "line 2: a JSON list, expected an object"),
        (b'{"user_id": 1, "item_id": 1, "timestamp": 1}\n{"user_id": 2}\n', "data row 2 has no item id"),
        (b"\xff\xfe\n", "not utf-8"),
    ],
)
def test_wrong_json_lines_are_named(folder: Path, content: bytes, words: str) -> None:
    (folder / "events.csv").unlink()
    (folder / "events.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read(folder)


def test_a_damaged_parquet_file_is_named(folder: Path) -> None:
    (folder / "events.csv").unlink()
    EVENTS.to_parquet(folder / "events.parquet")
    content = (folder / "events.parquet").read_bytes()
    (folder / "events.parquet").write_bytes(content[:-30])
    with pytest.raises(DataError, match=r"events.parquet cannot be read"):
        read(folder)
    EVENTS.assign(timestamp=pd.to_datetime(EVENTS["timestamp"], unit="s")).to_parquet(folder / "events.parquet")
    with pytest.raises(DataError, match="has dates"):
        read(folder)


def test_missing_columns_and_files(folder: Path) -> None:
    with pytest.raises(DataError, match=r"'usr_id' for the user. Did you mean 'user_id'.* Found: user_id, item_id"):
        read(folder, columns={"user": "usr_id"})
    with pytest.raises(DataError, match="does not exist"):
        read(folder / "nowhere.csv")
    write(EVENTS.drop(columns="user_id"), folder / "events.csv")
    with pytest.raises(DataError, match=r"no column that looks like the user. Found: item_id, timestamp, rating"):
        read([folder / "events.csv", folder / "items.csv"])
    write(ITEMS.drop(columns="title"), folder / "items.csv")
    write(EVENTS, folder / "events.csv")
    with pytest.raises(DataError, match=r"items.csv has no column that looks like the title"):
        read(folder)
    (folder / "notes.docx").write_text("x")
    with pytest.raises(DataError, match="no known format"):
        read(folder / "notes.docx")


def test_several_tables_of_a_kind(folder: Path) -> None:
    write(EVENTS, folder / "more.csv")
    with pytest.raises(DataError, match=r"2 tables of interactions: events.csv, more.csv"):
        read(folder)
    assert read([folder / "items.csv", folder / "more.csv"]).users == ("b", "a", "c")


def test_built_in_names_are_not_taken(folder: Path) -> None:
    with pytest.raises(UsageError, match="built-in"):
        import_dataset([folder], ImportOptions("ml-100k"))


def test_recbole_atomic_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("atomic")
    events = EVENTS.set_axis(["user_id:token", "item_id:token", "timestamp:float", "rating:float"], axis=1)
    write(events, other / "x.inter.tsv")
    write(ITEMS.set_axis(["item_id:token", "title:token_seq", "genres:token_seq"], axis=1), other / "x.item.tsv")
    for kind in ("inter", "item"):
        (other / f"x.{kind}.tsv").rename(other / f"x.{kind}")
    assert guess_format([other]) == "recbole"
    assert read(other).fingerprint == read(folder).fingerprint
    (other / "y.inter").write_text("user_id:token\titem_id:token\n1\t1\n")
    with pytest.raises(DataError, match=r"found x.inter, y.inter, x.item"):
        read(other)
    (other / "y.inter").write_text("user_id:token\titem_id_list:token_seq\titem_id:token\n1\t1 2\t3\n")
    with pytest.raises(DataError, match="ready-made examples"):
        read([other / "y.inter"])


@pytest.mark.parametrize(
    ("name", "sizes", "has_time"),
    [
        ("beauty_2014", (22_363, 12_101, 198_502), True),
        ("toys_2014", (19_412, 11_924, 167_597), False),
        ("games_2018_lcrec", (50_546, 16_859, 452_989), False),
        ("games_2018_dealrec", (49_156, 17_332, 342_329), False),
        ("ml-1m_sequences", (6_040, 3_883, 1_000_209), False),
    ],
)
def test_real_tables(shared: Path, name: str, sizes: tuple[int, int, int], has_time: bool) -> None:
    dataset = read(shared / "data" / name)
    assert (len(dataset.users), len(dataset.catalog), len(dataset.interactions)) == sizes
    assert dataset.has_time == has_time
