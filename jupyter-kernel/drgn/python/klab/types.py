"""The kernel's BTF as drgn types."""

import drgn
from drgn import Qualifiers, TypeEnumerator, TypeKind, TypeMember, TypeParameter

#: drgn's kinds and the names that klab's BTF finder has for them.
KINDS = {
    TypeKind.STRUCT: "struct",
    TypeKind.UNION: "union",
    TypeKind.ENUM: "enum",
    TypeKind.TYPEDEF: "typedef",
    TypeKind.INT: "int",
    TypeKind.BOOL: "int",
    TypeKind.FLOAT: "float",
}
QUALIFIERS = {"const": Qualifiers.CONST, "volatile": Qualifiers.VOLATILE, "restrict": Qualifiers.RESTRICT}
#: The structures that hold a stack's first registers. drgn looks the former up for each stack of a task that sleeps
#: (`linux_kernel_get_initial_registers_x86_64()`), and a user needs the latter to trace from other registers.
FIRST_OF_A_STACK = ("inactive_task_frame", "pt_regs")
#: More types behind one another than any kernel has; BTF that refers to itself meets it.
DEEPEST = 100


class Types:
    """A type finder, and the types that it made, each made once.

    A place is where klab found a type: the number of a BTF (the kernel's, a module's), and the type's id there.
    """

    def __init__(self, prog, kernel, before_a_stack):
        self.prog = prog
        self.kernel = kernel
        self.before_a_stack = before_a_stack
        self.made = {}
        self.found = {}
        self.depth = 0

    def find(self, prog, kinds, name, filename):
        """drgn's type finder."""
        if filename:
            return None
        if name in FIRST_OF_A_STACK:
            self.before_a_stack()
        for kind, word in KINDS.items():
            if kind not in kinds:
                continue
            key = (word, name)
            if key not in self.found:
                place = self.kernel.find_type(word, name)
                if place is None:
                    # Modules that are loaded later may have it: an absent type is looked for again.
                    continue
                self.found[key] = place
            made = self.at(self.found[key])
            if made.kind == kind:
                return made
        return None

    def at(self, place):
        """The type at a place."""
        made = self.made.get(place)
        if made is None:
            if self.depth >= DEEPEST:
                raise LookupError(f"BTF type {place[1]} refers to itself")
            self.depth += 1
            try:
                made = self.made[place] = self.make(self.kernel.describe(place))
            finally:
                self.depth -= 1
        return made

    def make(self, described):
        """A type of klab's description of it. What a structure holds is made when it is first asked for."""
        prog = self.prog
        match described:
            case ("void",):
                return prog.void_type()
            case ("int", name, size, _, True):
                return prog.bool_type(name or "_Bool", size)
            case ("int", name, size, signed, False):
                return prog.int_type(name or "int", size, signed)
            case ("float", name, size):
                return prog.float_type(name or "float", size)
            case ("ptr", place):
                return prog.pointer_type(self.at(place))
            case ("const" | "volatile" | "restrict" as word, place):
                target = self.at(place)
                return target.qualified(target.qualifiers | QUALIFIERS[word])
            case ("typedef", name, place):
                return prog.typedef_type(name or "", self.at(place))
            case ("same", place):
                return self.at(place)
            case ("array", place, count):
                # BTF writes `[]` as `[0]`; those of the kernel that have no elements are the former.
                return prog.array_type(self.at(place), count or None)
            case ("struct", name, size, members):
                return prog.struct_type(name, size, [self.member(*member) for member in members])
            case ("union", name, size, members):
                return prog.union_type(name, size, [self.member(*member) for member in members])
            case ("fwd", name, is_union):
                return self.forward(name, "union" if is_union else "struct")
            case ("enum", name, size, signed, constants):
                return self.enum(name, size, signed, constants)
            case ("func", place, params, variadic):
                made = [TypeParameter(self.later(param), name) for name, param in params]
                return prog.function_type(self.at(place), made, variadic)
        raise LookupError(f"BTF that klab does not know: {described[0]}")

    def later(self, place):
        return lambda: self.at(place)

    def member(self, name, place, bit_offset, bits):
        if not bits:
            return TypeMember(self.later(place), name, bit_offset)
        return TypeMember(lambda: drgn.Object(self.prog, self.at(place), bit_field_size=bits), name, bit_offset)

    def forward(self, name, word):
        """A structure that one BTF only names; another may define it."""
        place = name and self.kernel.find_type(word, name)
        if place:
            return self.at(place)
        return self.prog.struct_type(name) if word == "struct" else self.prog.union_type(name)

    def enum(self, name, size, signed, constants):
        if not constants:
            return self.prog.enum_type(name)
        widths = {1: "char", 2: "short", 4: "int", 8: "long"}
        word = widths.get(size, "int")
        word = word if signed else f"unsigned {word}"
        mask = (1 << (8 * size)) - 1
        made = [TypeEnumerator(label, value if signed else value & mask) for label, value in constants]
        return self.prog.enum_type(name, self.prog.int_type(word, size, signed), made)
