"""Writes from drgn to a guest's memory."""

import drgn

from klab.program import kernel_of


def store(object, value, *, attached=False):
    """Writes a value to an object in the guest's memory, and gives the object, which now reads as what was written.

    The guest is marked as changed until it is reset, as with `%set` and `guest.writable()`: the same checks are made, and the guest stands
    meanwhile. Dumps are refused.

    :param object: a drgn object that has an address: `find_task(1).comm`.
    :param value: an `int`; a `str` or `bytes`, for a `char` array; a `str`, for an enumerator; another drgn object of such a value.
    :param attached: also on a machine that klab did not start, where nothing undoes it.
    """
    if object.absent_ or object.address_ is None:
        raise ValueError("this is a value, which is nowhere in memory")
    if object.bit_field_size_ is not None:
        raise ValueError("this is a bit field: write the structure's member by `%set`, which knows its neighbours")
    if isinstance(value, drgn.Object):
        value = value.string_() if bare(value.type_).kind == drgn.TypeKind.ARRAY else value.value_()
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, (int, str)):
        raise TypeError(f"a number or a text can be stored, and this is a {type(value).__name__}")
    kernel_of(object.prog_).store(f"*({pointer_to(object.type_, value)}){object.address_:#x}", value, attached)
    return object


def bare(ty):
    """A type without its typedefs and qualifiers."""
    while ty.kind == drgn.TypeKind.TYPEDEF:
        ty = ty.type
    return ty.unqualified()


def pointer_to(ty, value):
    """A pointer to a type as klab's expressions have it: numbers by their size alone, since not every type has a name there."""
    ty = bare(ty)
    if ty.kind == drgn.TypeKind.POINTER:
        return "void **"
    if ty.kind == drgn.TypeKind.ENUM and isinstance(value, int):
        ty = bare(ty.type)
    if ty.kind == drgn.TypeKind.INT:
        sign = "" if ty.is_signed else "unsigned "
        return sign + {1: "char", 2: "short", 4: "int", 8: "long"}[ty.size] + " *"
    if ty.kind == drgn.TypeKind.ARRAY and bare(ty.type).size == 1 and ty.length:
        return f"char (*)[{ty.length}]"
    return ty.prog.pointer_type(ty).type_name()
