"""Writes from drgn to a guest's memory."""

import drgn

from klab.program import kernel_of


def store(object, value, *, attached=False):
    """Writes a value to an object in the guest's memory, and gives the object, which now reads as what was written.

    The guest is marked as changed until it is reset, as with `%set` and `guest.writable()`: the same checks are made, and the guest stands
    meanwhile. Dumps are refused.

    :param object: a drgn object that has an address: `find_task(1).comm`.
    :param value: an `int`; a `str`, for a `char` array or an enumerator; another drgn object.
    :param attached: also on a machine that klab did not start, where nothing undoes it.
    """
    if object.absent_ or object.address_ is None:
        raise ValueError("this is a value, which is nowhere in memory")
    if object.bit_field_size_ is not None:
        raise ValueError("this is a bit field: write the structure's member by `%set`, which knows its neighbours")
    if isinstance(value, drgn.Object):
        value = value.value_()
    pointer = object.prog_.pointer_type(object.type_).type_name()
    kernel_of(object.prog_).store(f"*({pointer}){object.address_:#x}", value, attached)
    return object
