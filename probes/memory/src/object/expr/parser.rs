//! Parses a C expression and evaluates it on the way.

use std::sync::Arc;

use super::lex::{Fault, Word};
use super::operators;
use crate::Error;
use crate::kernel::Kernel;
use crate::kernel::btf::{Btf, TypeId};
use crate::memory::GuestVirt;
use crate::object::ctype::{CType, Form, INT, LONG, UINT, ULONG};
use crate::object::cursor::Object;

/// Parentheses, signs and conditions within one another.
const MAX_DEPTH: usize = 64;

pub(super) struct Parser<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) btf: &'a Arc<Btf>,
    text: &'a str,
    words: Vec<(Word, usize)>,
    next: usize,
    depth: usize,
    /// True if a name that several have is an error, also where one of them is the kernel's.
    pub(super) strict: bool,
    /// Conditions whose `:` is still to come, since the last parenthesis.
    conditions: usize,
    /// Names that mean what the caller says.
    pub(super) locals: Vec<(String, Object)>,
    /// Above 0 inside what C does not evaluate (`sizeof`, the other side of `&&`): nothing is read there.
    pub(super) dead: usize,
}

type Result<T> = std::result::Result<T, Fault>;

impl<'a> Parser<'a> {
    pub(super) fn new(
        kernel: &'a Kernel,
        btf: &'a Arc<Btf>,
        text: &'a str,
        words: Vec<(Word, usize)>,
        strict: bool,
    ) -> Self {
        Self {
            kernel,
            btf,
            text,
            words,
            next: 0,
            depth: 0,
            strict,
            conditions: 0,
            locals: Vec::new(),
            dead: 0,
        }
    }

    pub(super) fn peek_at(&self, ahead: usize) -> &Word {
        self.words
            .get(self.next + ahead)
            .map_or(&Word::End, |(word, _)| word)
    }

    /// Offset of the next word.
    pub(super) fn at(&self) -> usize {
        self.words
            .get(self.next)
            .or(self.words.last())
            .map_or(0, |(_, at)| *at)
    }

