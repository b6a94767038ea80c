"""A VOTable's header: columns with type, unit, UCD and meaning, and where they come from.

Without its data it is what VOTable in Parquet keeps in a file's metadata; with data after
`split`, a VOTable. Written by astropy.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from astropy.io.votable import tree

VERSION = "1.4"


@dataclass(frozen=True)
class Field:
    """One FIELD. datatype, arraysize: VOTable's own; unit: a VOUnit; each but name may be empty."""

    name: str
    datatype: str
    arraysize: str = ""
    unit: str = ""
    ucd: str = ""
    meaning: str = ""


def header(
    fields: Sequence[Field], *, name: str, description: str, infos: Mapping[str, str]
) -> bytes:
    """A VOTable of one table without data, as XML in UTF-8.

    infos: what becomes INFO elements of the table's resource, by name.
    """
    file = tree.VOTableFile(version=VERSION)
    resource = tree.Resource()
    file.resources.append(resource)
    for key, value in infos.items():
        resource.infos.append(tree.Info(name=key, value=value))
    table = tree.TableElement(file, name=name)
    table.description = description
    resource.tables.append(table)
    for field, id_ in zip(fields, _ids(fields), strict=True):
        table.fields.append(_field(file, field, id_))
    sink = io.BytesIO()
    file.to_xml(sink)
    return sink.getvalue()


def split(xml: bytes) -> tuple[bytes, bytes]:
    """A header of this room as what comes before its table's data, and what comes after."""
    head, _, tail = xml.rpartition(b"</TABLE>")
    return head, b"</TABLE>" + tail


def _field(file: tree.VOTableFile, field: Field, id_: str) -> tree.Field:
    element = tree.Field(
        file,
        ID=id_,
        name=field.name,
        datatype=field.datatype,
        arraysize=field.arraysize or None,
        unit=field.unit or None,
        ucd=field.ucd or None,
    )
    element.description = field.meaning or None
    return element


def _ids(fields: Sequence[Field]) -> list[str]:
    """XML identifiers, each once: a name that is one itself, else one close to it.

    None is another column's name, since astropy looks columns up by both.
    """
    taken = {field.name for field in fields}
    ids = []
    for field in fields:
        close = re.sub(r"^(?=[^A-Za-z_])", "_", re.sub(r"[^A-Za-z0-9_.-]", "_", field.name))
        id_, number = close, 1
        while id_ != field.name and id_ in taken:
            number += 1
            id_ = f"{close}_{number}"
        taken.add(id_)
        ids.append(id_)
    return ids
