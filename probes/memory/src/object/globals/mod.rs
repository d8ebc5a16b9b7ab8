//! The types of the kernel's global variables.
//!
//! BTF has the types of per-CPU variables only. `globals.h` has the declarations of those others that are asked for most,
//! as the kernel's sources have them; each is checked when it is used: the symbol and the type must exist.

mod lengths;

use std::fmt::Write as _;
use std::sync::OnceLock;

use self::lengths::Length;
use super::ctype::{CType, Form};
use super::cursor::Object;
use crate::kernel::btf::{Kind, TypeId};
use crate::kernel::{Definition, Kernel};
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// The declarations, in C.
const SOURCE: &str = include_str!("globals.h");

/// A line of `globals.h`, taken apart: `const unsigned long`, `cpu_bit_bitmap`, `["65", "BITS_TO_LONGS(NR_CPUS)"]`.
#[derive(Debug, PartialEq, Eq)]
struct Declared {
    ty: &'static str,
    name: &'static str,
    lengths: Vec<&'static str>,
    /// A structure and a member that must exist.
    condition: Option<(&'static str, &'static str)>,
}

impl Declared {
    fn of(line: &'static str) -> Option<Self> {
        let (line, note) = line.split_once(';')?;
        let condition = note.split_once(" if ").and_then(|(_, note)| {
            let member = note.trim_end_matches("*/").trim_end();
            member.split_once('.')
        });
        let (whole, lengths) = line.split_at(line.find('[').unwrap_or(line.len()));
        let begin = whole.rfind([' ', '*'])? + 1;
        let lengths = lengths.split('[').skip(1);
        Some(Self {
            ty: whole[..begin].trim_end(),
            name: &whole[begin..],
            lengths: lengths.map(|length| length.trim_end_matches(']')).collect(),
            condition,
        })
    }

    /// Tells whether the variable itself, or an element of it, is const: not what it points to.
    fn is_const(&self) -> bool {
        let own = self.ty.rsplit('*').next().unwrap_or_default();
        own.split(' ').any(|word| word == "const")
    }
}

/// The lines of `globals.h`, in its order.
fn declared() -> &'static [Declared] {
    static DECLARED: OnceLock<Vec<Declared>> = OnceLock::new();
    DECLARED.get_or_init(|| SOURCE.lines().filter_map(Declared::of).collect())
}

impl Kernel {
    /// The type of a global variable that BTF has no type for, in C: `struct pglist_data *[1024]`. `[]` is an array of a
    /// length that nothing tells. `None` for a variable that is not declared here, or whose declarations this kernel
    /// cannot have.
    pub fn declaration(&self, global: &str) -> Option<String> {
        self.declared(global).map(|(text, _)| text)
    }

    fn declared(&self, global: &str) -> Option<(String, CType)> {
        let mut lines = declared().iter().filter(|line| line.name == global);
        lines.find_map(|line| {
            self.symbols().ok()?.lookup(global)?;
            let at = self.variable(global).ok()?;
            self.fits(line, at)
        })
    }

    /// The address of the symbol of this name that is there for as long as the kernel runs. Two files may each have a static
    /// variable of one name, of which one is freed after the boot (`sysfs_root`).
    ///
    /// # Errors
    /// As [`symbol`](Self::symbol).
    pub fn variable(&self, name: &str) -> Result<GuestVirt> {
        let symbols = self.symbols()?;
        let init = symbols
            .lookup("__init_begin")
            .zip(symbols.lookup("__init_end"));
        let stays = |at: &GuestVirt| init.is_none_or(|(start, end)| !(start..end).contains(at));
        let found = symbols.lookup_all(name).find(stays);
        found.map_or_else(|| self.symbol(name), Ok)
    }

    /// The type that a line declares, if what lies at `at` may be of it.
    fn fits(&self, line: &Declared, at: GuestVirt) -> Option<(String, CType)> {
        if line.is_const() && self.is_read_only(at) == Some(false) {
            return None;
        }
        if let Some((ty, member)) = line.condition {
            let (btf, id) = self.find_composite(ty).ok()?;
            btf.member(id, member).ok()??;
        }
        let room = self.symbols().ok()?.after(at).map(|next| next.0 - at.0);
        let mut text = line.ty.to_owned();
        if !line.lengths.is_empty() && !text.ends_with('*') {
            text.push(' ');
        }
        // Only the outermost length may depend on the room that there is; the others make up its elements.
        let mut element = self.c_type(line.ty).ok()?;
        let mut counts = Vec::new();
        for (depth, word) in line.lengths.iter().enumerate().rev() {
            let room = if depth == 0 { room } else { None };
            let count = self.length(
                word,
                Length {
                    at,
                    room,
                    element: element.size().ok()?,
                },
            )?;
            counts.push(count);
            element = element.array(count.unwrap_or(0));
        }
        for count in counts.iter().rev() {
            // Writing to a String does not fail.
            let _ = match count {
                Some(count) => write!(text, "[{count}]"),
                None => write!(text, "[]"),
            };
        }
        let size = element.size().ok()?;
        room.is_none_or(|room| size <= room)
            .then_some((text, element))
    }

