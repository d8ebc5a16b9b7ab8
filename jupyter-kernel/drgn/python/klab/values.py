"""Values for others than Python: as text and HTML, as JSON, as a place in the guest's memory."""

import html

import drgn
import drgn.cli
from drgn import TypeKind

#: How many elements of a list are given as JSON.
MOST = 100_000


def shown(value):
    """A value by mime type, as drgn's own prompt shows it: objects and types in C."""
    if isinstance(value, drgn.Object):
        try:
            text = value.format_(columns=120)
        except drgn.FaultError as error:
            text = f"{value!r}\n({error})"
    elif isinstance(value, drgn.cli._DISPLAY_STR_TYPES):
        text = str(value)
    else:
        text = repr(value)
    data = {"text/plain": text}
    made = getattr(type(value), "_repr_html_", None)
    if made:
        data["text/html"] = made(value)
    elif isinstance(value, (drgn.Object, drgn.Type)):
        data["text/html"] = f"<pre>{html.escape(text)}</pre>"
    return data


def plain(value):
    """A value as JSON. A pointer is its type and value, a structure its type and address, characters are text."""
    if isinstance(value, drgn.Object):
        return of_object(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if hasattr(value, "__iter__"):
        found = []
        for item in value:
            if len(found) == MOST:
                raise ValueError(f"more than {MOST} elements")
            found.append(plain(item))
        return found
    return str(value)


def of_object(value):
    """A drgn object as JSON."""
    ty = value.type_
    while ty.kind == TypeKind.TYPEDEF:
        ty = ty.type
    if ty.kind == TypeKind.POINTER:
        return {"type": value.type_.type_name(), "value": value.value_()}
    if ty.kind == TypeKind.ARRAY and ty.type.kind == TypeKind.INT and ty.type.size == 1:
        return plain(value.string_())
    if ty.kind in (TypeKind.STRUCT, TypeKind.UNION, TypeKind.ARRAY, TypeKind.FUNCTION) and value.address_ is not None:
        return {"type": value.type_.type_name(), "address": value.address_}
    return plain(value.value_())


def place(value):
    """Where an object lies: a pointer's is what it points to."""
    if not isinstance(value, drgn.Object):
        raise TypeError(f"this is Python's {type(value).__name__}, not an object in the guest's memory")
    ty = value.type_
    while ty.kind == TypeKind.TYPEDEF:
        ty = ty.type
    if ty.kind == TypeKind.POINTER and ty.type.kind != TypeKind.VOID:
        return {"type": ty.type.unqualified().type_name(), "address": value.value_()}
    if value.address_ is None:
        raise ValueError("this is a value, which lies nowhere in the guest's memory")
    return {"type": value.type_.unqualified().type_name(), "address": value.address_}
