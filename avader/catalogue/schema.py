"""Columns as the schemas of files, in which each column tells its unit, UCD and definition.

Legend: B images, C bands, H W pixels, D latent dimensions, K components, M = ceil(H W / 8) bytes.
"""

import json
import math
from collections.abc import Iterable, Sequence

import pyarrow as pa

from avader.catalogue.columns import (
    CLASSIFIED_COLUMNS,
    CUTOUT_COLUMNS,
    FILE_TYPE,
    OPTIONAL,
    PIXEL_TYPES,
    POSITION_NAMES,
    REJECT_COLUMNS,
    RESERVED,
    SYNTHETIC_COLUMNS,
    Column,
)


def cutout_schema(
    shape: tuple[int, int, int],
    *,
    dtype: str,
    positions: bool,
    optional: Iterable[str] = (),
    carried: Iterable[pa.Field] = (),
    files: bool = False,
) -> pa.Schema:
    """Columns of a cutout shard; shape is (C, H, W), dtype uint8 or float16, of its pixels.

    optional: names of other optional columns to include. files: whether it holds the bytes that
    came, not their pixels.
    """
    image = FILE_TYPE if files else pa.fixed_shape_tensor(PIXEL_TYPES[dtype], shape)
    lengths = {"M": -(-shape[1] * shape[2] // 8)}
    fields = [
        _described(column, image).with_nullable(False)
        if column.name == "image"
        else _field(column, lengths)
        for column in _present(CUTOUT_COLUMNS, positions, optional)
    ]
    return pa.schema([*fields, *carried])


def classified_schema(
    *,
    latent: int,
    components: int,
    positions: bool,
    optional: Iterable[str] = (),
    carried: Iterable[pa.Field] = (),
) -> pa.Schema:
    """Columns of a classified catalogue; latent is D, components K.

    optional: names of other optional columns to include, those that it does not have ignored.
    """
    lengths = {"D": latent, "K": components}
    present = _present(CLASSIFIED_COLUMNS, positions, optional)
    return pa.schema([*(_field(column, lengths) for column in present), *carried])


def synthetic_schema(
    shape: tuple[int, int, int], *, latent: int, names: Iterable[str], half: bool = False
) -> pa.Schema:
    """Columns of a synthetic catalogue with these names; latent is D.

    The image's shape (C, H, W) is in its metadata. half: whether latents are float16.
    """
    wanted = set(names)
    lengths = {"D": latent, "CHW": math.prod(shape)}
    fields = {c.name: _field(c, lengths) for c in SYNTHETIC_COLUMNS if c.name in wanted}
    if "image" in fields:
        told = {**fields["image"].metadata, b"shape": json.dumps(shape)}
        fields["image"] = fields["image"].with_metadata(told)
    if half and "latent" in fields:
        fields["latent"] = fields["latent"].with_type(pa.list_(pa.float16(), latent))
    return pa.schema(list(fields.values()))


def reject_schema() -> pa.Schema:
    """Columns of the rejects."""
    return pa.schema([_field(column, {}) for column in REJECT_COLUMNS])


def carried_fields(schema: pa.Schema) -> list[pa.Field]:
    """The fields of a shard's schema that are not ours."""
    return [field.remove_metadata() for field in schema if field.name not in RESERVED]


def _present(columns: Sequence[Column], positions: bool, optional: Iterable[str]) -> list[Column]:
    wanted = {*optional, *(POSITION_NAMES if positions else ())}
    return [column for column in columns if column.name in wanted or column.name not in OPTIONAL]


def _field(column: Column, lengths: dict[str, int]) -> pa.Field:
    kind = pa.list_(column.type, lengths[column.length]) if column.length else column.type
    return _described(column, kind)


def _described(column: Column, kind: pa.DataType) -> pa.Field:
    """The column with this type; what it tells stays with it in every Parquet file."""
    told = {"unit": column.unit, "ucd": column.ucd, "description": column.definition}
    return pa.field(column.name, kind, metadata=told)
