//! Builds BTF by hand, for tests and doc examples.

use super::{Btf, Kind, TypeId};

/// A BTF in the making. Ids count from 1 in the order of the calls, so a type may refer to a later one.
///
/// ```
/// use klab_memory::kernel::btf::build::Builder;
/// let mut b = Builder::new();
/// let int = b.int("int", 4, true);
/// b.structure("point", 8, &[("x", int, 0), ("y", int, 32)]);
/// let btf = b.finish()?;
/// let point = btf.find(klab_memory::kernel::btf::Kind::Struct, "point").unwrap();
/// assert_eq!(btf.member(point, "y")?.unwrap().offset(), 4);
/// # Ok::<(), klab_memory::Error>(())
/// ```
#[derive(Debug)]
pub struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    next: u32,
    first_string: u32,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// An empty BTF.
    #[must_use]
    pub fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            next: 1,
            first_string: 0,
        }
    }

    /// An empty BTF on top of a base.
    #[must_use]
    pub fn on(base: &Btf) -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            next: base.end_id(),
            first_string: base.end_string(),
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.first_string + self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// The id that the next type gets.
    #[must_use]
    pub fn next_id(&self) -> TypeId {
        TypeId(self.next)
    }

    /// Any record: its elements are words.
    pub fn record(
        &mut self,
        kind: Kind,
        flag: bool,
        count: u32,
        name: &str,
        size_or_type: u32,
        tail: &[u32],
    ) -> TypeId {
        let name = self.name(name);
        let info = u32::from(flag) << 31 | (kind as u32) << 24 | count;
        for word in [name, info, size_or_type].iter().chain(tail) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.next += 1;
        TypeId(self.next - 1)
    }

    /// An integer of `size` bytes.
    pub fn int(&mut self, name: &str, size: u32, signed: bool) -> TypeId {
        let encoding = if name == "_Bool" {
            4
        } else {
            u32::from(signed)
        };
        self.record(
            Kind::Int,
            false,
            0,
            name,
            size,
            &[(encoding << 24) | (size * 8)],
        )
    }

    /// A pointer.
    pub fn pointer(&mut self, to: TypeId) -> TypeId {
        self.record(Kind::Ptr, false, 0, "", to.0, &[])
    }

    /// An array.
    pub fn array(&mut self, element: TypeId, count: u32) -> TypeId {
        self.record(Kind::Array, false, 0, "", 0, &[element.0, element.0, count])
    }

    /// A typedef, or with another kind a modifier (without a name), function, or forward declaration.
    pub fn alias(&mut self, kind: Kind, name: &str, to: TypeId) -> TypeId {
        self.record(kind, false, 0, name, to.0, &[])
    }

    /// A structure: its members' names, types and offsets in bits.
    pub fn structure(&mut self, name: &str, size: u32, members: &[(&str, TypeId, u32)]) -> TypeId {
        self.composite(Kind::Struct, name, size, members)
    }

    /// A union or structure. An offset may hold a bit field's width in its upper 8 bits.
    pub fn composite(
        &mut self,
        kind: Kind,
        name: &str,
        size: u32,
        members: &[(&str, TypeId, u32)],
    ) -> TypeId {
        let tail: Vec<u32> = members
            .iter()
            .flat_map(|(name, ty, offset)| [self.name(name), ty.0, *offset])
            .collect();
        let flag = members.iter().any(|(_, _, offset)| offset >> 24 != 0);
        self.record(kind, flag, members.len() as u32, name, size, &tail)
    }

    /// An enumeration of 4 bytes.
    pub fn enumeration(&mut self, name: &str, values: &[(&str, u32)]) -> TypeId {
        let tail: Vec<u32> = values
            .iter()
            .flat_map(|(name, value)| [self.name(name), *value])
            .collect();
        self.record(Kind::Enum, false, values.len() as u32, name, 4, &tail)
    }

    /// A function, and its type before it: what it returns, its parameters' names and types.
    pub fn function(
        &mut self,
        name: &str,
        returns: TypeId,
        parameters: &[(&str, TypeId)],
    ) -> TypeId {
        let tail: Vec<u32> = parameters
            .iter()
            .flat_map(|(name, ty)| [self.name(name), ty.0])
            .collect();
        let count = parameters.len() as u32;
        let proto = self.record(Kind::FuncProto, false, count, "", returns.0, &tail);
        self.alias(Kind::Func, name, proto)
    }

    /// A global variable: BTF has the per-CPU ones.
    pub fn var(&mut self, name: &str, ty: TypeId) -> TypeId {
        self.record(Kind::Var, false, 0, name, ty.0, &[1])
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let header = [0x0001_eb9f, 24, 0, types, types, strings];
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend_from_slice(&self.types);
        bytes.extend_from_slice(&self.strings);
        bytes
    }

    /// The BTF, parsed.
    pub fn finish(&self) -> crate::Result<Btf> {
        Btf::parse(self.bytes())
    }
}