    /// Tells whether an address is in the kernel's read-only data, without what was written while it booted; `None`
    /// where the kernel does not say where that is.
    fn is_read_only(&self, at: GuestVirt) -> Option<bool> {
        let symbols = self.symbols().ok()?;
        let within = |start: &str, end: &str| {
            let (start, end) = symbols.lookup(start).zip(symbols.lookup(end))?;
            Some((start..end).contains(&at))
        };
        let whole = within("__start_rodata", "__end_rodata")?;
        let late = within("__start_ro_after_init", "__end_ro_after_init");
        Some(whole && late != Some(true))
    }

    /// The global variable of this name, with its type.
    ///
    /// A per-CPU variable lies at its offset: `per_cpu(name, cpu)` in an expression says which CPU's.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve); `Invalid`, with the cast to write, if BTF has no type for it.
    pub fn object(&self, name: &str) -> Result<Object> {
        let object = self.global(name)?;
        if matches!(object.c_type().form()?, Form::Void) {
            return Err(Error::Invalid(format!(
                "BTF has no type for `{name}`: say it with a cast, *(type *)&{name}"
            )));
        }
        Ok(object)
    }

    /// As [`object`](Self::object), but a symbol without a known type is a `void`, whose address can be taken.
    pub(super) fn global(&self, spelling: &str) -> Result<Object> {
        self.defined(&self.resolve(spelling)?)
    }

    /// A definition of a symbol as an object. What a module defines has the types of its own BTF, not those of the
    /// kernel's variable or function of that name.
    pub(super) fn defined(&self, definition: &Definition) -> Result<Object> {
        let (name, at) = (definition.symbol.name.as_str(), definition.symbol.at);
        let btf = match &definition.module {
            None => self.btf()?.clone(),
            Some(module) => {
                let all = self.module_btfs()?;
                let own = all.into_iter().find(|btf| btf.name == *module);
                match own {
                    Some(own) => own.btf?,
                    None => return self.untyped(at),
                }
            }
        };
        let own = |id: &TypeId| definition.module.is_none() || btf.ids().any(|own| own == *id);
        let of_kind = |kind| {
            let ty = btf.named(name).find(|ty| ty.kind == kind && own(&ty.id));
            ty.and_then(|ty| ty.target())
        };
        if let Some(id) = of_kind(Kind::Var).or_else(|| of_kind(Kind::Func)) {
            return Ok(Object::in_memory(self, CType::of(&btf, id), at));
        }
        let mut lines = declared()
            .iter()
            .filter(|line| definition.module.is_none() && line.name == name);
        match lines.find_map(|line| self.fits(line, at)) {
            Some((_, ty)) => Ok(Object::in_memory(self, ty, at)),
            None => self.untyped(at),
        }
    }

    fn untyped(&self, at: GuestVirt) -> Result<Object> {
        let ty = CType::of(self.btf()?, TypeId::VOID);
        Ok(Object::in_memory(self, ty, at))
    }

    /// The names of the globals that are declared here, each once.
    pub fn known_globals() -> impl Iterator<Item = &'static str> {
        let lines = declared();
        let first = |i: &usize| !lines[..*i].iter().any(|line| line.name == lines[*i].name);
        (0..lines.len()).filter(first).map(|i| lines[i].name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_header_is_read() {
        let lines = SOURCE.lines().filter(|line| line.contains(';'));
        assert_eq!(lines.count(), declared().len());
        let names: Vec<&str> = Kernel::known_globals().collect();
        assert!(names.len() > 150, "{}", names.len());
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for line in declared() {
            assert!(line.name.chars().all(plain), "{line:?}");
            assert!(
                !line.ty.is_empty() && !line.ty.contains(['[', ';']),
                "{line:?}"
            );
        }
        for (at, line) in declared().iter().enumerate() {
            assert!(
                !declared()[..at].contains(line),
                "{line:?} stands there twice"
            );
        }
    }

    #[test]
    fn a_declaration_is_taken_apart() {
        let of = |line| Declared::of(line).unwrap();
        let bitmap = of("const unsigned long cpu_bit_bitmap[65][BITS_TO_LONGS(NR_CPUS)];");
        assert_eq!(
            (bitmap.ty, bitmap.name),
            ("const unsigned long", "cpu_bit_bitmap")
        );
        assert_eq!(bitmap.lengths, ["65", "BITS_TO_LONGS(NR_CPUS)"]);
        assert!(bitmap.is_const());
        assert!(!of("const char *name;").is_const());
        let states = of("const char *const task_state_array[];");
        assert_eq!(
            (states.ty, states.lengths.as_slice()),
            ("const char *const", &[""][..])
        );
        assert!(states.is_const());
        assert_eq!(of("void **stack_pools;").ty, "void **");
        assert_eq!(Declared::of("/* Tasks */"), None);
        let list = of("struct hlist_head file_systems; /* if struct file_system_type.list */");
        assert_eq!((list.ty, list.name), ("struct hlist_head", "file_systems"));
        assert_eq!(list.condition, Some(("struct file_system_type", "list")));
    }
}
