//! Parses a C expression and evaluates it on the way.

use std::sync::Arc;

use super::lex::{Fault, Word};
use super::operators;
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
    words: Vec<(Word, usize)>,
    next: usize,
    depth: usize,
    /// Above 0 inside what C does not evaluate (`sizeof`, the other side of `&&`): nothing is read there.
    pub(super) dead: usize,
}

type Result<T> = std::result::Result<T, Fault>;

impl<'a> Parser<'a> {
    pub(super) fn new(kernel: &'a Kernel, btf: &'a Arc<Btf>, words: Vec<(Word, usize)>) -> Self {
        Self {
            kernel,
            btf,
            words,
            next: 0,
            depth: 0,
            dead: 0,
        }
    }

    pub(super) fn peek_at(&self, ahead: usize) -> &Word {
        self.words
            .get(self.next + ahead)
            .map_or(&Word::End, |(word, _)| word)
    }

    /// Where the next word begins.
    pub(super) fn at(&self) -> usize {
        self.words
            .get(self.next)
            .or(self.words.last())
            .map_or(0, |(_, at)| *at)
    }

    pub(super) fn advance(&mut self) {
        self.next += 1;
    }

    pub(super) fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.at(), message)
    }

    pub(super) fn accept(&mut self, sign: &str) -> bool {
        let there = matches!(self.peek_at(0), Word::Sign(s) if *s == sign);
        self.next += usize::from(there);
        there
    }

    pub(super) fn accept_name(&mut self, name: &str) -> bool {
        let there = matches!(self.peek_at(0), Word::Name(n) if n == name);
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
        result.map_err(|e| Fault::new(at, e.to_string()))
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
            let first = p.unless_dead(yes, Self::expression)?;
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
                let inner = self.expression()?;
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
    fn variable(&self, at: usize, name: &str) -> Result<Object> {
        let missing = match self.kernel.global(name) {
            Ok(object) => return Ok(object),
            Err(error) => error,
        };
        match self.btf.find_enumerator(name) {
            Some((id, value)) => Ok(Object::value(
                self.kernel,
                CType::of(self.btf, id),
                value as u64,
            )),
            None => Err(Fault::new(at, missing.to_string())),
        }
    }
}
