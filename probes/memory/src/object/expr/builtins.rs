//! The functions of an expression: `sizeof`, `offsetof`, `container_of`, `per_cpu`.

use super::lex::{Fault, Word};
use super::parser::Parser;
use crate::memory::GuestVirt;
use crate::object::ctype::{CType, Form};
use crate::object::cursor::{Object, offset_of};

type Result<T> = std::result::Result<T, Fault>;

impl Parser<'_> {
    pub(super) fn size_of(&mut self) -> Result<Object> {
        let at = self.at();
        let ty = if matches!(self.peek_at(0), Word::Sign("(")) && self.is_type(1) {
            self.advance();
            let ty = self.type_name()?;
            self.expect(")")?;
            ty
        } else {
            self.unless_dead(false, Self::unary)?.c_type().clone()
        };
        Ok(self.ulong(Self::at_fault(at, ty.size())?))
    }

    pub(super) fn offset_of(&mut self) -> Result<Object> {
        self.expect("(")?;
        let ty = self.type_name()?;
        self.expect(",")?;
        let offset = self.member_offset(&ty)?;
        self.expect(")")?;
        Ok(self.ulong(offset))
    }

    /// The offset of a member that is written here, as a path.
    fn member_offset(&mut self, ty: &CType) -> Result<u64> {
        let path = self.path()?;
        Self::at_fault(path.1, offset_of(self.kernel, ty, &path.0))
    }

    /// `a.b[3].c`, and where it stands.
    fn path(&mut self) -> Result<(String, usize)> {
        let at = self.at();
        let mut path = self.name("a member's name")?;
        loop {
            if self.accept(".") {
                path.push('.');
                path.push_str(&self.name("a member's name")?);
            } else if self.accept("[") {
                let Word::Number(index, ..) = *self.peek_at(0) else {
                    return Err(self.fault("an index is a number here"));
                };
                self.advance();
                self.expect("]")?;
                path.push_str(&format!("[{index}]"));
            } else {
                return Ok((path, at));
            }
        }
    }

    pub(super) fn container_of(&mut self) -> Result<Object> {
        self.expect("(")?;
        let at = self.at();
        let pointer = self.expression()?;
        let pointer = match Self::at_fault(at, pointer.c_type().form())? {
            Form::Pointer(_) | Form::Int(_) => Object::value(
                self.kernel,
                pointer.c_type().clone(),
                self.value(at, &pointer)?,
            ),
            Form::Array(..) => pointer,
            _ => {
                return Err(Fault::new(
                    at,
                    format!("`{}` is no pointer: write & before it", pointer.type_name()),
                ));
            }
        };
        self.expect(",")?;
        let ty = self.type_name()?;
        self.expect(",")?;
        let (path, path_at) = self.path()?;
        self.expect(")")?;
        Self::at_fault(path_at, pointer.container_of_type(ty, &path))
    }

    /// `per_cpu(variable, cpu)` is that CPU's variable; `per_cpu_ptr(pointer, cpu)` the pointer to that CPU's.
    pub(super) fn per_cpu(&mut self, which: &str) -> Result<Object> {
        self.expect("(")?;
        let at = self.at();
        let object = self.expression()?;
        self.expect(",")?;
        let cpu_at = self.at();
        let cpu = self.expression()?;
        let cpu = u32::try_from(self.value(cpu_at, &cpu)?).unwrap_or(u32::MAX);
        self.expect(")")?;
        if which == "per_cpu_ptr" {
            let to = GuestVirt(self.value(at, &object)?);
            let moved = Self::at_fault(cpu_at, self.kernel.per_cpu(to, cpu))?;
            return Ok(Object::value(self.kernel, object.c_type().clone(), moved.0));
        }
        let place = object.address().ok_or_else(|| {
            Fault::new(
                at,
                "per_cpu takes a variable; for a pointer write per_cpu_ptr",
            )
        })?;
        let moved = Self::at_fault(cpu_at, self.kernel.per_cpu(place, cpu))?;
        Ok(Object::in_memory(
            self.kernel,
            object.c_type().clone(),
            moved,
        ))
    }
}
