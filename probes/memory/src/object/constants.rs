//! Constants of enumerations, by name and by value.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::kernel::Kernel;
use crate::kernel::btf::{Btf, Kind};
use crate::{Error, Result};

/// The constant of this value of an enumeration, by the enumeration's name.
fn name_in<'a>(btf: &'a Btf, name: &str, value: i64) -> Option<&'a str> {
    let id = [Kind::Enum, Kind::Enum64]
        .iter()
        .find_map(|kind| btf.find(*kind, name))?;
    let ty = btf.get(id)?;
    ty.enumerators().find(|e| e.value == value).map(|e| e.name)
}

impl Kernel {
    /// Name of a value in `enum name`; the number if it has no name there, or the kernel no such enumeration.
    ///
    /// # Errors
    /// When the kernel's BTF cannot be read.
    pub fn enumerator(&self, name: &str, value: i64) -> Result<String> {
        let found = name_in(self.btf()?, name, value);
        Ok(found.map_or_else(|| value.to_string(), str::to_owned))
    }

    /// The value of an enumeration's constant: a look through all types, whose outcome is kept.
    ///
    /// # Errors
    /// `Absent` where no enumeration has it; when the kernel's BTF cannot be read.
    pub fn constant(&self, name: &str) -> Result<i64> {
        let known = self.once(|| Ok(Known::default()))?;
        let table = || known.0.lock().unwrap_or_else(PoisonError::into_inner);
        let looked_up = table().get(name).copied();
        let found = match looked_up {
            Some(found) => found,
            None => {
                let found = self.btf()?.find_enumerator(name).map(|(_, value)| value);
                table().insert(name.to_owned(), found);
                found
            }
        };
        found.ok_or_else(|| {
            Error::Unsupported(format!(
                "{} has no constant `{name}` in its BTF",
                self.release()
            ))
        })
    }
}

/// Constants that were looked up, by name.
#[derive(Default)]
struct Known(Mutex<HashMap<String, Option<i64>>>);
