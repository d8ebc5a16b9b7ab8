//! The read plan of a mirror: which bytes to read, and where in them each member lies.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use super::mirror::{Decoder, Mirror, Resolver};
use crate::kernel::Kernel;
use crate::kernel::btf::{Btf, Field, Kind, Shape, TypeId};
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// Members that lie no further apart than this are read in one go: to copy so many bytes costs less than
/// to translate another address.
const GAP: u32 = 256;

/// Place of one value: in the structure while a plan is made, then in the bytes that were read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) at: u32,
    /// Bytes to read; 0 says whether a member is there at all, by `at`.
    pub(super) size: u32,
    /// The first bit in those bytes, and how many bits; 0 is all.
    shift: u8,
    bits: u8,
    signed: bool,
}

impl Slot {
    pub(super) const fn presence(present: bool) -> Self {
        Self {
            at: present as u32,
            size: 0,
            shift: 0,
            bits: 0,
            signed: false,
        }
    }

    pub(super) const fn bytes(at: u32, size: u32) -> Self {
        Self {
            at,
            size,
            shift: 0,
            bits: 0,
            signed: false,
        }
    }

    #[inline]
    pub(super) const fn is_present(&self) -> bool {
        self.at != 0
    }

    /// The bits of the value.
    pub(super) const fn value_bits(&self) -> u32 {
        if self.bits == 0 {
            self.size.saturating_mul(8)
        } else {
            self.bits as u32
        }
    }

    /// The integer here, extended to 64 bits.
    #[inline]
    pub(super) fn int(&self, bytes: &[u8]) -> u64 {
        let at = self.at as usize;
        let Some(bytes) = bytes.get(at..at + self.size as usize) else {
            return 0;
        };
        let raw = match *bytes {
            [a] => u64::from(a),
            [a, b] => u64::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => bytes
                .iter()
                .take(8)
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        // Bit fields have at most 64 bits, in at most 8 bytes (`slot_of`).
        let unused = 64 - self.value_bits().clamp(1, 64);
        let high = (raw >> self.shift) << unused;
        if self.signed {
            ((high as i64) >> unused) as u64
        } else {
            high >> unused
        }
    }
}

/// The slot of an integer, enumeration or pointer of at most 8 bytes; `None` for a member of another kind.
pub(super) fn slot_of(btf: &Btf, field: Field) -> Result<Option<Slot>> {
    let (size, signed) = match btf.shape(field.ty)? {
        Shape::Int { size, signed, .. } if size <= 8 => (u32::from(size), signed),
        Shape::Ptr(_) => (8, false),
        _ => return Ok(None),
    };
    let Ok(at) = u32::try_from(field.offset()) else {
        return Ok(None);
    };
    let shift = (field.bit_offset % 8) as u8;
    if field.bits == 0 {
        return Ok((shift == 0).then_some(Slot {
            at,
            size,
            shift,
            bits: 0,
            signed,
        }));
    }
    let bytes = (u32::from(shift) + u32::from(field.bits)).div_ceil(8);
    Ok((bytes <= 8).then_some(Slot {
        at,
        size: bytes,
        shift,
        bits: field.bits,
        signed,
    }))
}

/// A stretch of the structure that is read in one go.
#[derive(Debug, Clone, Copy)]
struct Run {
    offset: u32,
    len: u32,
}

/// The reads of a mirror in one kernel, without the kernel.
struct Layout<T> {
    slots: Box<[Slot]>,
    runs: Box<[Run]>,
    /// Bytes of all runs.
    total: usize,
    /// Bytes of the C structure.
    size: u64,
    mirror: PhantomData<fn() -> T>,
}

impl<T: Mirror> Layout<T> {
    fn new(kernel: &Kernel) -> Result<Self> {
        let (btf, composite) = kernel.find_composite(T::C)?;
        let size = btf.size_of(composite)?.unwrap_or(0);
        let mut resolver = Resolver {
            btf: &btf,
            release: kernel.release(),
            composite,
            bit_offset: 0,
            size,
            slots: Vec::new(),
        };
        T::resolve(&mut resolver)?;
        let mut slots = resolver.slots;
        let mut wanted: Vec<(u32, u32)> = slots
            .iter()
            .filter(|s| s.size > 0)
            .map(|s| (s.at, s.at + s.size))
            .collect();
        wanted.sort_unstable();
        let mut runs: Vec<Run> = Vec::new();
        for (start, end) in wanted {
            match runs
                .last_mut()
                .filter(|run| start <= (run.offset + run.len).saturating_add(GAP))
            {
                Some(run) => run.len = run.len.max(end - run.offset),
                None => runs.push(Run {
                    offset: start,
                    len: end - start,
                }),
            }
        }
        let mut total = 0;
        for run in &runs {
            for slot in slots
                .iter_mut()
                .filter(|s| s.size > 0 && (run.offset..run.offset + run.len).contains(&s.at))
            {
                slot.at = slot.at - run.offset + total;
                // Placed: out of reach of the later runs, whose offsets are higher.
            }
            total += run.len;
        }
        Ok(Self {
            slots: slots.into(),
            runs: runs.into(),
            total: total as usize,
            size,
            mirror: PhantomData,
        })
    }

