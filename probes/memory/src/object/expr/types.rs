//! Type names in C: `struct list_head *`, `unsigned long [4]`.

use super::lex::{Fault, Word};
use super::parser::Parser;
use crate::kernel::TypeNamed;
use crate::kernel::btf::{Kind, TypeId};
use crate::object::ctype::{
    BOOL, BuiltIn, CHAR, CType, INT, INT128, LONG, SCHAR, SHORT, UCHAR, UINT, UINT128, ULONG,
    USHORT,
};

/// Words that begin or make up a type of C itself.
const SPECIFIERS: &[&str] = &[
    "const", "volatile", "struct", "union", "enum", "void", "char", "short", "int", "long",
    "signed", "unsigned", "_Bool", "bool", "__int128", "float", "double",
];
/// Parentheses within one another in a type.
const MAX_DECLARATORS: usize = 8;

impl Parser<'_> {
    /// Tells whether the word there begins a type name. A typedef does where no variable hides it.
    pub(super) fn is_type(&self, ahead: usize) -> bool {
        let Word::Name(name) = self.peek_at(ahead) else {
            return false;
        };
        if SPECIFIERS.contains(&name.as_str()) || self.btf.find(Kind::Typedef, name).is_some() {
            return true;
        }
        if self.is_module_typedef(ahead) {
            return true;
        }
        let hidden = || {
            let symbols = self.kernel.symbols();
            symbols.is_ok_and(|symbols| symbols.lookup(name).is_some())
        };
        !hidden() && self.is_typedef(name)
    }

    fn is_typedef(&self, name: &str) -> bool {
        let found = self.kernel.find_types(&[Kind::Typedef], name);
        found.is_ok_and(|found| !found.is_empty())
    }

    /// `tun:foo_t`
    fn is_module_typedef(&self, ahead: usize) -> bool {
        let joined = (1..3).all(|more| self.is_joined(ahead + more));
        match (
            self.peek_at(ahead),
            self.peek_at(ahead + 1),
            self.peek_at(ahead + 2),
        ) {
            (Word::Name(module), Word::Sign(":"), Word::Name(name)) if joined => {
                let found = self.kernel.find_types(&[Kind::Typedef], name);
                found.is_ok_and(|found| found.iter().any(|one| one.is_of(module)))
            }
            _ => false,
        }
    }

    /// A type name up to where it ends: what is pointed to, then its declarator without a name, as C has it.
    pub(super) fn type_name(&mut self) -> Result<CType, Fault> {
        let base = self.base_type()?;
        self.declarator(base, 0)
    }

    /// `*`, `(*)[16]`, `(*)(struct sk_buff *)`, `[2][3]`
    fn declarator(&mut self, base: CType, depth: usize) -> Result<CType, Fault> {
        if depth > MAX_DECLARATORS {
            return Err(self.fault(format!("more than {MAX_DECLARATORS} parentheses in a type")));
        }
        let mut ty = base;
        loop {
            if self.accept("*") {
                ty = ty.pointer();
            } else if !self.modifier() {
                break;
            }
        }
        // The part in parentheses is made of what follows them.
        let inner = matches!(
            (self.peek_at(0), self.peek_at(1)),
            (Word::Sign("("), Word::Sign("*"))
        );
        let from = self.position();
        if inner {
            self.skip_parentheses()?;
        }
        ty = self.suffixes(ty)?;
        if inner {
            let end = self.position();
            self.go_to(from);
            self.expect("(")?;
            ty = self.declarator(ty, depth + 1)?;
            self.expect(")")?;
            self.go_to(end);
        }
        Ok(ty)
    }

    /// Dimensions, outermost first, and what a function takes.
    fn suffixes(&mut self, ty: CType) -> Result<CType, Fault> {
        let mut counts = Vec::new();
        while self.accept("[") {
            match *self.peek_at(0) {
                Word::Number(count, ..) if u32::try_from(count).is_ok() => {
                    counts.push(count as u32);
                }
                _ => return Err(self.fault("an array needs its number of elements")),
            }
            self.advance();
            self.expect("]")?;
        }
        if counts.is_empty() && matches!(self.peek_at(0), Word::Sign("(")) {
            let (open, _) = (self.position(), self.advance());
            let from = self.at();
            self.go_to(open);
            self.skip_parentheses()?;
            let written = self.written_from(from);
            let parameters = written.strip_suffix(')').unwrap_or(written);
            return Ok(ty.function(parameters.trim_end()));
        }
        Ok(counts.iter().rev().fold(ty, |ty, count| ty.array(*count)))
    }

    /// Goes to behind the parenthesis that closes the one that stands here.
    fn skip_parentheses(&mut self) -> Result<(), Fault> {
        let (at, mut depth) = (self.at(), 0_usize);
        loop {
            match self.peek_at(0) {
                Word::Sign("(") => depth += 1,
                Word::Sign(")") => depth -= 1,
                Word::End => return Err(Fault::new(at, "this parenthesis is not closed")),
                _ => {}
            }
            self.advance();
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Words that change no type: `const`, and the tags that BTF has of pointers, such as `__rcu`.
    fn modifier(&mut self) -> bool {
        let Word::Name(name) = self.peek_at(0) else {
            return false;
        };
        let is =
            matches!(name.as_str(), "const" | "volatile" | "restrict") || name.starts_with("__");
        if is {
            self.advance();
        }
        is
    }

    fn base_type(&mut self) -> Result<CType, Fault> {
        let mut words: Vec<String> = Vec::new();
        let at = self.at();
        while let Word::Name(name) = self.peek_at(0) {
            let name = name.clone();
            match name.as_str() {
                "const" | "volatile" => {}
                "struct" | "union" | "enum" if words.is_empty() => {
                    self.advance();
                    let Word::Name(_) = self.peek_at(0) else {
                        return Err(self.tagless(&name));
                    };
                    let ty = self.tagged(&name)?;
                    while self.modifier() {}
                    return Ok(ty);
                }
                // A typedef of the kernel's, where it has one.
                "bool" if words.is_empty() && self.btf.find(Kind::Typedef, "bool").is_some() => {
                    return self.typedef();
                }
                word if SPECIFIERS.contains(&word) => words.push(name),
                // A word that is not C's is a typedef, and then nothing but modifiers may follow.
                _ if words.is_empty() => return self.typedef(),
                _ => break,
            }
            self.advance();
        }
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.sort_unstable();
        match words.as_slice() {
            ["void"] => return Ok(CType::of(self.btf, TypeId::VOID)),
            ["double"] | ["float"] | ["double", "long"] => {
                let name = self.written_from(at);
                let id = self.btf.find(Kind::Float, name).ok_or_else(|| {
                    let why = "is built in, so there is no definition of it, and the kernel has nothing of this type";
                    Fault::new(at, format!("`{name}` {why}"))
                })?;
                return Ok(CType::of(self.btf, id));
            }
            _ => {}
        }
        let found = built_in(&words).ok_or_else(|| match words.is_empty() {
            true => self.fault("a type name is wanted here"),
            false => Fault::new(at, format!("`{}` is no type of C", self.written_from(at))),
        })?;
        Ok(CType::built_in(self.btf, found))
    }

    fn tagless(&self, keyword: &str) -> Fault {
        match self.peek_at(0) {
            Word::Sign("{") => self.fault(
                "a type without a name cannot be written: write the member of the structure that has it",
            ),
            _ => self.fault(format!("`{keyword}` needs the name of one")),
        }
    }

    fn typedef(&mut self) -> Result<CType, Fault> {
        let at = self.at();
        let (module, name) = self.qualified()?;
        let integer = self.btf.find(Kind::Int, &name).filter(|_| module.is_none());
        let ty = match self.named(at, module.as_deref(), &[Kind::Typedef], "", &name)? {
            Some(ty) => ty,
            None => match integer {
                Some(id) => CType::of(self.btf, id),
                None => return Err(self.no_type(at, &name, &[Kind::Typedef, Kind::Struct], &name)),
            },
        };
        while self.modifier() {}
        Ok(ty)
    }

    fn tagged(&mut self, keyword: &str) -> Result<CType, Fault> {
        let kinds: &[Kind] = match keyword {
            "struct" => &[Kind::Struct],
            "union" => &[Kind::Union],
            _ => &[Kind::Enum, Kind::Enum64],
        };
        let at = self.at();
        let (module, tag) = self.qualified()?;
        if let Some(ty) = self.named(at, module.as_deref(), kinds, keyword, &tag)? {
            return Ok(ty);
        }
        // A structure that is only declared can be pointed to.
        let declared = self.btf.find(Kind::Fwd, &tag);
        match declared.filter(|_| keyword != "enum" && module.is_none()) {
            Some(id) => Ok(CType::of(self.btf, id)),
            None => Err(self.no_type(at, &format!("{keyword} {tag}"), kinds, &tag)),
        }
    }

    /// `foo`, or `tun:foo` for that of a module.
    fn qualified(&mut self) -> Result<(Option<String>, String), Fault> {
        let first = self.name("a type's name")?;
        let joined = self.is_joined(0) && self.is_joined(1);
        match (self.peek_at(0), self.peek_at(1)) {
            (Word::Sign(":"), Word::Name(name)) if joined => {
                let name = name.clone();
                self.advance();
                self.advance();
                Ok((Some(first), name))
            }
            _ => Ok((None, first)),
        }
    }

    /// The one type of these kinds and this name.
    fn named(
        &self,
        at: usize,
        module: Option<&str>,
        kinds: &[Kind],
        keyword: &str,
        name: &str,
    ) -> Result<Option<CType>, Fault> {
        if !self.strict && module.is_none() {
            let found = Self::at_fault(at, self.kernel.find_type(kinds, name))?;
            return Ok(found.map(|(btf, id)| CType::of(&btf, id)));
        }
        let mut all = Self::at_fault(at, self.kernel.find_types(kinds, name))?;
        if let Some(module) = module {
            all.retain(|one| one.is_of(module));
            if all.is_empty() {
                let c = format!("{keyword} {name}");
                let has_btf = Self::at_fault(at, self.kernel.module_btfs())?;
                let has_btf = has_btf
                    .iter()
                    .any(|one| one.name == module || one.btf.is_err());
                let why = match has_btf || module == "vmlinux" {
                    true => "",
                    false => {
                        ": it was built without BTF, or is not loaded; cast to a type of the kernel's"
                    }
                };
                let text = format!("{module} has no type `{}` of its own{why}", c.trim_start());
                return Err(Fault::new(at, text));
            }
        }
        match all.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(CType::of(&one.btf, one.id))),
            several => Err(Fault::new(
                at,
                ambiguous(keyword, name, several).to_string(),
            )),
        }
    }

    fn no_type(&self, at: usize, c: &str, kinds: &[Kind], name: &str) -> Fault {
        Fault {
            kind: crate::ErrorKind::Absent,
            ..Fault::new(at, self.kernel.no_type(c, kinds, name).to_string())
        }
    }
}

