"""Iceberg's metadata files under a digest of their own, so that damage is told and never parsed.

PyIceberg's Avro decoder checks no bounds (0.12): one flipped byte of a manifest can end the process, and another, or a
cut at the right place, silently leaves files out. The formats stay as they are, for any engine to read: the digest of
an Avro file is its sync marker, which is any 16 bytes; that of a ``metadata.json`` is a key that readers do not know.
Files that another engine, or ferstore before it did this, wrote have no seal: they are checked for being whole only.
"""

from __future__ import annotations

import hashlib
import json
import re

from ferstore.errors import CorruptionError

BROKEN = "its bytes are not those that were written"
_SYNC = 16
_MARK = b"ferst:"  # the first bytes of our sync markers; ten of the digest follow
_KEY = b',"ferstore-sha256":"'
_TAIL = re.compile(rb'[0-9a-f]{64}"}')
_TAIL_BYTES = 66


def seal(location: str, data: bytes) -> bytes:
    """The bytes of a metadata file with their digest in them; other files as they are."""
    if location.endswith(".avro"):
        return data.replace(data[-_SYNC:], _sync_of(data))
    if location.endswith(".metadata.json") and data.endswith(b"}"):
        return data[:-1] + _KEY + hashlib.sha256(data[:-1]).hexdigest().encode() + b'"}'
    return data


def check_seal(location: str, data: bytes) -> None:
    """Refuse a metadata file that is damaged.

    Raises:
        CorruptionError: its bytes are not those that were written, or it was cut short.
    """
    if location.endswith(".avro"):
        sound = data[-_SYNC:] == _sync_of(data) if _MARK in data else _is_container(data)
    elif location.endswith(".metadata.json"):
        body, tail = data[: -_TAIL_BYTES - len(_KEY)], data[-_TAIL_BYTES:]
        sealed = _KEY in data or _TAIL.fullmatch(tail)
        sound = data == seal(location, body + b"}") if sealed else _is_json(data)
    else:
        return
    if not sound:
        raise unreadable(location, BROKEN)


def unreadable(location: str, error: object) -> CorruptionError:
    """What to say of a metadata file that is missing or damaged."""
    return CorruptionError(
        f"metadata {location} cannot be read: {error}", hint="restore the store's folder from a backup"
    )


def _sync_of(data: bytes) -> bytes:
    """The sync marker that seals an Avro file: from its digest with zeros where its marker, its last bytes, stands."""
    blank = data.replace(data[-_SYNC:], bytes(_SYNC))
    return _MARK + hashlib.sha256(blank).digest()[: _SYNC - len(_MARK)]


def _is_container(data: bytes) -> bool:
    """Whether an Avro file is whole: a header, and blocks that each end in its sync marker."""
    try:
        at = 4
        while count := _long(data, at):
            at = count[1]
            if count[0] == 0:
                break
            if count[0] < 0:  # its size in bytes follows
                at = _long(data, at)[1]
            for _ in range(2 * abs(count[0])):
                size, at = _long(data, at)
                if size < 0:
                    return False
                at += size
        sync, at = data[at : at + _SYNC], at + _SYNC
        while at < len(data):
            size, at = _long(data, _long(data, at)[1])
            if size < 0 or data[at + size : at + size + _SYNC] != sync:
                return False
            at += size + _SYNC
    except IndexError:
        return False
    return data[:4] == b"Obj\x01" and len(sync) == _SYNC and at == len(data)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def _long(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag number, and where it ends.

    Raises:
        IndexError: the data ends before it does.
    """
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
