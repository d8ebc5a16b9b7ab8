//! The meanings of a name: all definitions of a symbol, the kernel's and each module's, and the spellings that choose one.
//!
//! Static functions and variables may share a name, and modules define what they like. So a name alone is taken only
//! where one thing has it. `tun:group_show` is the module's, `vmlinux:group_show` the kernel's own; of several in one of
//! them `name_show@2` is the second by its address, and `name_show@0xffffffff81234560` the one at an address. What views
//! print, `wait_for_value+0x71 [gcblock]`, is a name with an offset, and read as such.

use super::demangle::{is_mangled, is_meant, shown};
use super::{Kernel, Symbol};
use crate::memory::GuestVirt;
use crate::{Error, Listing, Result, bytes_of};

/// The kernel itself, where a module may be named.
const VMLINUX: &str = "vmlinux";
/// Definitions that an error lists.
const LISTED: usize = 8;

/// One definition of a symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The symbol, under the name that its table has.
    pub symbol: Symbol,
    /// The module that defines it; `None` for the kernel itself.
    pub module: Option<String>,
    /// Number among the symbols of this name in the kernel or in the module, by address, from 1; `None` if there is one.
    pub nth: Option<usize>,
}

impl Definition {
    /// The spelling that means this one alone: `tun:group_show`, `vmlinux:name_show@2`.
    #[must_use]
    pub fn spelling(&self) -> String {
        let module = self.module.as_deref().unwrap_or(VMLINUX);
        let nth = self.nth.map_or_else(String::new, |nth| format!("@{nth}"));
        format!("{module}:{}{nth}", self.symbol.name)
    }
}

/// Choice among several definitions of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// By its address, from 1.
    Nth(u64),
    At(GuestVirt),
}

/// A symbol as people write it: `[MODULE:]NAME[@N][+OFFSET]`, or as a stack has it, `NAME+0x71/0xe0 [MODULE]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spelling<'a> {
    module: Option<&'a str>,
    name: &'a str,
    which: Option<Which>,
    /// Bytes from the symbol on.
    pub offset: u64,
}

impl<'a> Spelling<'a> {
    /// Parses a text as a symbol; `None` if it cannot be one. Does not look whether there is such a symbol.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (mut rest, mut module) = (text.trim(), None);
        if let Some((before, bracket)) = rest.strip_suffix(']').and_then(|t| t.rsplit_once(" ["))
            && is_module(bracket)
        {
            (rest, module) = (before.trim_end(), Some(bracket));
        }
        let mut offset = 0;
        if let Some((before, after)) = rest.rsplit_once('+') {
            // A call trace of the kernel has the function's size behind it.
            let (digits, size) = after.split_once('/').unwrap_or((after, "0"));
            if let (Some(found), Some(_)) = (number(digits), number(size)) {
                (rest, offset) = (before.trim_end(), found);
            }
        }
        let mut which = None;
        if let Some((before, after)) = rest.rsplit_once('@')
            && let Some(found) = number(after)
        {
            let at = after.trim_start().starts_with("0x");
            which = Some(match at {
                true => Which::At(GuestVirt(found)),
                false => Which::Nth(found),
            });
            rest = before;
        }
        if module.is_none()
            && let Some((before, after)) = rest.split_once(':')
            && is_module(before)
            && !after.starts_with(':')
        {
            (module, rest) = (Some(before), after);
        }
        let name = rest.trim();
        // Names of Rust have blanks and brackets, all others what assemblers take.
        let rust = name.contains("::");
        let of_name = |c: char| match rust {
            true => !"?|^!=\"@%".contains(c),
            false => c.is_alphanumeric() || "_.$".contains(c),
        };
        let is_name = name.starts_with(|c: char| c.is_alphabetic() || "_.$<".contains(c))
            && name.chars().all(of_name);
        is_name.then_some(Self {
            module,
            name,
            which,
            offset,
        })
    }

    const fn exact(name: &'a str) -> Self {
        Self {
            module: None,
            name,
            which: None,
            offset: 0,
        }
    }

    /// Tells whether the name is an identifier and nothing more, which C can have too.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.module.is_none()
            && self.which.is_none()
            && self.offset == 0
            && is_identifier(self.name)
    }

    /// The name alone.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }
}

