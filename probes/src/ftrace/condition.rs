//! The part of a condition that the guest itself can see to: comparisons of an argument, or of a member of what it points to,
//! with a number.
//!
//! What is pushed down is never narrower than the condition: where C's rules would make another comparison of it, it stays here.

use super::function::Function;
use super::member;
use crate::debug::arguments::Passed;
use crate::kernel::btf::{Shape, TypeId};
use crate::kmod::call::{CONDITIONS, Compare, Condition};

/// The part of a condition that the module sees to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pushed {
    pub(super) conditions: Vec<Condition>,
    /// True if that is all of it.
    pub(super) whole: bool,
}

/// Operators, the longer first.
const COMPARES: [(&str, Compare); 6] = [
    ("==", Compare::Equal),
    ("!=", Compare::Unequal),
    ("<=", Compare::AtMost),
    (">=", Compare::AtLeast),
    ("<", Compare::Less),
    (">", Compare::More),
];

/// The comparisons of `condition` that a call of `function` must meet.
pub(super) fn push(condition: &str, function: &Function) -> Pushed {
    // Anything that binds looser than `&&`, or that groups: then the parts are not what they look like.
    if condition.contains(['|', '?', ',', '(', '"', '\'']) {
        return Pushed::default();
    }
    let mut pushed = Pushed {
        conditions: Vec::new(),
        whole: true,
    };
    for part in condition.split("&&") {
        match compare(part.trim(), function).filter(|_| pushed.conditions.len() < CONDITIONS) {
            Some(condition) => pushed.conditions.push(condition),
            None => pushed.whole = false,
        }
    }
    pushed
}

/// `count > 4096`, `dfd == -100`, `next->pid == 1`.
fn compare(part: &str, function: &Function) -> Option<Condition> {
    let (name, rest) = part.split_at(member::path_end(part, 0));
    let rest = rest.trim_start();
    let (sign, compare) = COMPARES.iter().find(|(sign, _)| rest.starts_with(sign))?;
    let (negative, number) = number(rest[sign.len()..].trim())?;
    let (register, ty, offset) = compared(name, function)?;
    let (size, signed) = match function.prototype.as_ref()?.btf.shape(ty).ok()? {
        Shape::Int {
            size,
            signed,
            bool: false,
        } => (size, signed),
        _ => return None,
    };
    // A negative number and an unsigned type: C converts, which is not what this compares.
    if negative && !signed {
        return None;
    }
    // A number too large for `int` has a longer type, or an unsigned one, by how it is written.
    if size < 8 && number > 0x7fff_ffff || number > i64::MAX as u64 {
        return None;
    }
    Some(Condition {
        arg: register,
        compare: *compare as u8,
        width: Some(size).filter(|size| matches!(size, 1 | 2 | 4 | 8))?,
        signed: u8::from(signed),
        hop: u8::from(offset.is_some()),
        zero: 0,
        offset: offset.unwrap_or(0),
        value: if negative {
            number.wrapping_neg()
        } else {
            number
        },
    })
}

/// The register of an argument or of the pointer to a member, what type is compared, and where that lies behind the pointer.
fn compared(name: &str, function: &Function) -> Option<(u8, TypeId, Option<u16>)> {
    if name.contains("->") {
        let member = member::find(function, name).ok()?;
        return Some((member.register, member.ty, Some(member.offset)));
    }
    let mut params = function.params.iter();
    let index = params.position(|param| param.name == name)?;
    let Passed::Registers(register, 1) = function.params[index].place else {
        return None;
    };
    let (_, ty) = function.prototype.as_ref()?.parameters.get(index)?;
    Some((u8::try_from(register).ok()?, *ty, None))
}

