"""Reads rows from Parquet files and Arrow streams; rows.py interprets their columns.

A few bytes in the file can decode to gigabytes, so text columns stay dictionary-encoded (equal cells are stored once) and rows
are decoded in parts of bounded size.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from bulletlm.data.readers.chat import MAIN_NAMES, USED_NAMES
from bulletlm.data.readers.lines import LINE_BYTES
from bulletlm.data.readers.opened import one_line
from bulletlm.data.readers.raw import BadRow, Block, Listener, NoColumnError, NotReadError, RawDocument
from bulletlm.data.readers.rows import row_documents
from bulletlm.data.sources import SourceFile
from bulletlm.errors import DataError
from bulletlm.extras import install_command
from bulletlm.files import open_regular

ROWS_AT_ONCE = 1_000
_NESTED_ROWS_AT_ONCE = 64
PART_BYTES = 16 << 20
_LARGEST_GROUP_BYTES = 2 << 30


def blocks(file: SourceFile, listener: Listener) -> Iterator[Block | BadRow]:
    """Read rows of a Parquet or Arrow file, with the columns that can contain text."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError:
        raise DataError(f"{file.path}: reading Parquet needs the pyarrow package: {install_command('data')}") from None
    open_regular(file.path).close()
    try:
        with pyarrow.memory_map(str(file.path)) as opened:
            if file.kind == ".parquet":
                schema = parquet.ParquetFile(opened).schema_arrow
                columns = _text_columns(schema.names, file)
                plain = [name for name in columns if pyarrow.types.is_string(schema.field(name).type)]
                table = parquet.ParquetFile(opened, read_dictionary=plain)
                _check_groups(table.metadata)
                rows = ROWS_AT_ONCE if len(plain) == len(columns) else _NESTED_ROWS_AT_ONCE
                batches = table.iter_batches(batch_size=rows, columns=columns)
            else:
                stream = ipc.open_stream(opened)
                columns = _text_columns(stream.schema.names, file)
                batches = (part for batch in stream for part in _cut(batch.select(columns)))
            listener.taken_for(f"table with the columns {', '.join(columns)}")
            row = 1
            for batch in batches:
                yield from _parts(file, row, batch)
                row += batch.num_rows
            listener.advance(file.path.stat().st_size)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowCapacityError, pyarrow.ArrowNotImplementedError) as error:
        raise NotReadError(f"the file is damaged ({one_line(error)})") from None


def documents(block: Block, seed: int) -> Iterator[RawDocument | BadRow]:
    """The documents of a block."""
    from pyarrow import ipc

    for number, values in enumerate(ipc.open_stream(block.data).read_all().to_pylist(), block.first):
        row = {name: value for name, value in values.items() if value is not None}
        yield from row_documents(block.file, number, row, json.dumps(row, ensure_ascii=False, default=str), seed)


def _check_groups(metadata: Any) -> None:
    largest = max((metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)), default=0)
    if largest > _LARGEST_GROUP_BYTES:
        raise NotReadError(f"a row group holds {largest >> 20:,} MB: write the file with row groups of less than 2,048 MB")


def _cut(batch: Any) -> Iterator[Any]:
    for start in range(0, batch.num_rows, ROWS_AT_ONCE):
        yield batch.slice(start, ROWS_AT_ONCE)


def _parts(file: SourceFile, first: int, batch: Any) -> Iterator[Block | BadRow]:
    """Split a batch into parts of at most PART_BYTES; also return the rows that are larger than LINE_BYTES."""
    import numpy as np
    import pyarrow
    from pyarrow import ipc

    sizes = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        sizes += _cell_bytes(column)
    start = 0
    while start < batch.num_rows:
        if sizes[start] > LINE_BYTES:
            yield BadRow(file.name, first + start, "longer_than_16_MB", "")
            start += 1
            continue
        end = start + max(int(np.searchsorted(np.cumsum(sizes[start:]), PART_BYTES, side="right")), 1)
        part = batch.slice(start, end - start)
        part = pyarrow.RecordBatch.from_arrays([_plain(column) for column in part.columns], names=part.schema.names)
        sink = pyarrow.BufferOutputStream()
        with ipc.new_stream(sink, part.schema) as writer:
            writer.write_batch(part)
        yield Block(file, first + start, first + end - 1, sink.getvalue().to_pybytes())
        start = end


def _cell_bytes(column: Any) -> Any:
    """[rows] size in bytes of each cell, without decoding the cells."""
    import numpy as np
    import pyarrow
    from pyarrow import compute

    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        lengths = compute.binary_length(column.dictionary).fill_null(0)
        return compute.fill_null(lengths.take(column.indices.fill_null(0)), 0).to_numpy(zero_copy_only=False) if len(lengths) else 0
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return compute.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    return np.array([column.slice(row, 1).nbytes for row in range(len(column))], dtype=np.int64)


def _plain(column: Any) -> Any:
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def _text_columns(names: Sequence[str], file: SourceFile) -> list[str]:
    wanted = {file.text, *map(str, file.columns.values())}
    lower = {name.lower() for name in names}
    if not wanted & set(names) and not lower & MAIN_NAMES:
        has = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
        raise NoColumnError(
            f"there is no column {file.text}, messages or prompt (it has {has}): say which one holds text, "
            f'as in {{"path": ..., "text": "{names[0] if names else "content"}"}}'
        )
    return [name for name in names if name in wanted or name.lower() in USED_NAMES]
