"""A ledger that many tests tamper with: made once, and put right again where a test has changed it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import IndexModel
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

from ledgerlake.mongo.indexes import COUNTERS

Db = Database[dict[str, Any]]
# Size, time of change and inode: other than before as soon as anybody has written to the file.
Signature = tuple[int, int, int]

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(RawBSONDocument)


class Kept:
    """The documents of a database, byte for byte, and the files under a folder, as they are now."""

    def __init__(self, db: Db, folder: Path, aside: Path) -> None:
        """`aside`: a folder that does not exist yet, for copies of the files."""
        self._db, self._folder, self._aside = db, folder, aside
        self._documents = {name: list(_raw(db)[name].find()) for name in db.list_collection_names()}
        self._indexes = {name: db[name].index_information() for name in self._documents}
        self._hashes = _hashes(db)
        shutil.copytree(folder, aside)
        self._files = _signatures(folder)

    def restore(self) -> None:
        """Put right what was changed since."""
        self._restore_documents()
        self._restore_files()

    def _restore_documents(self) -> None:
        now = _hashes(self._db)
        # The counter is written last, at majority: what was written before it is at majority by then.
        unhurried = _raw(self._db, WriteConcern(1, j=False))
        for name in now.keys() - self._documents.keys():
            unhurried[name].drop()
        changed = [name for name, found in self._hashes.items() if now.get(name) != found]
        for name in changed:
            if name not in now:
                self._make(name)
            unhurried[name].delete_many({})
            if self._documents[name]:
                unhurried[name].insert_many(self._documents[name])
        if changed:
            for counter in self._documents[COUNTERS]:
                _raw(self._db)[COUNTERS].replace_one({"_id": counter["_id"]}, counter)

    def _make(self, name: str) -> None:
        """A collection that was dropped, with its indexes."""
        self._db.create_collection(name)
        models = [
            IndexModel(index["key"], name=each, **{k: v for k, v in index.items() if k not in ("key", "v")})
            for each, index in self._indexes[name].items()
            if each != "_id_"
        ]
        if models:
            self._db[name].create_indexes(models)

    def _restore_files(self) -> None:
        now = _signatures(self._folder)
        for path in now.keys() - self._files.keys():
            (self._folder / path).unlink()
        for path, signature in self._files.items():
            if now.get(path) != signature:
                (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
                (self._folder / path).unlink(missing_ok=True)
                shutil.copy2(self._aside / path, self._folder / path)
        self._files = _signatures(self._folder)


@contextmanager
def put_right(kept: Kept) -> Iterator[None]:
    """What is changed within the block is put right after it."""
    try:
        yield
    finally:
        kept.restore()


def _raw(db: Db, concern: WriteConcern | None = None) -> Database[RawBSONDocument]:
    return db.with_options(codec_options=_RAW, write_concern=concern)  # type: ignore[return-value,arg-type]


def _hashes(db: Db) -> Mapping[str, str]:
    """A hash of the documents of each collection, which the server makes."""
    found: Mapping[str, str] = db.command("dbHash")["collections"]
    return found


def _signatures(folder: Path) -> dict[Path, Signature]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): _signature(path) for path in paths}


def _signature(path: Path) -> Signature:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
