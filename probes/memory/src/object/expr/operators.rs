//! C's operators on integers and pointers.

use super::lex::Fault;
use super::parser::Parser;
use crate::object::ctype::{CType, Form, INT, Int, LONG, UINT, ULONG};
use crate::object::cursor::Object;

/// Precedence of a binary operator; `None` for anything else.
pub(super) fn precedence(sign: &str) -> Option<u8> {
    Some(match sign {
        "||" => 1,
        "&&" => 2,
        "|" => 3,
        "^" => 4,
        "&" => 5,
        "==" | "!=" => 6,
        "<" | ">" | "<=" | ">=" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => 9,
        "*" | "/" | "%" => 10,
        _ => return None,
    })
}

/// An operand, with an array or function as the pointer that C makes of it.
enum Operand {
    Int(Int, u64),
    Pointer(CType, u64),
}

impl Operand {
    const fn raw(&self) -> u64 {
        match self {
            Self::Int(_, value) | Self::Pointer(_, value) => *value,
        }
    }
}

/// The type of a result: integers narrower than `int` become `int`, then the wider wins, and unsigned of equals.
fn common(a: Int, b: Int) -> Int {
    let promote = |int: Int| {
        if int.size < 4 {
            Int {
                size: 4,
                signed: true,
                bool: false,
                char: false,
            }
        } else {
            int
        }
    };
    let (a, b) = (promote(a), promote(b));
    match a.size.cmp(&b.size) {
        std::cmp::Ordering::Less => b,
        std::cmp::Ordering::Greater => a,
        std::cmp::Ordering::Equal => Int {
            signed: a.signed && b.signed,
            ..a
        },
    }
}

