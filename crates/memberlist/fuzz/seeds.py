#!/usr/bin/env python3
"""Writes the seeds of the corpora from the recorded vectors of the crates.

    ./seeds.py FOLDER      # one folder per target below FOLDER, one file per seed

Run the targets on them as README.md says.
"""

import hashlib
import json
import pathlib
import random
import sys

CRATES = pathlib.Path(__file__).resolve().parents[2]


def vectors():
    """(is a stream, bytes) of every recording."""
    for path in sorted((CRATES / "memberlist/tests/vectors").glob("*/*.json")):
        for vector in json.loads(path.read_text())["vectors"]:
            for field in vector.keys() & {"hex", "client_hex", "server_hex"}:
                stream = vector["description"].startswith("TCP") or field != "hex"
                yield stream, bytes.fromhex(vector[field])
    for line in (CRATES / "memberlist/tests/vectors/constructed.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, data = line.split(" ")
            yield "push" in name or "stream" in name, bytes.fromhex(data)


def records():
    """Every JSON object in the recordings of the catalog that looks like a state or a record, and
    each of these as a list."""

    def inside(value):
        if isinstance(value, dict):
            if "ID" in value or "Servers" in value:
                yield json.dumps(value, separators=(",", ":")).encode()
            for child in value.values():
                yield from inside(child)
        elif isinstance(value, list):
            for child in value:
                yield from inside(child)

    for path in sorted((CRATES / "catalog/tests/vectors/http").glob("*.json")):
        for text in inside(json.loads(path.read_text())):
            yield text
            yield b"[" + text + b"]"


def templates():
    for path in sorted((CRATES / "gotemplate/tests/vectors").glob("*.json")):
        for case in json.loads(path.read_text())["cases"]:
            yield case["template"].encode()


def operations():
    """Bytes from which operations are drawn: no recording has any."""
    source = random.Random(1)
    for length in (16, 64, 256, 1024):
        for _ in range(8):
            yield source.randbytes(length)


def write(target, seeds):
    folder = pathlib.Path(sys.argv[1]) / target
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (folder / hashlib.sha1(seed).hexdigest()).write_bytes(seed)


write("packet", (data for stream, data in vectors() if not stream))
# Lenient filter, and two cuts.
write("stream", (bytes([1, 2, 1, 0, 40, 0]) + data for stream, data in vectors() if stream))
write("catalog_json", records())
write("template", templates())
write("node", operations())