fn is_identifier(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_module(text: &str) -> bool {
    let all = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !text.is_empty() && text.chars().all(all)
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None if text.starts_with(|c: char| c.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

impl Kernel {
    /// All symbols that a spelling means, the kernel's own first, then those of modules, each by address: a symbol's name
    /// (`name_show`), one of a module (`tun:group_show`, `vmlinux:group_show`), one of several (`name_show@2`), the path of
    /// a Rust function (`core::option::unwrap_failed`).
    ///
    /// ```
    /// use klab_memory::kernel::FakeKernel;
    /// let mut fake = FakeKernel::new();
    /// fake.symbol("show", 't', &[0x90; 8])?;
    /// let second = fake.symbol("show", 't', &[0x90; 8])?;
    /// let kernel = fake.finish()?;
    /// let all = kernel.definitions("show")?;
    /// assert_eq!(all.len(), 2);
    /// assert_eq!(all[1].spelling(), "vmlinux:show@2");
    /// assert_eq!(kernel.resolve("show@2")?.symbol.at, second);
    /// assert!(kernel.resolve("show").is_err());
    /// # Ok::<(), klab_memory::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Self::module_symbols`].
    pub fn definitions(&self, spelling: &str) -> Result<Listing<Definition>> {
        let Some(spelling) = Spelling::parse(spelling) else {
            return Ok(Listing::new());
        };
        let (items, unread) = self.meant(&spelling)?;
        let mut all = Listing::from(items);
        for error in unread {
            all.miss("what modules have of this name", &error);
        }
        Ok(all)
    }

    /// The one symbol that a spelling means. What is loaded later never changes what a name means without a word.
    ///
    /// # Errors
    /// `Absent` if none has this name; `Invalid`, with the spelling of each, if several have; as
    /// [`Self::module_symbols`].
    pub fn resolve(&self, spelling: &str) -> Result<Definition> {
        let parsed = Spelling::parse(spelling).ok_or_else(|| self.no_symbol(spelling, ""))?;
        self.resolve_spelled(&parsed)
    }

    /// The address that a spelling means, with its offset; `None` where no symbol is meant.
    ///
    /// # Errors
    /// As [`Self::resolve`], without `Absent`.
    pub fn resolve_at(&self, spelling: &str) -> Result<Option<GuestVirt>> {
        let Some(parsed) = Spelling::parse(spelling) else {
            return Ok(None);
        };
        match self.resolve_spelled(&parsed) {
            Ok(found) => Ok(Some(found.symbol.at.offset(parsed.offset))),
            Err(Error::NoSymbol { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn resolve_spelled(&self, spelling: &Spelling<'_>) -> Result<Definition> {
        let (mut all, unread) = self.meant(spelling)?;
        match (all.len(), all.pop()) {
            (1, Some(one)) => Ok(one),
            (0, _) | (_, None) => {
                let hint = match (unread.is_empty(), spelling.module) {
                    (false, _) => also(&unread),
                    (true, Some(module)) => self.no_such_in(module)?,
                    (true, None) => match self.symbols()?.nearest(spelling.name) {
                        Some(near) => format!("; did you mean `{near}`?"),
                        None => String::new(),
                    },
                };
                Err(self.no_symbol(spelling.name, &hint))
            }
            (_, Some(last)) => {
                all.push(last);
                Err(ambiguous(spelling.name, &all))
            }
        }
    }

    fn no_symbol(&self, name: &str, hint: &str) -> Error {
        Error::NoSymbol {
            name: name.to_owned(),
            release: self.release().to_owned(),
            hint: hint.to_owned(),
        }
    }

    /// Reason why a module has no such symbol.
    fn no_such_in(&self, module: &str) -> Result<String> {
        let tables = self.module_tables().unwrap_or_default();
        let is = |table: &super::module_symbols::Table| same_module(&table.module, module);
        Ok(match tables.iter().flatten().any(is) || module == VMLINUX {
            true => format!(" in {module}"),
            false => {
                format!("; no module `{module}` is loaded: `klab modules` lists those that are")
            }
        })
    }

    /// The error for a symbol that none is called exactly, with what may hide it.
    pub(super) fn unknown_symbol(&self, name: &str) -> Result<Error> {
        let (_, unread) = self.named(&Spelling::exact(name))?;
        Ok(self.no_symbol(name, &also(&unread)))
    }

    /// The one symbol that has exactly this name; `None` where none has, and no way is sought that it may be meant.
    pub(crate) fn find_exact(&self, name: &str) -> Result<Option<Definition>> {
        let (mut all, _) = self.named(&Spelling::exact(name))?;
        match (all.len(), all.pop()) {
            (0 | 1, found) => Ok(found),
            (_, last) => {
                all.extend(last);
                Err(ambiguous(name, &all))
            }
        }
    }

    /// The definitions, and what could not be read of the modules that may have more.
    fn meant(&self, spelling: &Spelling<'_>) -> Result<(Vec<Definition>, Vec<Error>)> {
        let (mut all, unread) = self.named(spelling)?;
        // People know the path of a Rust function, not the mangled name.
        if all.is_empty() && (is_identifier(spelling.name) || spelling.name.contains("::")) {
            all = self.meant_of_rust(spelling)?;
        }
        match spelling.which {
            Some(Which::At(at)) => all.retain(|one| one.symbol.at == at),
            Some(Which::Nth(nth)) => all.retain(|one| {
                let own = one.nth.map_or(1, |nth| nth as u64);
                own == nth
            }),
            None => {}
        }
        Ok((all, unread))
    }

    fn named(&self, spelling: &Spelling<'_>) -> Result<(Vec<Definition>, Vec<Error>)> {
        let name = bytes_of(spelling.name);
        let mut all = Vec::new();
        if spelling.module.is_none_or(|module| module == VMLINUX) {
            let found = self.symbols()?.named(spelling.name);
            all.extend(numbered(found.collect(), None));
        }
        let mut unread = Vec::new();
        if spelling.module != Some(VMLINUX) {
            // Modules that cannot be read do not hide what the others and the kernel have.
            for table in self
                .module_tables()
                .unwrap_or_else(|error| vec![Err(error)])
            {
                let table = match table {
                    Ok(table) => table,
                    Err(error) => {
                        unread.push(error);
                        continue;
                    }
                };
                if spelling
                    .module
                    .is_none_or(|module| same_module(&table.module, module))
                {
                    unread.extend(table.unread.clone());
                    let found = table.named(|known| known == name);
                    all.extend(numbered(found.collect(), Some(&table.module)));
                }
            }
        }
        Ok((all, unread))
    }

    fn meant_of_rust(&self, spelling: &Spelling<'_>) -> Result<Vec<Definition>> {
        let is = |name: &[u8]| {
            is_mangled(name)
                && std::str::from_utf8(name).is_ok_and(|name| is_meant(name, spelling.name))
        };
        let mut all = Vec::new();
        if spelling.module.is_none_or(|module| module == VMLINUX) {
            let found = self
                .symbols()?
                .of_rust()
                .filter(|symbol| is(symbol.name.as_bytes()));
            all.extend(by_name(found.collect(), None));
        }
        if spelling.module != Some(VMLINUX) {
            for table in self.module_tables().into_iter().flatten().flatten() {
                if spelling
                    .module
                    .is_none_or(|module| same_module(&table.module, module))
                {
                    all.extend(by_name(table.named(is).collect(), Some(&table.module)));
                }
            }
        }
        // If one is the whole path and others only end with it, the whole path is meant.
        let whole = |one: &Definition| shown(&one.symbol.name) == spelling.name;
        if all.iter().any(whole) {
            all.retain(whole);
        }
        Ok(all)
    }
}

fn also(unread: &[Error]) -> String {
    unread.iter().map(|why| format!("; {why}")).collect()
}

/// Modules' files have dashes where their names have underscores.
fn same_module(name: &str, wanted: &str) -> bool {
    name == wanted || name == wanted.replace('-', "_")
}

/// Symbols of one name in the kernel, or in one module, by address. What is there twice at one address is one thing.
fn numbered(mut symbols: Vec<Symbol>, module: Option<&str>) -> Vec<Definition> {
    symbols.sort_by_key(|symbol| symbol.at);
    symbols.dedup_by_key(|symbol| symbol.at);
    let several = symbols.len() > 1;
    let all = symbols.into_iter().enumerate();
    let of = |(index, symbol)| Definition {
        symbol,
        module: module.map(str::to_owned),
        nth: several.then_some(index + 1),
    };
    all.map(of).collect()
}

/// As [`numbered`], of symbols of several names.
fn by_name(mut symbols: Vec<Symbol>, module: Option<&str>) -> Vec<Definition> {
    symbols.sort_by(|a, b| a.name.cmp(&b.name));
    let groups = symbols.chunk_by(|a, b| a.name == b.name);
    groups
        .flat_map(|group| numbered(group.to_vec(), module))
        .collect()
}

fn ambiguous(name: &str, all: &[Definition]) -> Error {
    let mut candidates: Vec<String> = all
        .iter()
        .take(LISTED)
        .map(|one| format!("{} ({})", one.spelling(), one.symbol.at))
        .collect();
    if let Some(more) = all.len().checked_sub(LISTED).filter(|more| *more > 0) {
        candidates.push(format!("{more} more, which `klab sym {name}` lists"));
    }
    Error::Ambiguous {
        name: name.to_owned(),
        candidates,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::FakeKernel;

    #[test]
    fn what_a_stack_prints_is_a_spelling() {
        let parse = |text| {
            let found = Spelling::parse(text).unwrap();
            (found.module, found.name, found.offset)
        };
        assert_eq!(parse("vfs_read"), (None, "vfs_read", 0));
        assert_eq!(parse("vfs_read+0x25d/0x370"), (None, "vfs_read", 0x25d));
        assert_eq!(
            parse("group_show+0x1 [tun]"),
            (Some("tun"), "group_show", 1)
        );
        assert_eq!(parse("tun:group_show"), (Some("tun"), "group_show", 0));
        assert_eq!(parse("foo.cold+0x12"), (None, "foo.cold", 0x12));
        assert_eq!(parse(".Ltmp1 + 4"), (None, ".Ltmp1", 4));
        assert_eq!(
            parse("<gcblock::GcShared>::wait_for_value+0x71 [gcblock]"),
            (Some("gcblock"), "<gcblock::GcShared>::wait_for_value", 0x71)
        );
        assert_eq!(
            parse("gcblock:core::option::unwrap_failed"),
            (Some("gcblock"), "core::option::unwrap_failed", 0)
        );
        assert_eq!(
            parse("core::option::unwrap_failed"),
            (None, "core::option::unwrap_failed", 0)
        );
        let which = |text| Spelling::parse(text).unwrap().which;
        assert_eq!(which("show@3"), Some(Which::Nth(3)));
        assert_eq!(which("show@0x30+0x8"), Some(Which::At(GuestVirt(0x30))));
        for text in ["", "1 + 2", "*(int *)0x10", "a ? b : c", "a == b", "x[1]"] {
            assert_eq!(Spelling::parse(text), None, "{text}");
        }
    }

    #[test]
    fn several_of_a_name_are_told_and_can_be_chosen() {
        let mut fake = FakeKernel::new();
        let first = fake.symbol("show", 't', &[0; 8]).unwrap();
        let second = fake.symbol("show", 'd', &[0; 8]).unwrap();
        fake.symbol_at("show", 'd', second);
        fake.symbol("_RNvNtCs1234_4core6option13unwrap_failed", 't', &[0; 8])
            .unwrap();
        let cold = fake.symbol("show.cold", 't', &[0; 8]).unwrap();
        let kernel = fake.finish().unwrap();
        let error = kernel.resolve("show").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "`show` is the name of several: vmlinux:show@1 ({first}), vmlinux:show@2 ({second}): write which one, or its address"
            )
        );
        for one in kernel.definitions("show").unwrap().items {
            assert_eq!(kernel.resolve(&one.spelling()).unwrap(), one);
        }
        let at = |text: &str| kernel.resolve(text).map(|found| found.symbol.at);
        assert_eq!(at(&format!("show@{first:?}")), Ok(first));
        assert_eq!(at("show.cold"), Ok(cold));
        assert_eq!(kernel.resolve_at("show@2+0x4"), Ok(Some(second.offset(4))));
        assert_eq!(kernel.resolve_at("nothing_of_this"), Ok(None));
        assert!(at("show@3").is_err());
        let rust = kernel.resolve("core::option::unwrap_failed").unwrap();
        assert!(rust.symbol.name.starts_with("_R"));
        let none = kernel.resolve("tun:show").unwrap_err().to_string();
        assert!(none.contains("no module `tun` is loaded"), "{none}");
    }
}
