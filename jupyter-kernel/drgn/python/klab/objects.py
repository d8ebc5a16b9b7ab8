"""The kernel's globals, functions, constants and symbols as drgn objects and symbols."""

from drgn import FindObjectFlags, MainModule, Object, Symbol, SymbolBinding, SymbolKind

#: Which of two symbols of one name is meant: as drgn's `drgn_symbol_binding_precedence()`.
RANKS = {SymbolBinding.GLOBAL: 3, SymbolBinding.UNIQUE: 3, SymbolBinding.WEAK: 2}


class Objects:
    """An object finder and a symbol finder."""

    def __init__(self, prog, kernel, types):
        self.prog = prog
        self.kernel = kernel
        self.types = types
        self.declared = {}

    def find(self, prog, name, flags, filename):
        """drgn's object finder."""
        if filename:
            return None
        if flags & FindObjectFlags.CONSTANT and (found := self.kernel.find_enumerator(name)):
            place, value = found
            return Object(prog, self.types.at(place), value)
        if not flags & (FindObjectFlags.FUNCTION | FindObjectFlags.VARIABLE):
            return None
        address = self.kernel.symbol(name)
        if address is None:
            return None
        if flags & FindObjectFlags.FUNCTION and (place := self.kernel.find_function(name)):
            return Object(prog, self.types.at(place), address=address)
        if flags & FindObjectFlags.VARIABLE and (declared := self.variable(name)):
            return Object(prog, declared, address=address)
        return None

    def variable(self, name):
        """The type of a variable: BTF's for a per-CPU one, else the declaration of klab's table."""
        if place := self.kernel.find_variable(name):
            return self.types.at(place)
        if name not in self.declared:
            text = self.kernel.declaration(name)
            self.declared[name] = self.prog.type(text) if text else None
        return self.declared[name]

    def symbols(self, prog, name, address, one):
        """drgn's symbol finder. It is asked after drgn's own, which has the symbols of files that are loaded."""
        known = [] if one else [module for module in prog.modules() if module.loaded_file_path or module.debug_file_path]
        if address is not None:
            found = self.kernel.symbols_at(address)
        else:
            found = self.kernel.symbols(name, not any(isinstance(module, MainModule) for module in known), one)
        made = [Symbol(*symbol[:3], SymbolBinding(symbol[3]), SymbolKind(symbol[4])) for symbol in found]
        if one:
            best = max(made, key=lambda symbol: RANKS.get(symbol.binding, 1), default=None)
            return [best] if best else []
        areas = [area for module in known for area in module.address_ranges or ()]
        return [symbol for symbol in made if not any(start <= symbol.address < end for start, end in areas)]