/// A plain number, without a suffix.
fn number(text: &str) -> Option<(bool, u64)> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text),
    };
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        // A number that begins with 0 is octal.
        None if text.len() > 1 && text.starts_with('0') => return None,
        None if text.starts_with(|c: char| c.is_ascii_digit()) => text.parse().ok()?,
        None => return None,
    };
    Some((negative, number))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::debug::function::prototype;
    use crate::ftrace::function::tests::typed;
    use crate::kernel::Kernel;
    use crate::kernel::btf::build::Builder;
    use crate::kmod::call::{Plan, Wanted};
    use crate::memory::{AddressSpace, FakeMemory};
    use crate::object::Object;

    /// `f(int fd, unsigned int flags, unsigned long count, unsigned char byte, long pos)`.
    fn function() -> (Kernel, Function) {
        let mut b = Builder::new();
        let int = b.int("int", 4, true);
        let uint = b.int("unsigned int", 4, false);
        let long = b.int("long int", 8, true);
        let ulong = b.int("long unsigned int", 8, false);
        let byte = b.int("unsigned char", 1, false);
        let params = [
            ("fd", int),
            ("flags", uint),
            ("count", ulong),
            ("byte", byte),
            ("pos", long),
        ];
        b.function("f", int, &params);
        let space = AddressSpace::identity(Arc::new(FakeMemory::new([])));
        let kernel = Kernel::with_btf("7.3.4-test", space, b.finish().unwrap());
        let prototype = prototype(&kernel, "f", None).unwrap().unwrap();
        (kernel, typed(prototype))
    }

    #[test]
    fn what_is_pushed_down() {
        let (_, function) = function();
        let pushed = |text: &str| {
            let pushed = push(text, &function);
            (pushed.conditions.len(), pushed.whole)
        };
        assert_eq!(pushed("count > 4096"), (1, true));
        assert_eq!(pushed("count>=0x1000&&fd!=-1"), (2, true));
        assert_eq!(pushed("count > 4096 && retval < 0"), (1, false));
        for kept in [
            "count > 4096 || fd == 1",
            "(count) > 4096",
            "count > fd",
            "count",
            "count & 4 > 1",
            "count > 010",
            "count > 1u",
            "flags == -1",
            "flags > 4294967296",
            "fd == 0xffffffff",
            "!count > 1",
        ] {
            assert_eq!(pushed(kept), (0, false), "{kept}");
        }
    }

    /// The module and the evaluator of C expressions agree on every call.
    #[test]
    fn what_is_pushed_down_is_what_c_says() {
        let (kernel, function) = function();
        let prototype = function.prototype.clone().unwrap();
        let words = [
            0,
            1,
            4096,
            4097,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0xffff_ff9c,
            u64::MAX,
            u64::MAX - 99,
            1 << 63,
            0x1_0000_0001,
            0xff,
            0x100,
        ];
        let mut compared = 0;
        for name in ["fd", "flags", "count", "byte", "pos"] {
            for (sign, _) in COMPARES {
                for number in ["0", "1", "-1", "-100", "4096", "0x7fffffff", "255"] {
                    let text = format!("{name} {sign} {number}");
                    let pushed = push(&text, &function);
                    let plan = match pushed.conditions.as_slice() {
                        [one] => {
                            let mut plan = Plan {
                                count: 1,
                                ..Plan::ALL
                            };
                            plan.conditions[0] = *one;
                            plan
                        }
                        _ => continue,
                    };
                    assert!(plan.is_sound());
                    for word in words {
                        let locals: Vec<(String, Object)> = prototype
                            .parameters
                            .iter()
                            .map(|(name, ty)| {
                                let btf = &prototype.btf;
                                let object = Object::of_register(&kernel, btf, *ty, word);
                                (name.clone(), object.unwrap())
                            })
                            .collect();
                        let said = kernel.eval_with(&text, &locals).unwrap().u64().unwrap() != 0;
                        let wanted = plan.wants(&[word; 6], |_, _| None);
                        assert_eq!(wanted == Wanted::Yes, said, "{text} of {word:#x}");
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 2000, "{compared}");
    }
}