    #[inline]
    fn load(&self, kernel: &Kernel, at: GuestVirt) -> Result<T> {
        // A buffer on the stack that is no larger than needed: to clear it is most of what it costs.
        match self.total {
            0..=128 => self.load_into(kernel, at, &mut [0; 128]),
            129..=512 => self.load_into(kernel, at, &mut [0; 512]),
            513..=2048 => self.load_into(kernel, at, &mut [0; 2048]),
            total => self.load_into(kernel, at, &mut vec![0; total]),
        }
    }

    #[inline]
    fn load_into(&self, kernel: &Kernel, at: GuestVirt, buffer: &mut [u8]) -> Result<T> {
        let mut rest = &mut *buffer;
        for run in &self.runs {
            let Some((bytes, more)) = rest.split_at_mut_checked(run.len as usize) else {
                break;
            };
            let at = at.offset(u64::from(run.offset));
            // A lone member is loaded in one piece, which costs less than a copy of so few bytes.
            if let Ok(word) = <&mut [u8; 8]>::try_from(&mut *bytes) {
                *word = kernel.read_u64(at)?.to_le_bytes();
            } else if let Ok(word) = <&mut [u8; 4]>::try_from(&mut *bytes) {
                *word = kernel.read_u32(at)?.to_le_bytes();
            } else {
                kernel.read(at, bytes)?;
            }
            rest = more;
        }
        Ok(T::decode(&mut Decoder {
            bytes: buffer,
            slots: self.slots.iter(),
        }))
    }
}

/// The read plan of a mirror in one kernel: made once, then loads in tens of nanoseconds.
///
/// ```
/// # extern crate klab_memory as probes;
/// # fn main() -> klab_memory::Result<()> {
/// # use klab_memory::kernel::{Kernel, btf::build::Builder};
/// # use klab_memory::memory::{AddressSpace, FakeMemory, GuestPhys, GuestVirt};
/// use klab_memory::object::{Mirror, Plan};
///
/// #[derive(Mirror)]
/// #[mirror(c = "struct list_head")]
/// struct ListHead {
///     next: GuestVirt,
///     prev: GuestVirt,
/// }
/// # let mut b = Builder::new();
/// # let head = b.next_id();
/// # let pointer = klab_memory::kernel::btf::TypeId(head.0 + 1);
/// # b.structure("list_head", 16, &[("next", pointer, 0), ("prev", pointer, 64)]);
/// # b.pointer(head);
/// # let memory = FakeMemory::new([(GuestPhys(0x1000), [0x1000_u64; 2].map(u64::to_le_bytes).concat())]);
/// # let kernel = Kernel::with_btf("7.3.4", AddressSpace::identity(std::sync::Arc::new(memory)), b.finish()?);
///
/// let plan = Plan::<ListHead>::new(&kernel)?;
/// let head = plan.load(GuestVirt(0x1000))?;
/// assert_eq!(head.next, head.prev, "an empty list");
/// # Ok(())
/// # }
/// ```
pub struct Plan<T> {
    kernel: Kernel,
    layout: Arc<Layout<T>>,
}

/// The layouts of the types that go by the same `TypeId`: it does not tell a mirror from the one that a later cell defines by the same
/// name, with other members. Their code does.
struct Layouts<T>(Mutex<HashMap<usize, Arc<Layout<T>>>>);

impl<T> Default for Layouts<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Mirror> Layouts<T> {
    fn of(&self, kernel: &Kernel) -> Result<Arc<Layout<T>>> {
        let table = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let code = T::resolve as fn(&mut Resolver<'_>) -> Result<()> as usize;
        if let Some(known) = table().get(&code) {
            return Ok(Arc::clone(known));
        }
        // Not under the lock, as in `Kernel::once`.
        let made = Arc::new(Layout::new(kernel)?);
        table().insert(code, Arc::clone(&made));
        Ok(made)
    }
}

impl<T: Mirror + 'static> Plan<T> {
    /// The plan of `T` in this kernel; the members are looked up at the first call for a kernel.
    ///
    /// # Errors
    /// As [`Kernel::find_composite`]; `Absent` if the structure lacks a member; `Invalid` if the mirror's field cannot
    /// hold it.
    pub fn new(kernel: &Kernel) -> Result<Self> {
        let known = kernel.once(|| Ok(Layouts::<T>::default()))?;
        Ok(Self {
            kernel: kernel.clone(),
            layout: known.of(kernel)?,
        })
    }