/// The integer type that these words, sorted, say.
fn built_in(words: &[&str]) -> Option<&'static BuiltIn> {
    // `int` and `signed` say nothing beside another word, but for `signed char`.
    let rest: Vec<&str> = words
        .iter()
        .copied()
        .filter(|w| *w != "int" && (*w != "signed" || words.contains(&"char")))
        .collect();
    Some(match *rest.as_slice() {
        [] if !words.is_empty() => &INT,
        ["unsigned"] => &UINT,
        ["long"] | ["long", "long"] => &LONG,
        ["long", "unsigned"] | ["long", "long", "unsigned"] => &ULONG,
        ["short"] => &SHORT,
        ["short", "unsigned"] => &USHORT,
        ["char"] => &CHAR,
        ["char", "signed"] => &SCHAR,
        ["char", "unsigned"] => &UCHAR,
        ["_Bool"] | ["bool"] => &BOOL,
        ["__int128"] => &INT128,
        ["__int128", "unsigned"] => &UINT128,
        _ => return None,
    })
}

/// Says which modules have a type of this name, each with the spelling that means its own.
fn ambiguous(keyword: &str, name: &str, all: &[TypeNamed]) -> crate::Error {
    let spelled = |one: &TypeNamed| {
        let module = one.module.as_deref().unwrap_or("vmlinux");
        format!("`{}`", format!("{keyword} {module}:{name}").trim_start())
    };
    crate::Error::Ambiguous {
        name: format!("{keyword} {name}").trim_start().to_owned(),
        candidates: all.iter().map(spelled).collect(),
    }
}
