//! Arguments of a function: each parameter of its prototype, from the registers and the stack, as the System V ABI for
//! x86-64 passes it (section 3.2.3). The kernel has no floating point there.

use serde::Serialize;
use vm::Registers;

use super::function::Prototype;
use crate::kernel::Kernel;
use crate::kernel::btf::{Shape, TypeId};
use crate::memory::GuestVirt;
use crate::object::{Object, Value};
use crate::{Error, Result};

/// Arguments in registers: `rdi`, `rsi`, `rdx`, `rcx`, `r8`, `r9`.
const REGISTERS: usize = 6;
/// Bytes of the longest structure that is passed in registers.
const IN_REGISTERS: u64 = 16;

/// An argument of a call, read out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Argument {
    /// The parameter's name in the source; `arg0` where that gives none.
    pub name: String,
    /// Its type in C.
    #[serde(rename = "type")]
    pub ty: String,
    /// Its value.
    pub value: Value,
}

/// Place of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    /// In so many registers from the one of this number on.
    Registers(usize, usize),
    /// On the stack: bytes from the return address on.
    Stack(u64),
}

/// Place of the argument of each type; each type is given by its size, and whether it is a structure or a union.
pub(crate) fn passed(types: impl IntoIterator<Item = (u64, bool)>) -> Vec<Passed> {
    let (mut register, mut stack) = (0, 8);
    let mut all = Vec::new();
    for (size, composite) in types {
        let words = size.div_ceil(8).max(1);
        let fits = !composite || size <= IN_REGISTERS;
        if fits && words as usize <= REGISTERS - register {
            all.push(Passed::Registers(register, words as usize));
            register += words as usize;
        } else {
            all.push(Passed::Stack(stack));
            stack += words * 8;
        }
    }
    all
}

/// The arguments of one call: its registers and its stack, as they were when it began.
#[derive(Debug, Clone)]
pub(crate) struct Arguments {
    pub(crate) names: Vec<String>,
    objects: Vec<Result<Object>>,
}

impl Arguments {
    /// Arguments of a function that is about to run with these registers.
    pub(crate) fn of(
        kernel: &Kernel,
        prototype: &Prototype,
        registers: &Registers,
    ) -> Result<Self> {
        let btf = &prototype.btf;
        let mut types = Vec::new();
        for (_, ty) in &prototype.parameters {
            types.push((
                btf.size_of(*ty)?.unwrap_or(8),
                is_composite(prototype, *ty)?,
            ));
        }
        let places = passed(types.iter().copied());
        let each = prototype.parameters.iter().zip(places).zip(types);
        let objects = each.map(|(((name, ty), place), (_, composite))| match place {
            Passed::Registers(first, 1) => {
                let word = registers.argument(first).unwrap_or(0);
                Object::of_register(kernel, btf, *ty, word)
            }
            Passed::Registers(..) => Err(Error::Unsupported(format!(
                "`{name}` is passed in two registers: `call.registers()` has them"
            ))),
            Passed::Stack(offset) => {
                let at = GuestVirt(registers.rsp).offset(offset);
                match composite {
                    true => Ok(Object::of_type(kernel, btf, *ty, at)),
                    // The caller's stack will be used for other things.
                    false => kernel
                        .read_u64(at)
                        .and_then(|word| Object::of_register(kernel, btf, *ty, word)),
                }
            }
        });
        let objects = objects.collect();
        let names = prototype.parameters.iter().map(|(name, _)| name.clone());
        Ok(Self {
            names: names.collect(),
            objects,
        })
    }

    /// The argument of a name.
    pub(crate) fn named(&self, function: &str, name: &str) -> Result<Object> {
        match self.names.iter().position(|known| known == name) {
            Some(index) => self.objects[index].clone(),
            None => Err(Error::Absent(match self.names.is_empty() {
                true => format!("{function} takes no arguments"),
                false => format!(
                    "{function} has no argument `{name}`: it has {}",
                    self.names.join(", ")
                ),
            })),
        }
    }

    /// The names with their values, as an expression may use them.
    pub(crate) fn locals(&self) -> Vec<(String, Object)> {
        let each = self.names.iter().zip(&self.objects);
        each.filter_map(|(name, object)| Some((name.clone(), object.clone().ok()?)))
            .collect()
    }

    /// All of them, read out.
    pub(crate) fn values(&self, prototype: &Prototype) -> Vec<Argument> {
        let each = self.names.iter().zip(&self.objects);
        each.zip(&prototype.parameters)
            .map(|((name, object), (_, ty))| Argument {
                name: name.clone(),
                ty: prototype
                    .btf
                    .declarator(*ty, "")
                    .unwrap_or_else(|error| error.to_string()),
                value: read_out(object.clone()),
            })
            .collect()
    }
}

