//! C expressions on guest memory: `init_task.mm->pgd`, `container_of(p, struct task_struct, tasks)->comm`.
//!
//! Operators, precedence, integer conversions and pointer arithmetic are C's. Besides: `sizeof`, `offsetof`,
//! `container_of`, `list_entry`, `per_cpu`, `per_cpu_ptr`, constants of the kernel's enumerations, and `==` between
//! a character array or pointer and a string literal, which compares the text. Nothing is written or called.

mod builtins;
mod lex;
mod operators;
mod parser;
#[cfg(test)]
mod tests;
mod types;

use lex::Fault;
use parser::Parser;

use super::ctype::{CType, Form};
use super::cursor::Object;
use crate::kernel::{Kernel, Spelling};
use crate::{Error, Result};

/// Bytes that an expression has at most.
const MAX_LEN: usize = 4096;

impl Kernel {
    /// The value of a C expression.
    ///
    /// ```no_run
    /// # fn next_task(kernel: &klab_memory::kernel::Kernel) -> klab_memory::Result<()> {
    /// let comm = kernel.eval("container_of(init_task.tasks.next, struct task_struct, tasks)->comm")?;
    /// println!("{}", comm.string()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A name means what [`resolve`](Self::resolve) says: `tun:group_show`, `name_show@2`, `foo.cold`. One that several
    /// symbols, or several types, have is an error that says how each is written (`struct tun:foo`).
    ///
    /// # Errors
    /// [`Error::Expression`], with the column: `Absent` for a name that there is not, `Invalid`
    /// for what is no C, `Unmapped` for a bad pointer. For a symbol alone as [`resolve`](Self::resolve).
    pub fn eval(&self, expression: &str) -> Result<Object> {
        match self.whole(expression)? {
            Some(symbol) => Ok(symbol),
            None => self.parse(expression, true, |parser| parser.expression()),
        }
    }

    /// As [`eval`](Self::eval), where these names mean these objects before all else: a function's arguments.
    ///
    /// # Errors
    /// As [`eval`](Self::eval).
    pub fn eval_with(&self, expression: &str, locals: &[(String, Object)]) -> Result<Object> {
        self.parse(expression, true, |parser| {
            parser.locals = locals.to_vec();
            parser.expression()
        })
    }

    /// The C type of this name, for code that knows it: `struct list_head *`, `unsigned long [4]`, `u64`. The kernel's
    /// own comes before those of modules.
    ///
    /// # Errors
    /// [`Error::Expression`]: `Absent` if there is no such type, `Invalid` if it is no type's
    /// name. As [`Self::btf`].
    pub fn c_type(&self, name: &str) -> Result<CType> {
        self.parse(name, false, |parser| parser.type_name())
    }

    /// The C type that people mean by this name: of several that differ none is taken, also where one is the kernel's.
    ///
    /// # Errors
    /// As [`Self::c_type`]; `Invalid` if several differ.
    pub fn resolve_type(&self, name: &str) -> Result<CType> {
        self.parse(name, true, |parser| parser.type_name())
    }

    /// A whole expression that is a symbol as views print it, where C would read something else or nothing:
    /// `<gcblock::GcShared>::wait_for_value+0x71 [gcblock]`, `.Ltmp1`, and an offset into code that has no type.
    fn whole(&self, expression: &str) -> Result<Option<Object>> {
        let text = expression.trim();
        let (address, name) = match text.strip_prefix('&') {
            Some(name) => (true, name.trim_start()),
            None => (false, text),
        };
        let Some(spelling) = Spelling::parse(name).filter(|spelling| !spelling.is_plain()) else {
            return Ok(None);
        };
        let is_c = is_c(name);
        if is_c && spelling.offset == 0 {
            return Ok(None);
        }
        let found = match self.resolve_spelled(&spelling) {
            Err(Error::NoSymbol { .. }) if is_c => return Ok(None),
            found => found?,
        };
        let object = self.defined(&found)?;
        let known = !matches!(object.c_type().form()?, Form::Void | Form::Function);
        if is_c && (known || address) {
            return Ok(None);
        }
        Ok(Some(match (spelling.offset, address) {
            (0, false) => object,
            (0, true) => object.address_of()?,
            (offset, _) => {
                let at = found.symbol.at.offset(offset);
                Object::value(self, self.c_type("void *")?, at.0)
            }
        }))
    }

    fn parse<T>(
        &self,
        text: &str,
        strict: bool,
        what: impl FnOnce(&mut Parser<'_>) -> Result<T, Fault>,
    ) -> Result<T> {
        let btf = self.btf()?;
        // One line, so that the caret stands under the fault.
        let text = text.trim().replace(['\n', '\t', '\r'], " ");
        let parsed = if text.len() > MAX_LEN {
            Err(Fault::new(
                0,
                format!("an expression has at most {MAX_LEN} bytes"),
            ))
        } else {
            lex::words(&text).and_then(|words| {
                let mut parser = Parser::new(self, btf, &text, words, strict);
                let value = what(&mut parser)?;
                parser.end()?;
                Ok(value)
            })
        };
        parsed.map_err(|fault| Error::Expression {
            message: fault.message,
            kind: fault.kind,
            column: text.get(..fault.at).unwrap_or(&text).chars().count(),
            source_text: text,
        })
    }
}

/// Tells whether the lexer of C can read a symbol's spelling: an identifier with a module, dots, or an offset.
fn is_c(spelling: &str) -> bool {
    let of_c = |c: char| c.is_ascii_alphanumeric() || "_.:@+ ".contains(c);
    spelling.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && spelling.chars().all(of_c)
}
