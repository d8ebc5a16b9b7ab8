//! Type names in C: `struct list_head *`, `unsigned long [4]`.

use super::lex::{Fault, Word};
use super::parser::Parser;
use crate::kernel::btf::{Kind, TypeId};
use crate::object::ctype::{
    BOOL, BuiltIn, CHAR, CType, INT, LONG, SCHAR, SHORT, UCHAR, UINT, ULONG, USHORT,
};

/// Words that begin or make up a type of C itself.
const SPECIFIERS: &[&str] = &[
    "const", "volatile", "struct", "union", "enum", "void", "char", "short", "int", "long",
    "signed", "unsigned", "_Bool", "bool",
];

impl Parser<'_> {
    /// Whether the word there begins a type name. A typedef does where no variable hides it.
    pub(super) fn is_type(&self, ahead: usize) -> bool {
        let Word::Name(name) = self.peek_at(ahead) else {
            return false;
        };
        SPECIFIERS.contains(&name.as_str()) || self.btf.find(Kind::Typedef, name).is_some()
    }

    /// A type name up to where it ends.
    pub(super) fn type_name(&mut self) -> Result<CType, Fault> {
        let mut ty = self.base_type()?;
        loop {
            if self.accept("*") {
                ty = ty.pointer();
            } else if !self.accept_name("const")
                && !self.accept_name("volatile")
                && !self.accept_name("restrict")
            {
                break;
            }
        }
        if matches!(
            (self.peek_at(0), self.peek_at(1)),
            (Word::Sign("("), Word::Sign("*"))
        ) {
            return Err(self.fault("a pointer to a function cannot be written here: use void *"));
        }
        // The dimensions are written outermost first.
        let mut counts = Vec::new();
        while self.accept("[") {
            match *self.peek_at(0) {
                Word::Number(count, ..) if u32::try_from(count).is_ok() => {
                    counts.push(count as u32)
                }
                _ => return Err(self.fault("an array needs its number of elements")),
            }
            self.advance();
            self.expect("]")?;
        }
        Ok(counts.iter().rev().fold(ty, |ty, count| ty.array(*count)))
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
                    let Word::Name(tag) = self.peek_at(0).clone() else {
                        return Err(self.fault(format!("`{name}` needs the name of one")));
                    };
                    let ty = self.tagged(&name, &tag)?;
                    self.advance();
                    while self.accept_name("const") || self.accept_name("volatile") {}
                    return Ok(ty);
                }
                word if SPECIFIERS.contains(&word) => words.push(name),
                _ if words.is_empty() => {
                    // What is no word of C is a typedef, and then nothing but modifiers may follow.
                    let found = self
                        .btf
                        .find(Kind::Typedef, &name)
                        .or_else(|| self.btf.find(Kind::Int, &name));
                    let id = found.ok_or_else(|| {
                        self.no_type(&name, &[Kind::Typedef, Kind::Struct], &name)
                    })?;
                    self.advance();
                    while self.accept_name("const") || self.accept_name("volatile") {}
                    return Ok(CType::of(self.btf, id));
                }
                _ => break,
            }
            self.advance();
        }
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.sort_unstable();
        if words == ["void"] {
            return Ok(CType::of(self.btf, TypeId::VOID));
        }
        let found = built_in(&words).ok_or_else(|| match words.is_empty() {
            true => self.fault("a type name is wanted here"),
            false => Fault::new(at, format!("`{}` is no type of C", words.join(" "))),
        })?;
        Ok(CType::built_in(self.btf, found))
    }

    fn tagged(&self, keyword: &str, tag: &str) -> Result<CType, Fault> {
        let kinds: &[Kind] = match keyword {
            "struct" => &[Kind::Struct],
            "union" => &[Kind::Union],
            _ => &[Kind::Enum, Kind::Enum64],
        };
        if let Some((btf, id)) = Self::at_fault(self.at(), self.kernel.find_type(kinds, tag))? {
            return Ok(CType::of(&btf, id));
        }
        // A structure that is only declared can be pointed to.
        let declared = self.btf.find(Kind::Fwd, tag).filter(|_| keyword != "enum");
        let id = declared.ok_or_else(|| self.no_type(&format!("{keyword} {tag}"), kinds, tag))?;
        Ok(CType::of(self.btf, id))
    }

    fn no_type(&self, c: &str, kinds: &[Kind], name: &str) -> Fault {
        self.fault(self.kernel.no_type(c, kinds, name).to_string())
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
        _ => return None,
    })
}
