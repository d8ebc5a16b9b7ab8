//! BTF types as plain tuples, of which `klab/types.py` makes drgn types.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use probes::kernel::btf::{Btf, Kind, Type, TypeId};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

/// Place of a type: the number of its BTF in [`Types`], and its id there.
pub(crate) type Place = (usize, u32);

/// The BTFs that types were found in, each with a number that stays.
#[derive(Debug, Default)]
pub(crate) struct Types {
    btfs: Vec<Arc<Btf>>,
    enumerators: HashMap<String, (Place, i64)>,
    /// The BTFs whose constants are in it: a module that is loaded later stands before others in the kernel's list.
    indexed: HashSet<usize>,
}

impl Types {
    /// The place of a type, that of the base if the base has it: one type has one place.
    pub(crate) fn place(&mut self, btf: &Arc<Btf>, id: TypeId) -> Place {
        let own = btf.ids().next();
        if let Some(base) = btf.base()
            && own.is_none_or(|first| id < first)
        {
            return self.place(&Arc::clone(base), id);
        }
        (self.number(btf), id.0)
    }

    fn number(&mut self, btf: &Arc<Btf>) -> usize {
        let known = self.btfs.iter().position(|known| Arc::ptr_eq(known, btf));
        known.unwrap_or_else(|| {
            self.btfs.push(Arc::clone(btf));
            self.btfs.len() - 1
        })
    }

    /// The constant of an enumeration: the enumeration's place and the value.
    pub(crate) fn enumerator(&mut self, btfs: &[Arc<Btf>], name: &str) -> Option<(Place, i64)> {
        for btf in btfs {
            let known = self.number(btf);
            if !self.indexed.insert(known) {
                continue;
            }
            for ty in btf.types() {
                if !matches!(ty.kind, Kind::Enum | Kind::Enum64) {
                    continue;
                }
                let place = self.place(btf, ty.id);
                for constant in ty.enumerators() {
                    self.enumerators
                        .entry(constant.name.to_owned())
                        .or_insert((place, constant.value));
                }
            }
        }
        self.enumerators.get(name).copied()
    }

    /// The type at a place, as a tuple that begins with its kind.
    pub(crate) fn describe(&mut self, py: Python<'_>, place: Place) -> PyResult<Py<PyAny>> {
        let fault =
            |error: probes::Error| pyo3::exceptions::PyLookupError::new_err(error.to_string());
        let absent = || pyo3::exceptions::PyLookupError::new_err(format!("no BTF {}", place.0));
        let btf = Arc::clone(self.btfs.get(place.0).ok_or_else(absent)?);
        let ty = btf.type_of(TypeId(place.1)).map_err(fault)?;
        let name = Some(ty.name()).filter(|name| !name.is_empty());
        let size = ty.stated_size().unwrap_or(0);
        match ty.kind {
            Kind::Void => ("void",).into_py_any(py),
            Kind::Int => {
                let int = ty.int();
                let signed = int.is_some_and(|int| int.signed);
                let bool = int.is_some_and(|int| int.bool);
                ("int", name, size, signed, bool).into_py_any(py)
            }
            Kind::Float => ("float", name, size).into_py_any(py),
            Kind::Ptr => ("ptr", self.target(&btf, &ty)).into_py_any(py),
            Kind::Const => ("const", self.target(&btf, &ty)).into_py_any(py),
            Kind::Volatile => ("volatile", self.target(&btf, &ty)).into_py_any(py),
            Kind::Restrict => ("restrict", self.target(&btf, &ty)).into_py_any(py),
            Kind::Typedef => ("typedef", name, self.target(&btf, &ty)).into_py_any(py),
            Kind::TypeTag | Kind::Func | Kind::Var | Kind::DeclTag => {
                ("same", self.target(&btf, &ty)).into_py_any(py)
            }
            Kind::Array => match ty.array() {
                Some(array) => {
                    ("array", self.place(&btf, array.element), array.count).into_py_any(py)
                }
                None => ("void",).into_py_any(py),
            },
            Kind::Struct | Kind::Union => {
                let keyword = ty.kind.keyword();
                let members: Vec<(Option<&str>, Place, u32, u8)> = ty
                    .members()
                    .map(|member| {
                        let name = Some(member.name).filter(|name| !name.is_empty());
                        let place = self.place(&btf, member.ty);
                        (name, place, member.bit_offset, member.bits)
                    })
                    .collect();
                (keyword, name, size, members).into_py_any(py)
            }
            Kind::Fwd => {
                // The flag tells a union.
                ("fwd", name, ty.flag()).into_py_any(py)
            }
            Kind::Enum | Kind::Enum64 => {
                let constants: Vec<(&str, i64)> = ty
                    .enumerators()
                    .map(|constant| (constant.name, constant.value))
                    .collect();
                ("enum", name, size, ty.flag(), constants).into_py_any(py)
            }
            Kind::FuncProto => {
                let mut params: Vec<(Option<&str>, Place)> = ty
                    .params()
                    .map(|param| {
                        let name = Some(param.name).filter(|name| !name.is_empty());
                        (name, self.place(&btf, param.ty))
                    })
                    .collect();
                // The parameter without name and type is `...`.
                let variadic = params
                    .last()
                    .is_some_and(|(name, (_, id))| name.is_none() && *id == TypeId::VOID.0);
                if variadic {
                    params.pop();
                }
                ("func", self.target(&btf, &ty), params, variadic).into_py_any(py)
            }
            Kind::Datasec => ("void",).into_py_any(py),
        }
    }

    fn target(&mut self, btf: &Arc<Btf>, ty: &Type<'_>) -> Place {
        self.place(btf, ty.target().unwrap_or(TypeId::VOID))
    }
}
