"""Every structure of the kernel: klab's layout, by BTF, is the compiler's, by DWARF."""

import struct
from collections import Counter

import drgn
from drgn import TypeKind

#: `enum btf_kind` (`include/uapi/linux/btf.h`).
INT, ARRAY, STRUCT, UNION, ENUM, FUNC_PROTO, VAR, DATASEC, DECL_TAG, ENUM64 = 1, 3, 4, 5, 6, 13, 14, 15, 17, 19


def names(prog):
    """The names of the structures and unions in the BTF, by a reader of its own: each with how many have it."""
    start, stop = prog.symbol("__start_BTF").address, prog.symbol("__stop_BTF").address
    data = prog.read(start, stop - start)
    magic, _, _, header, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", data)
    assert magic == 0xEB9F
    strings = data[header + str_off : header + str_off + str_len]
    at, end = header + type_off, header + type_off + type_len
    found = Counter()
    while at < end:
        name, info, _ = struct.unpack_from("<III", data, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        at += 12 + {
            INT: 4,
            ARRAY: 12,
            STRUCT: 12 * count,
            UNION: 12 * count,
            ENUM: 8 * count,
            FUNC_PROTO: 8 * count,
            VAR: 4,
            DATASEC: 12 * count,
            DECL_TAG: 4,
            ENUM64: 12 * count,
        }.get(kind, 0)
        if kind in (STRUCT, UNION) and name:
            word = "struct" if kind == STRUCT else "union"
            found[f"{word} {strings[name:strings.index(0, name)].decode()}"] += 1
    return found


def kind_of(ty):
    while ty.kind == TypeKind.TYPEDEF:
        ty = ty.type
    return ty.kind


def size_of(ty):
    """Bytes; 0 for what has no size: BTF does not tell an array without a length from one of 0."""
    try:
        return drgn.sizeof(ty)
    except TypeError:
        return 0


def layout(ty, base=0):
    """Members as (name, offset in bits, width in bits of a bit field, kind, bytes), those without a name opened."""
    for member in ty.members or ():
        inner = member.type
        if member.name is None:
            yield from layout(inner, base + member.bit_offset)
        else:
            yield (member.name, base + member.bit_offset, member.bit_field_size, kind_of(inner), size_of(inner))


def test_every_structure(by_btf, by_dwarf, capsys):
    known = names(by_btf)
    same = members = 0
    different, absent = [], []
    for name, count in known.items():
        try:
            theirs = by_dwarf.type(name)
        except LookupError:
            absent.append(name)
            continue
        ours = by_btf.type(name)
        mine, other = list(layout(ours)), list(layout(theirs))
        if size_of(ours) == size_of(theirs) and mine == other:
            same += 1
            members += len(mine)
        else:
            different.append((name, count, [pair for pair in zip(mine, other) if pair[0] != pair[1]][:2]))
    # Where sources of the kernel have structures of one name each, the two readers may have met different ones.
    wrong = [each for each in different if each[1] == 1]
    with capsys.disabled():
        print(
            f"\n{by_btf['UTS_RELEASE'].string_().decode()}: {same} structures with {members} members are the same;",
            f"{len(different) - len(wrong)} of several of one name differ: {[name for name, count, _ in different if count > 1]};",
            f"DWARF has no {absent}",
        )
    assert not wrong, wrong
    assert same > 5000 and members > 40000
    assert len(different) < 30 and len(absent) < 30