    /// Loads the structure at an address.
    ///
    /// # Errors
    /// As [`Kernel::read`].
    #[inline]
    pub fn load(&self, at: GuestVirt) -> Result<T> {
        self.layout.load(&self.kernel, at)
    }

    /// The size of the whole C structure in bytes: the stride of an array of them.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layout.size
    }
}

impl<T> Clone for Plan<T> {
    fn clone(&self) -> Self {
        Self {
            kernel: self.kernel.clone(),
            layout: self.layout.clone(),
        }
    }
}

impl<T: Mirror> std::fmt::Debug for Plan<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan<{}> {:?}", T::C, self.layout.runs)
    }
}

impl Kernel {
    /// Loads the structure at an address as its mirror. For many of them, keep a [`Plan`].
    ///
    /// # Errors
    /// As [`Plan::new`] and [`Plan::load`].
    pub fn load<T: Mirror + 'static>(&self, at: GuestVirt) -> Result<T> {
        Plan::new(self)?.load(at)
    }

    /// The structure, union or typedef of one with this C name, and the BTF it is in: the kernel's or a module's.
    ///
    /// # Errors
    /// `Absent` if there is none; `Invalid` if it is no structure's name, or modules define it differently; as
    /// [`Self::btf`].
    pub fn find_composite(&self, c: &str) -> Result<(Arc<Btf>, TypeId)> {
        let words: Vec<&str> = c.split_whitespace().collect();
        let (kind, name) = match *words {
            ["struct", name] => (Kind::Struct, name),
            ["union", name] => (Kind::Union, name),
            [name] => (Kind::Typedef, name),
            _ => {
                return Err(Error::Invalid(format!(
                    "`{c}` is no structure's name: write `struct NAME`, `union NAME` or a typedef's"
                )));
            }
        };
        if let Some((btf, id)) = self.find_type(&[kind], name)? {
            let id = btf.resolve(id)?.id;
            return Ok((btf, id));
        }
        Err(self.no_type(c, &[kind], name))
    }

    /// Says that there is no such type, and which is near: first the one of this name that is of another kind.
    pub(crate) fn no_type(&self, c: &str, kinds: &[Kind], name: &str) -> Error {
        const OTHERS: [Kind; 5] = [
            Kind::Struct,
            Kind::Union,
            Kind::Enum,
            Kind::Enum64,
            Kind::Typedef,
        ];
        let is = |kind: &Kind| {
            self.find_type(&[*kind], name)
                .is_ok_and(|found| found.is_some())
        };
        let other = OTHERS.iter().find(|kind| is(kind));
        let other = other.map(|kind| format!("{} {name}", kind.keyword()).trim_start().to_owned());
        let near = || {
            let btf = self.btf().ok()?;
            btf.nearest(kinds, name).map(str::to_owned)
        };
        let near = other.filter(|other| other != c).or_else(near);
        Error::NoType {
            name: c.to_owned(),
            release: self.release().to_owned(),
            hint: match near {
                Some(near) => format!("; did you mean `{near}`?"),
                None => self.unread_types(),
            },
        }
    }
}