/// A value; what cannot be read is said in its place.
pub(crate) fn read_out(object: Result<Object>) -> Value {
    object
        .and_then(|object| object.to_value())
        .unwrap_or_else(|error| Value::Fault(error.to_string()))
}

pub(crate) fn is_composite(prototype: &Prototype, ty: TypeId) -> Result<bool> {
    Ok(matches!(prototype.btf.shape(ty)?, Shape::Composite { .. }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::debug::function::prototype;
    use crate::kernel::btf::build::Builder;
    use crate::memory::{AddressSpace, FakeMemory, GuestPhys};

    #[test]
    fn values_are_those_of_their_types() {
        let mut b = Builder::new();
        let int = b.int("int", 4, true);
        let long = b.int("long unsigned int", 8, false);
        let bool = b.int("_Bool", 1, false);
        let pointer = b.pointer(int);
        let pair = b.structure("pair", 16, &[("a", long, 0), ("b", long, 64)]);
        let handle = b.structure("handle", 8, &[("a", long, 0)]);
        let parameters = [
            ("error", int),
            ("more", bool),
            ("at", pointer),
            ("both", pair),
            ("", handle),
            ("seventh", int),
            ("eighth", pair),
        ];
        b.function("f", int, &parameters);
        let mut stack = vec![0; 64];
        stack[8..16].copy_from_slice(&0xdead_beef_ffff_fffb_u64.to_le_bytes());
        stack[24] = 42;
        let memory = FakeMemory::new([(GuestPhys(0x2000), stack)]);
        let space = AddressSpace::identity(Arc::new(memory));
        let kernel = Kernel::with_btf("7.3.4-test", space, b.finish().unwrap());
        let registers = Registers {
            rdi: 0x1234_5678_ffff_fffe,
            rsi: 0xff00,
            rdx: 0xffff_8880_0000_1000,
            rcx: 7,
            r8: 8,
            r9: 9,
            rsp: 0x2000,
            ..Registers::default()
        };
        let prototype = prototype(&kernel, "f", None).unwrap().unwrap();
        let all = Arguments::of(&kernel, &prototype, &registers).unwrap();
        let value = |name: &str| all.named("f", name).and_then(|one| one.i64());
        assert_eq!(value("error").unwrap(), -2);
        // Only the lowest byte of a `_Bool` counts.
        assert_eq!(value("more").unwrap(), 0);
        assert_eq!(value("at").unwrap(), 0xffff_8880_0000_1000_u64 as i64);
        assert!(
            value("both")
                .unwrap_err()
                .to_string()
                .contains("two registers")
        );
        assert_eq!(value("arg4").unwrap(), 9);
        assert_eq!(value("seventh").unwrap(), -5);
        let eighth = all.named("f", "eighth").unwrap();
        assert_eq!(eighth.address(), Some(GuestVirt(0x2010)));
        assert_eq!(eighth.member("b").unwrap().u64().unwrap(), 42);
        let wrong = value("nine").unwrap_err().to_string();
        assert!(wrong.contains("error, more, at, both, arg4"), "{wrong}");
        assert_eq!(all.values(&prototype)[2].ty, "int *");
        // An expression knows them, and what shadows a name of the kernel's.
        let said = kernel.eval_with("error == -2 && arg4 > 8 ? eighth.b : 0", &all.locals());
        assert_eq!(said.unwrap().u64().unwrap(), 42);
    }

    #[test]
    fn arguments_are_where_the_abi_puts_them() {
        use Passed::{Registers, Stack};
        let scalar = |size| (size, false);
        assert_eq!(
            passed([8, 4, 1, 8, 8, 8, 4, 8].map(scalar)),
            [
                Registers(0, 1),
                Registers(1, 1),
                Registers(2, 1),
                Registers(3, 1),
                Registers(4, 1),
                Registers(5, 1),
                Stack(8),
                Stack(16)
            ]
        );
        // A structure of two words takes two registers, a longer one none.
        assert_eq!(
            passed([(16, true), (24, true), (8, false)]),
            [Registers(0, 2), Stack(8), Registers(2, 1)]
        );
        // One that does not fit into what is left is on the stack, and the next one still has its register.
        let five = [(8, false); 5];
        let more = [(16, true), (8, false), (8, false)];
        assert_eq!(
            passed(five.into_iter().chain(more))[5..],
            [Stack(8), Registers(5, 1), Stack(24)]
        );
    }
}
