//! Constants of enumerations, by name and by value.

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
    /// What `enum name` calls a value; the number where it has no name there, or the kernel no such enumeration.
    pub(crate) fn enumerator(&self, name: &str, value: i64) -> Result<String> {
        let found = name_in(self.btf()?, name, value);
        Ok(found.map_or_else(|| value.to_string(), str::to_owned))
    }

    /// The value of an enumeration's constant. A look through all types: keep it for as long as one reading takes.
    pub(crate) fn constant(&self, name: &str) -> Result<i64> {
        match self.btf()?.find_enumerator(name) {
            Some((_, value)) => Ok(value),
            None => Err(Error::Other(format!(
                "{} has no constant `{name}` in its BTF",
                self.release()
            ))),
        }
    }
}
