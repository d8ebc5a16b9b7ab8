//! Values as the bytes that a typed place in memory takes.

use super::ctype::{Form, Int};
use super::cursor::Object;
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// A value for a place in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewValue {
    /// For an integer, a `bool`, an enumeration, a pointer.
    Number(i128),
    /// For a `char` array; the name of an enumerator.
    Text(String),
}

macro_rules! numbers {
    ($($ty:ty),*) => {$(
        impl From<$ty> for NewValue {
            fn from(value: $ty) -> Self {
                Self::Number(value.into())
            }
        }
    )*};
}
numbers!(bool, u8, i8, u16, i16, u32, i32, u64, i64);

impl From<GuestVirt> for NewValue {
    fn from(at: GuestVirt) -> Self {
        Self::Number(at.0.into())
    }
}

impl From<&str> for NewValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for NewValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl NewValue {
    /// The value of an object: of a string literal its text, of all else its number.
    ///
    /// # Errors
    /// As [`Object::u64`] and [`Object::string`].
    pub fn of(object: &Object) -> Result<Self> {
        if object.is_text() {
            return object.string().map(Self::Text);
        }
        let signed = matches!(object.c_type().form()?, Form::Int(int) if int.signed);
        Ok(Self::Number(match signed {
            true => object.i64()?.into(),
            false => object.u64()?.into(),
        }))
    }
}

impl Object {
    /// Tells whether it is a `char` array, whose value is a text.
    ///
    /// # Errors
    /// When its type cannot be read.
    pub fn is_char_array(&self) -> Result<bool> {
        Ok(match self.c_type().form()? {
            Form::Array(element, _) => matches!(element.form()?, Form::Int(Int { char: true, .. })),
            _ => false,
        })
    }

    /// The bytes to write for a value, and where. Of a bit field those around it are what they are now, so the guest is to stand
    /// still.
    ///
    /// # Errors
    /// `Invalid` for a value that does not fit the type, or an object that is not in memory; when the bytes around a
    /// bit field cannot be read.
    pub fn encode(&self, value: &NewValue) -> Result<(GuestVirt, Vec<u8>)> {
        let at = self.address().ok_or_else(|| {
            Error::Invalid(
                "a computed value lies nowhere: name the variable or the member".to_owned(),
            )
        })?;
        let bytes = match (self.c_type().form()?, value) {
            (Form::Int(int), NewValue::Number(number)) => return self.integer(at, int, *number),
            (Form::Int(int), NewValue::Text(name)) if self.c_type().enumeration()?.is_some() => {
                return self.integer(at, int, self.enumerator_named(name)?.into());
            }
            (Form::Pointer(_), NewValue::Number(number)) => {
                let word = u64::try_from(*number).map_err(|_| self.takes_no(value))?;
                word.to_le_bytes().to_vec()
            }
            (Form::Array(_, count), NewValue::Text(text)) if self.is_char_array()? => {
                let mut bytes = text.clone().into_bytes();
                // With its NUL.
                if bytes.len() >= count as usize || bytes.contains(&0) {
                    return Err(Error::Invalid(format!(
                        "`{}` has room for a text of {} bytes and its NUL",
                        self.type_name(),
                        count.saturating_sub(1)
                    )));
                }
                bytes.resize(count as usize, 0);
                bytes
            }
            // It says how to give it a type.
            (Form::Void, _) => self.u64()?.to_le_bytes().to_vec(),
            _ => return Err(self.takes_no(value)),
        };
        Ok((at, bytes))
    }

    fn integer(&self, at: GuestVirt, int: Int, number: i128) -> Result<(GuestVirt, Vec<u8>)> {
        let (shift, width) = self.fits(int, number)?;
        let size = (shift + width).div_ceil(8) as usize;
        let mut bytes = vec![0; size];
        self.kernel().read(at, &mut bytes)?;
        // A field of 64 bits that begins within a byte has nine of them.
        let mask = ((1_u128 << width) - 1) << shift;
        let mut word = [0; 16];
        word[..size].copy_from_slice(&bytes);
        let old = u128::from_le_bytes(word);
        let new = (old & !mask) | (((number as u128) << shift) & mask);
        Ok((at, new.to_le_bytes()[..size].to_vec()))
    }

    /// The word of a general register that has this value as one of the object's type.
    ///
    /// # Errors
    /// `Invalid` for a value that does not fit the type, and for a structure; `Absent` for an enumerator that it does not have.
    pub fn register(&self, value: &NewValue) -> Result<u64> {
        match (self.c_type().form()?, value) {
            (Form::Int(int), NewValue::Number(number)) => {
                self.fits(int, *number)?;
                // Two's complement, extended as the type is.
                Ok(*number as u64)
            }
            (Form::Int(_), NewValue::Text(name)) if self.c_type().enumeration()?.is_some() => {
                Ok(self.enumerator_named(name)?.cast_unsigned())
            }
            (Form::Pointer(_), NewValue::Number(number)) => {
                u64::try_from(*number).map_err(|_| self.takes_no(value))
            }
            _ => Err(self.takes_no(value)),
        }
    }

    /// Shift and width in bits of an integer, if it has room for a number.
    fn fits(&self, int: Int, number: i128) -> Result<(u32, u32)> {
        let (shift, width) = match self.bits() {
            Some((shift, width)) => (u32::from(shift), u32::from(width)),
            None => (0, u32::from(int.size) * 8),
        };
        let (least, most) = match (int.bool, int.signed) {
            (true, _) => (0, 1),
            (_, true) => (-(1_i128 << (width - 1)), (1_i128 << (width - 1)) - 1),
            (_, false) => (0, (1_i128 << width.min(64)) - 1),
        };
        if width > 64 || !(least..=most).contains(&number) {
            return Err(Error::Invalid(format!(
                "{number} does not fit: `{}`{} takes {least} to {most}",
                self.type_name(),
                match self.bits() {
                    Some((_, width)) => format!(" of {width} bits"),
                    None => String::new(),
                }
            )));
        }
        Ok((shift, width))
    }

    fn enumerator_named(&self, name: &str) -> Result<i64> {
        let ty = self.c_type();
        let id = ty
            .enumeration()?
            .ok_or_else(|| self.takes_no(&name.into()))?;
        let all = ty.btf().type_of(id)?;
        let found = all.enumerators().find(|one| one.name == name);
        found.map(|one| one.value).ok_or_else(|| {
            let names: Vec<&str> = all.enumerators().map(|one| one.name).take(12).collect();
            let has = names.join(", ");
            Error::Absent(format!(
                "`{}` has no enumerator `{name}`: it has {has}",
                self.type_name()
            ))
        })
    }

    fn takes_no(&self, value: &NewValue) -> Error {
        let what = match value {
            NewValue::Number(_) => "number",
            NewValue::Text(_) => "text",
        };
        Error::Invalid(format!(
            "`{}` takes no {what}: write one of its members, or elements",
            self.type_name()
        ))
    }
}
