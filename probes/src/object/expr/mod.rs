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

use super::ctype::CType;
use super::cursor::Object;
use crate::kernel::Kernel;
use crate::{Error, Result};

/// Bytes that an expression has at most.
const MAX_LEN: usize = 4096;

impl Kernel {
    /// The value of a C expression.
    ///
    /// ```no_run
    /// # fn next_task(kernel: &probes::kernel::Kernel) -> probes::Result<()> {
    /// let comm = kernel.eval("container_of(init_task.tasks.next, struct task_struct, tasks)->comm")?;
    /// println!("{}", comm.string()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn eval(&self, expression: &str) -> Result<Object> {
        self.parse(expression, |parser| parser.expression())
    }

    /// The C type of this name: `struct list_head *`, `unsigned long [4]`, `u64`.
    pub fn c_type(&self, name: &str) -> Result<CType> {
        self.parse(name, |parser| parser.type_name())
    }

    fn parse<T>(
        &self,
        text: &str,
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
                let mut parser = Parser::new(self, btf, words);
                let value = what(&mut parser)?;
                parser.end()?;
                Ok(value)
            })
        };
        parsed.map_err(|fault| Error::Expression {
            message: fault.message,
            column: text.get(..fault.at).unwrap_or(&text).chars().count(),
            source_text: text,
        })
    }
}
