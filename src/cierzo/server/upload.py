"""A form with a file in it → the file on the disk, as it comes; never more of it in memory.

Knows forms and bytes; what a file is for is the endpoint's to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from cierzo.errors import RequestError
from cierzo.server.request_body import body_chunks, declared_nbytes, too_large

MAX_PARTS = 16
MAX_FIELD_NBYTES = 1024
FORM_NBYTES = 64 * 1024
"""For all of a form but its file."""

WRITE_NBYTES = 512 * 1024
"""How much is parsed and written at once, on a thread."""

MAX_FILENAME_CHARS = 255
MAX_BOUNDARY_CHARS = 70  # RFC 2046


@dataclass(slots=True)
class Form:
    """What has come of a form. The file's bytes go to `write`."""

    write: Callable[[bytes], None]
    max_file_nbytes: int
    filename: str | None = None
    fields: dict[str, str] = field(default_factory=dict)
    file_nbytes: int = 0
    is_complete: bool = False
    _num_parts: int = 0
    _header: list[bytes] = field(default_factory=lambda: [b"", b""])
    _disposition: str = ""
    _name: str = ""
    _is_file: bool = False
    _value: bytearray = field(default_factory=bytearray)

    def parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": lambda data, start, end: self._add_data(data[start:end]),
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise RequestError(f"the form has more than {MAX_PARTS} parts; send one file at a time")
        self._disposition = ""
        self._value.clear()

    def _add_header(self, which: int, data: bytes) -> None:
        self._header[which] += data

    def _end_header(self) -> None:
        name, value = self._header
        self._header = [b"", b""]
        if name.lower() == b"content-disposition":
            # Clients spell names in UTF-8; the header's parser takes and gives Latin-1.
            self._disposition = value.decode("latin-1")

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        filename = options.get(b"filename")
        self._is_file = self._name == "file"
        if not self._is_file:
            return
        if self.filename is not None:
            raise RequestError("the form has two files; send one at a time", param="file")
        if filename is None:
            raise RequestError("the form's part file has no filename; give it one", param="file")
        self.filename = checked_filename(filename.decode(errors="replace"))

    def _add_data(self, data: bytes) -> None:
        if self._is_file:
            self.file_nbytes += len(data)
            if self.file_nbytes > self.max_file_nbytes:
                raise too_large(self.max_file_nbytes)
            self.write(data)
            return
        self._value += data
        if len(self._value) > MAX_FIELD_NBYTES:
            raise RequestError(
                f"the form's field {self._name[:50]!r} is over {MAX_FIELD_NBYTES} bytes"
            )

    def _end_part(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._value.decode(errors="replace")

    def _end(self) -> None:
        self.is_complete = True


async def read_form(request: Request, write: Callable[[bytes], None], max_file_nbytes: int) -> Form:
    """The request's form; the bytes of its part `file` go to `write`, on a thread.

    Raises RequestError, HTTPException (408, 413, 415), ClientDisconnect, and what `write` does.
    """
    max_nbytes = max_file_nbytes + FORM_NBYTES
    if declared_nbytes(request) > max_nbytes:
        raise too_large(max_file_nbytes)
    form = Form(write, max_file_nbytes)
    parser = form.parser(_boundary(request))
    num_bytes, pending = 0, bytearray()
    try:
        async for chunk in body_chunks(request):
            num_bytes += len(chunk)
            pending += chunk
            if num_bytes > max_nbytes:
                raise too_large(max_file_nbytes)
            if len(pending) >= WRITE_NBYTES:
                data, pending = bytes(pending), bytearray()
                await asyncio.to_thread(parser.write, data)
        await asyncio.to_thread(parser.write, bytes(pending))
    except FormParserError as error:
        raise RequestError(f"the body is no multipart form: {error}") from None
    if not form.is_complete:
        raise RequestError("the form ends before its last boundary; send it again")
    if form.filename is None:
        raise RequestError("the form has no file; send one in the part named file", param="file")
    return form


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= MAX_BOUNDARY_CHARS:
        raise RequestError("send the file as multipart/form-data, with a boundary in the header")
    return boundary


def checked_filename(name: str) -> str:
    """The last part of a name, which may be shown on a line. Raises RequestError."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    if last in ("", ".", "..") or not last.isprintable() or len(last) > MAX_FILENAME_CHARS:
        raise RequestError(
            f"a filename has 1 to {MAX_FILENAME_CHARS} printable characters; got {last[:50]!r}",
            param="file",
        )
    return last