impl Parser<'_> {
    fn operand(&self, at: usize, object: &Object) -> Result<Operand, Fault> {
        let form = Self::at_fault(at, object.c_type().form())?;
        let value = match form {
            Form::Array(..) => Self::at_fault(at, object.u64())?,
            _ => self.value(at, object)?,
        };
        match form {
            Form::Int(int) => Ok(Operand::Int(int, value)),
            Form::Pointer(to) | Form::Array(to, _) => Ok(Operand::Pointer(to, value)),
            Form::Function => Ok(Operand::Pointer(object.c_type().clone(), value)),
            _ => Err(Fault::new(
                at,
                format!("`{}` is no integer or pointer", object.type_name()),
            )),
        }
    }

    fn number(&self, int: Int, value: u64) -> Object {
        let ty = match (int.size, int.signed) {
            (0..=4, true) => &INT,
            (0..=4, false) => &UINT,
            (_, true) => &LONG,
            (_, false) => &ULONG,
        };
        Object::value(self.kernel, CType::built_in(self.btf, ty), int.wrap(value))
    }

    pub(super) fn sign(&self, sign: &str, at: usize, object: &Object) -> Result<Object, Fault> {
        let operand = self.operand(at, object)?;
        match (sign, operand) {
            ("!", operand) => Ok(self.int(u64::from(operand.raw() == 0))),
            (_, Operand::Int(int, value)) => Ok(self.number(
                common(int, int),
                match sign {
                    "-" => value.wrapping_neg(),
                    "~" => !value,
                    _ => value,
                },
            )),
            _ => Err(Fault::new(at, format!("`{sign}` takes no pointer"))),
        }
    }

    /// An operator on its sides, each with where it stands.
    pub(super) fn apply(
        &self,
        (sign, at): (&str, usize),
        (left, left_at): (&Object, usize),
        (right, right_at): (&Object, usize),
    ) -> Result<Object, Fault> {
        if let Some(equal) = self.compare_text(at, left, right)? {
            return match sign {
                "==" => Ok(self.int(u64::from(equal))),
                "!=" => Ok(self.int(u64::from(!equal))),
                _ => Err(Fault::new(at, "text can be compared with == and != only")),
            };
        }
        let (left, right) = (self.operand(left_at, left)?, self.operand(right_at, right)?);
        let compared = matches!(sign, "==" | "!=" | "<" | ">" | "<=" | ">=");
        match (left, right) {
            (Operand::Int(a, x), Operand::Int(b, y)) => {
                // A shift has the type of its left side alone.
                let int = if matches!(sign, "<<" | ">>") {
                    common(a, a)
                } else {
                    common(a, b)
                };
                let (x, y) = (
                    int.wrap(x),
                    if matches!(sign, "<<" | ">>") {
                        y
                    } else {
                        int.wrap(y)
                    },
                );
                if compared {
                    return Ok(self.int(u64::from(compare(sign, int.signed, x, y))));
                }
                let value = arithmetic(sign, int, x, y)
                    .ok_or_else(|| Fault::new(at, format!("`{sign}` by {}", y as i64)));
                let value = if self.dead > 0 {
                    value.unwrap_or(0)
                } else {
                    value?
                };
                Ok(self.number(int, value))
            }
            (a, b) if compared => Ok(self.int(u64::from(compare(sign, false, a.raw(), b.raw())))),
            (Operand::Pointer(to, x), Operand::Int(_, y)) if matches!(sign, "+" | "-") => {
                let step = self.step(at, &to)?.wrapping_mul(y);
                let moved = if sign == "+" {
                    x.wrapping_add(step)
                } else {
                    x.wrapping_sub(step)
                };
                Ok(Object::value(self.kernel, to.pointer(), moved))
            }
            (Operand::Int(_, x), Operand::Pointer(to, y)) if sign == "+" => {
                let moved = self.step(at, &to)?.wrapping_mul(x).wrapping_add(y);
                Ok(Object::value(self.kernel, to.pointer(), moved))
            }
            (Operand::Pointer(to, x), Operand::Pointer(_, y)) if sign == "-" => {
                let step = self.step(at, &to)?.max(1) as i64;
                let distance = (x.wrapping_sub(y) as i64).wrapping_div(step);
                Ok(Object::value(
                    self.kernel,
                    CType::built_in(self.btf, &LONG),
                    distance as u64,
                ))
            }
            _ => Err(Fault::new(
                at,
                format!("`{sign}` takes no pointer: cast it to unsigned long"),
            )),
        }
    }

    /// Step of pointer arithmetic on a type, in bytes. `void` and functions count as bytes, as with gcc.
    fn step(&self, at: usize, to: &CType) -> Result<u64, Fault> {
        match Self::at_fault(at, to.form())? {
            Form::Void | Form::Function => Ok(1),
            _ => Self::at_fault(at, to.size()),
        }
    }

    /// Compares two texts, if one of the sides is a string literal.
    fn compare_text(
        &self,
        at: usize,
        left: &Object,
        right: &Object,
    ) -> Result<Option<bool>, Fault> {
        if !left.is_text() && !right.is_text() {
            return Ok(None);
        }
        if self.dead > 0 {
            return Ok(Some(false));
        }
        Ok(Some(
            Self::at_fault(at, left.string())? == Self::at_fault(at, right.string())?,
        ))
    }
}

fn compare(sign: &str, signed: bool, x: u64, y: u64) -> bool {
    let order = if signed {
        (x as i64).cmp(&(y as i64))
    } else {
        x.cmp(&y)
    };
    match sign {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        ">" => order.is_gt(),
        "<=" => order.is_le(),
        _ => order.is_ge(),
    }
}

/// `None` for a division by 0, and for a shift by more bits than there are.
fn arithmetic(sign: &str, int: Int, x: u64, y: u64) -> Option<u64> {
    let shift = || {
        u32::try_from(y)
            .ok()
            .filter(|by| *by < u32::from(int.size) * 8)
    };
    Some(match sign {
        "+" => x.wrapping_add(y),
        "-" => x.wrapping_sub(y),
        "*" => x.wrapping_mul(y),
        "&" => x & y,
        "|" => x | y,
        "^" => x ^ y,
        "<<" => x.checked_shl(shift()?)?,
        ">>" if int.signed => (x as i64).checked_shr(shift()?)? as u64,
        ">>" => x.checked_shr(shift()?)?,
        "/" | "%" if y == 0 => return None,
        "/" if int.signed => (x as i64).wrapping_div(y as i64) as u64,
        "%" if int.signed => (x as i64).wrapping_rem(y as i64) as u64,
        "/" => x / y,
        "%" => x % y,
        _ => return None,
    })
}