    /// Text from a place up to the next word.
    pub(super) fn written_from(&self, at: usize) -> &'a str {
        self.text.get(at..self.at()).unwrap_or_default().trim_end()
    }

    /// Tells whether the word that is so far ahead follows the one before it without a blank.
    pub(super) fn is_joined(&self, ahead: usize) -> bool {
        let start = self.words.get(self.next + ahead).map(|(_, at)| *at);
        let before = start.and_then(|start| self.text.get(..start));
        before.is_some_and(|before| !before.ends_with(' '))
    }

    pub(super) fn advance(&mut self) {
        self.next += 1;
    }

    pub(super) const fn position(&self) -> usize {
        self.next
    }

    pub(super) const fn go_to(&mut self, position: usize) {
        self.next = position;
    }

    pub(super) fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.at(), message)
    }

    pub(super) fn accept(&mut self, sign: &str) -> bool {
        let there = matches!(self.peek_at(0), Word::Sign(s) if *s == sign);
        self.next += usize::from(there);
        there
    }

    pub(super) fn expect(&mut self, sign: &str) -> Result<()> {
        if self.accept(sign) {
            return Ok(());
        }
        Err(self.fault(format!("`{sign}` is wanted here, not {}", self.peek_at(0))))
    }

    pub(super) fn name(&mut self, what: &str) -> Result<String> {
        let Word::Name(name) = self.peek_at(0).clone() else {
            return Err(self.fault(format!("{what} is wanted here, not {}", self.peek_at(0))));
        };
        self.advance();
        Ok(name)
    }

    pub(super) fn end(&self) -> Result<()> {
        match self.peek_at(0) {
            Word::End => Ok(()),
            Word::Sign("=") => {
                Err(self.fault("an expression reads only: for a comparison write =="))
            }
            word => Err(self.fault(format!("{word} is not wanted here"))),
        }
    }

    /// Turns an error of an object into a fault at a place of the expression.
    pub(super) fn at_fault<T>(at: usize, result: crate::Result<T>) -> Result<T> {
        result.map_err(|error| Fault {
            kind: error.kind(),
            ..Fault::new(at, error.to_string())
        })
    }

    pub(super) fn int(&self, value: u64) -> Object {
        Object::value(self.kernel, CType::built_in(self.btf, &INT), value)
    }

    pub(super) fn ulong(&self, value: u64) -> Object {
        Object::value(self.kernel, CType::built_in(self.btf, &ULONG), value)
    }

    /// An object's value; nothing is read where C does not evaluate.
    pub(super) fn value(&self, at: usize, object: &Object) -> Result<u64> {
        if self.dead > 0 && object.address().is_some() {
            return Ok(0);
        }
        Self::at_fault(at, object.u64())
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return Err(self.fault(format!("more than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// As `parse` does, without reading memory unless `live`.
    pub(super) fn unless_dead<T>(
        &mut self,
        live: bool,
        parse: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.dead += usize::from(!live);
        let parsed = parse(self);
        self.dead -= usize::from(!live);
        parsed
    }

    pub(super) fn expression(&mut self) -> Result<Object> {
        self.nested(|p| {
            let at = p.at();
            let condition = p.binary(0)?;
            if !p.accept("?") {
                return Ok(condition);
            }
            let yes = p.value(at, &condition)? != 0;
            p.conditions += 1;
            let first = p.unless_dead(yes, Self::expression);
            p.conditions -= 1;
            let first = first?;
            p.expect(":")?;
            let second = p.unless_dead(!yes, Self::expression)?;
            Ok(if yes { first } else { second })
        })
    }

    /// Operators that bind tighter than `weakest`.
    fn binary(&mut self, weakest: u8) -> Result<Object> {
        let start = self.at();
        let mut left = self.unary()?;
        while let Word::Sign(sign) = *self.peek_at(0) {
            let Some(binds) = operators::precedence(sign).filter(|binds| *binds > weakest) else {
                break;
            };
            let at = self.at();
            self.advance();
            left = match sign {
                "&&" | "||" => {
                    let first = self.value(start, &left)? != 0;
                    let decided = first == (sign == "||");
                    let right_at = self.at();
                    let right = self.nested(|p| p.unless_dead(!decided, |p| p.binary(binds)))?;
                    let second = if decided {
                        false
                    } else {
                        self.value(right_at, &right)? != 0
                    };
                    self.int(u64::from(if decided { first } else { second }))
                }
                _ => {
                    let right_at = self.at();
                    let right = self.nested(|p| p.binary(binds))?;
                    self.apply((sign, at), (&left, start), (&right, right_at))?
                }
            };
        }
        Ok(left)
    }

    pub(super) fn unary(&mut self) -> Result<Object> {
        self.nested(|p| {
            let at = p.at();
            match *p.peek_at(0) {
                Word::Sign("*") => {
                    p.advance();
                    let operand = p.unary()?;
                    p.deref(at, &operand)
                }
                Word::Sign("&") => {
                    p.advance();
                    let operand = p.unary()?;
                    Self::at_fault(at, operand.address_of())
                }
                Word::Sign(sign @ ("-" | "+" | "~" | "!")) => {
                    p.advance();
                    let operand = p.unary()?;
                    p.sign(sign, at, &operand)
                }
                Word::Sign("(") if p.is_type(1) => {
                    p.advance();
                    let ty = p.type_name()?;
                    p.expect(")")?;
                    let operand = p.unary()?;
                    p.cast(at, ty, &operand)
                }
                _ => p.postfix(),
            }
        })
    }

    fn cast(&self, at: usize, ty: CType, operand: &Object) -> Result<Object> {
        if self.dead > 0 && operand.address().is_some() {
            return Ok(Object::value(self.kernel, ty, 0));
        }
        Self::at_fault(at, operand.cast_to(ty))
    }

    pub(super) fn deref(&self, at: usize, pointer: &Object) -> Result<Object> {
        match Self::at_fault(at, pointer.c_type().form())? {
            Form::Pointer(to) => Ok(Object::in_memory(
                self.kernel,
                to,
                GuestVirt(self.value(at, pointer)?),
            )),
            // As in C, a function is what it points to.
            Form::Function => Ok(pointer.clone()),
            _ => Self::at_fault(at, pointer.deref()),
        }
    }

    fn postfix(&mut self) -> Result<Object> {
        let start = self.at();
        let mut object = self.primary()?;
        loop {
            let at = self.at();
            if self.accept("[") {
                let index_at = self.at();
                let index = self.expression()?;
                self.expect("]")?;
                let index = self.value(index_at, &index)?;
                let base = match Self::at_fault(start, object.c_type().form())? {
                    Form::Pointer(to) => {
                        Object::value(self.kernel, to.pointer(), self.value(start, &object)?)
                    }
                    _ => object,
                };
                object = Self::at_fault(at, base.index(index as i64))?;
            } else if self.accept("->") {
                let is_pointer = matches!(
                    Self::at_fault(at, object.c_type().form())?,
                    Form::Pointer(_) | Form::Array(..)
                );
                if !is_pointer {
                    return Err(Fault::new(
                        at,
                        format!("`{}` is no pointer: write . here", object.type_name()),
                    ));
                }
                let target = self.deref(start, &object)?;
                object = self.member(&target)?;
            } else if self.accept(".") {
                if matches!(
                    Self::at_fault(at, object.c_type().form())?,
                    Form::Pointer(_)
                ) {
                    return Err(Fault::new(
                        at,
                        format!("`{}` is a pointer: write -> here", object.type_name()),
                    ));
                }
                object = self.member(&object)?;
            } else if matches!(self.peek_at(0), Word::Sign("(")) {
                return Err(self.fault("functions of the kernel cannot be called"));
            } else {
                return Ok(object);
            }
        }
    }

    fn member(&mut self, of: &Object) -> Result<Object> {
        let at = self.at();
        let name = self.name("a member's name")?;
        Self::at_fault(at, of.member(&name))
    }

    fn primary(&mut self) -> Result<Object> {
        let at = self.at();
        match self.peek_at(0).clone() {
            Word::Number(value, unsigned, long) => {
                self.advance();
                let ty = match (unsigned, long) {
                    (false, false) => &INT,
                    (true, false) => &UINT,
                    (false, true) => &LONG,
                    (true, true) => &ULONG,
                };
                Ok(Object::value(
                    self.kernel,
                    CType::built_in(self.btf, ty),
                    value,
                ))
            }
            Word::Text(text) => {
                self.advance();
                Self::at_fault(at, Object::text(self.kernel, &text))
            }
            Word::Sign("(") => {
                self.advance();
                let outside = std::mem::take(&mut self.conditions);
                let inner = self.expression();
                self.conditions = outside;
                let inner = inner?;
                self.expect(")")?;
                Ok(inner)
            }
            Word::Name(name) => {
                self.advance();
                let call = matches!(self.peek_at(0), Word::Sign("("));
                match name.as_str() {
                    "sizeof" => self.size_of(),
                    "offsetof" if call => self.offset_of(),
                    "container_of" | "list_entry" | "hlist_entry" | "rb_entry" if call => {
                        self.container_of()
                    }
                    "per_cpu" | "per_cpu_ptr" if call => self.per_cpu(&name),
                    "NULL" => Ok(Object::value(
                        self.kernel,
                        CType::of(self.btf, TypeId::VOID).pointer(),
                        0,
                    )),
                    _ => self.variable(at, &name),
                }
            }
            word => Err(Fault::new(
                at,
                format!("a value is wanted here, not {word}"),
            )),
        }
    }

    /// A global variable, a function, or a constant of an enumeration.
    fn variable(&mut self, at: usize, name: &str) -> Result<Object> {
        if let Some((_, local)) = self.locals.iter().find(|(local, _)| local == name) {
            return Ok(local.clone());
        }
        if let Some(found) = self.spelled(at, name)? {
            return Ok(found);
        }
        match self.kernel.find_exact(name) {
            Ok(Some(found)) => return Self::at_fault(at, self.kernel.defined(&found)),
            Err(error @ Error::Ambiguous { .. }) => return Self::at_fault(at, Err(error)),
            Ok(None) | Err(_) => {}
        }
        match self.constant(name) {
            Some(constant) => Ok(constant),
            None => Self::at_fault(at, self.kernel.global(name)),
        }
    }

    /// A constant of an enumeration, the kernel's or a module's; `true` and `false`, which all of C's programs have.
    fn constant(&self, name: &str) -> Option<Object> {
        let modules = || {
            let all = self.kernel.module_btfs().unwrap_or_default();
            let mut all = all.into_iter().filter_map(|module| module.btf.ok());
            all.find_map(|btf| btf.find_enumerator(name).map(|found| (btf, found)))
        };
        let own = self.btf.find_enumerator(name);
        let own = own.map(|found| (self.btf.clone(), found));
        match (own.or_else(modules), name) {
            (Some((btf, (id, value))), _) => Some(Object::value(
                self.kernel,
                CType::of(&btf, id),
                value as u64,
            )),
            (None, "true") => Some(self.int(1)),
            (None, "false") => Some(self.int(0)),
            (None, _) => None,
        }
    }

    /// A symbol of which the name is only a part: `foo.isra.0`, `tun:group_show`, `name_show@2`,
    /// `core::option::unwrap_failed`. `None` where C means something else by what follows the name.
    fn spelled(&mut self, at: usize, name: &str) -> Result<Option<Object>> {
        let (start, mut found) = (self.next, None);
        let sign = |p: &Self, ahead: usize, sign: &str| {
            p.is_joined(ahead) && matches!(p.peek_at(ahead), Word::Sign(s) if *s == sign)
        };
        let word = |p: &Self, ahead: usize| {
            p.is_joined(ahead) && matches!(p.peek_at(ahead), Word::Name(_) | Word::Number(..))
        };
        // A module, or the path of a Rust function.
        let mut qualified = false;
        if self.conditions == 0 && sign(self, 0, ":") && word(self, 1) {
            self.next += 2;
            qualified = true;
        }
        while sign(self, 0, ":") && sign(self, 1, ":") && word(self, 2) {
            self.next += 3;
            qualified = true;
        }
        // The longest that is a symbol: the compiler's suffixes, and members of structures, look the same.
        let mut ends = vec![self.next];
        while sign(self, 0, ".") && word(self, 1) {
            self.next += 2;
            ends.push(self.next);
        }
        for end in ends.into_iter().rev() {
            self.next = end;
            let chosen = sign(self, 0, "@") && word(self, 1);
            if chosen {
                self.next += 2;
            }
            if self.next == start {
                continue;
            }
            let text = self.written_from(at);
            let dotted = end > start && !qualified;
            if dotted && !self.is_symbol(name, text) {
                continue;
            }
            found = Some(self.kernel.resolve(text));
            break;
        }
        match found {
            Some(definition) => {
                let definition = Self::at_fault(at, definition)?;
                Self::at_fault(at, self.kernel.defined(&definition)).map(Some)
            }
            None => {
                self.next = start;
                Ok(None)
            }
        }
    }

    /// Tells whether a name with dots is a symbol. Of what has members the modules are not asked: there a dot is C's.
    fn is_symbol(&self, name: &str, dotted: &str) -> bool {
        let base = dotted.split_once('@').map_or(dotted, |(base, _)| base);
        let Ok(symbols) = self.kernel.symbols() else {
            return false;
        };
        if symbols.lookup(base).is_some() {
            return true;
        }
        let has_members = || {
            let object = self.kernel.find_exact(name).ok().flatten();
            let object = object.and_then(|found| self.kernel.defined(&found).ok());
            object.is_some_and(|object| matches!(object.c_type().form(), Ok(Form::Composite(_))))
        };
        !has_members()
            && self
                .kernel
                .find_exact(base)
                .is_ok_and(|found| found.is_some())
    }
}
