//! BPF programs, maps and links (`include/linux/bpf.h`, `kernel/bpf/syscall.c`).

mod view;

use serde::Serialize;

use crate::base::parts;
use crate::kernel::Kernel;
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{IdrLayout, idr_for_each, lacks, offset_of, possible_cpus, settle_all};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Programs, maps and links that are read at most, of each, by nodes of their trees.
const BOUND: usize = 1 << 16;
/// `MAX_USED_MAPS` of `kernel/bpf/verifier.c` is 64.
const USED_MAPS: u32 = 1 << 10;
/// Bytes of the longest name of a function.
const NAME: usize = 512;

/// A BPF program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BpfProgram {
    /// Its number.
    pub id: u32,
    /// Address of its `struct bpf_prog`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// Program type, `bpf_prog.type`: `SOCKET_FILTER`.
    pub kind: String,
    /// A checksum of its instructions.
    pub tag: String,
    /// True if it was compiled to the CPU's instructions.
    pub jited: bool,
    /// Function that runs it, `bpf_prog.bpf_func`: its compiled code, or the interpreter.
    pub bpf_func: GuestVirt,
    /// Bytes of its compiled code.
    pub jited_len: u32,
    /// BPF instructions.
    pub len: u32,
    /// Instructions that the verifier went through.
    pub verified_insns: u32,
    /// Bytes of memory for its instructions.
    pub memlock: u64,
    /// User that loaded it.
    pub uid: u32,
    /// When, in nanoseconds since boot.
    pub load_time: u64,
    /// Number of runs and their time in nanoseconds, counted while `kernel.bpf_stats_enabled` is set.
    pub run_cnt: u64,
    /// Time of those runs, in nanoseconds.
    pub run_time_ns: u64,
    /// The kernel's function that it is attached to, for programs that are written for one.
    pub attach_func: Option<String>,
    /// The maps that it uses, by number.
    pub maps: Vec<u32>,
}

/// A BPF map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BpfMap {
    /// Its number.
    pub id: u32,
    /// Address of its `struct bpf_map`.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
    /// Map type: `HASH`, `ARRAY`.
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// The most entries.
    pub max_entries: u32,
    /// `BPF_F_*`
    pub flags: u32,
    /// True if user space can no longer change it.
    pub frozen: bool,
    /// Number of references: by programs, descriptors, other maps.
    pub refcnt: i64,
}

/// A BPF link: a program, attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BpfLink {
    /// Its number.
    pub id: u32,
    /// Address of its `struct bpf_link`.
    pub at: GuestVirt,
    /// To what: `XDP`, `TRACING`.
    pub kind: String,
    /// The program, by number.
    pub program: Option<u32>,
}

/// The BPF objects of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bpf {
    /// The programs.
    pub programs: Vec<BpfProgram>,
    /// The maps.
    pub maps: Vec<BpfMap>,
    /// The links.
    pub links: Vec<BpfLink>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

lacks!(Bpf);

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct bpf_prog")]
struct Prog {
    pages: u16,
    jited: bool,
    #[mirror(member = "type")]
    kind: u32,
    len: u32,
    jited_len: u32,
    tag: [u8; 8],
    stats: GuestVirt,
    bpf_func: GuestVirt,
    aux: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct bpf_prog_aux")]
struct Aux {
    id: u32,
    used_map_cnt: u32,
    used_maps: GuestVirt,
    user: GuestVirt,
    load_time: u64,
    verified_insns: u32,
    name: FixedStr<16>,
    attach_func_name: GuestVirt,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct bpf_map")]
struct Map {
    id: u32,
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    name: FixedStr<16>,
    frozen: bool,
    #[mirror(member = "refcnt.counter")]
    refcnt: i64,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct bpf_link")]
struct Link {
    id: u32,
    #[mirror(member = "type")]
    kind: u32,
    prog: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct user_struct")]
struct User {
    #[mirror(member = "uid.val")]
    uid: u32,
}

/// The BPF programs, maps and links.
pub(crate) fn bpf(kernel: &Kernel) -> Result<Bpf> {
    settle_all("the BPF programs and maps", || {
        let reader = Reader::new(kernel)?;
        reader.read()
    })
}

struct Reader<'k> {
    kernel: &'k Kernel,
    cpus: Vec<u32>,
    prog: Plan<Prog>,
    map: Plan<Map>,
}

impl<'k> Reader<'k> {
    fn new(kernel: &'k Kernel) -> Result<Self> {
        Ok(Self {
            kernel,
            cpus: possible_cpus(kernel)?,
            prog: Plan::new(kernel)?,
            map: Plan::new(kernel)?,
        })
    }

    fn read(&self) -> Result<Option<Bpf>> {
        let mut missing = Vec::new();
        let programs = self.numbered("prog_idr", |at| self.program(at), |one| one.id);
        let maps = self.numbered("map_idr", |at| self.map(at), |one| one.id);
        let links = self.numbered("link_idr", |at| self.link(at), |one| one.id);
        Ok(Some(Bpf {
            programs: parts(&mut missing, "BPF programs", programs),
            maps: parts(&mut missing, "BPF maps", maps),
            links: parts(&mut missing, "BPF links", links),
            missing,
        }))
    }

    /// Lists the objects of an idr. Each has its number in itself, too.
    fn numbered<T>(
        &self,
        idr: &str,
        read: impl Fn(GuestVirt) -> Result<T>,
        own: impl Fn(&T) -> u32,
    ) -> Result<Listing<T>> {
        let mut all = Listing::new();
        // A kernel without CONFIG_BPF_SYSCALL has none of it.
        let Some(at) = self.kernel.symbols()?.lookup(idr) else {
            return Ok(all);
        };
        let layout = IdrLayout::of(self.kernel)?;
        for entry in idr_for_each(self.kernel, at, layout)?.bound(BOUND) {
            let (id, at) = match entry {
                // A place that is reserved for a link that is not complete holds NULL.
                Ok((_, at)) if at.is_null() => continue,
                Ok(entry) => entry,
                Err(error) => {
                    all.miss(format!("the rest of {idr}"), &error);
                    break;
                }
            };
            let one = read(at).and_then(|one| {
                // Its number is taken before it is complete, and given back before it is freed.
                if u64::from(own(&one)) == id {
                    return Ok(one);
                }
                let why = format!("its id is {}, in {idr} it is {id}", own(&one));
                Err(Error::broken("BPF object", at, why))
            });
            all.take(one, || format!("number {id} at {at}"));
        }
        Ok(all)
    }

    fn program(&self, at: GuestVirt) -> Result<BpfProgram> {
        let kernel = self.kernel;
        let raw = self.prog.load(at)?;
        let aux: Aux = kernel.load(raw.aux).of(|| format!("its aux {}", raw.aux))?;
        if aux.used_map_cnt > USED_MAPS {
            let why = format!("it claims to use {} maps", aux.used_map_cnt);
            return Err(Error::Broken {
                what: "BPF program",
                at,
                why,
            });
        }
        let mut maps = Vec::new();
        for index in 0..u64::from(aux.used_map_cnt) {
            let map = GuestVirt(kernel.read_u64(aux.used_maps.offset(index * 8))?);
            let map = self.map.load(map).of(|| format!("its map {map}"))?;
            maps.push(map.id);
        }
        let uid = match aux.user.is_null() {
            true => 0,
            false => {
                let user = kernel.load::<User>(aux.user);
                user.of(|| format!("its user {}", aux.user))?.uid
            }
        };
        Ok(BpfProgram {
            id: aux.id,
            at,
            name: aux.name.to_str().into_owned(),
            kind: self.named("bpf_prog_type", "BPF_PROG_TYPE_", raw.kind)?,
            tag: raw.tag.iter().map(|byte| format!("{byte:02x}")).collect(),
            jited: raw.jited,
            bpf_func: raw.bpf_func,
            jited_len: raw.jited_len,
            len: raw.len,
            verified_insns: aux.verified_insns,
            memlock: u64::from(raw.pages) * PAGE_SIZE,
            uid,
            load_time: aux.load_time,
            run_cnt: self.counted(raw.stats, "cnt")?,
            run_time_ns: self.counted(raw.stats, "nsecs")?,
            attach_func: match aux.attach_func_name.is_null() {
                true => None,
                false => Some(kernel.read_cstr(aux.attach_func_name, NAME)?),
            },
            maps,
        })
    }

    /// The sum of a counter over all CPUs.
    fn counted(&self, stats: GuestVirt, member: &str) -> Result<u64> {
        // A program's functions have none of their own.
        if stats.is_null() {
            return Ok(0);
        }
        let offset = offset_of(self.kernel, "struct bpf_prog_stats", member)?;
        let mut sum = 0u64;
        for cpu in &self.cpus {
            let at = self.kernel.per_cpu(stats, *cpu)?.offset(offset);
            sum = sum.wrapping_add(self.kernel.read_u64(at)?);
        }
        Ok(sum)
    }

    fn map(&self, at: GuestVirt) -> Result<BpfMap> {
        let raw = self.map.load(at)?;
        Ok(BpfMap {
            id: raw.id,
            at,
            name: raw.name.to_str().into_owned(),
            kind: self.named("bpf_map_type", "BPF_MAP_TYPE_", raw.map_type)?,
            key_size: raw.key_size,
            value_size: raw.value_size,
            max_entries: raw.max_entries,
            flags: raw.map_flags,
            frozen: raw.frozen,
            refcnt: raw.refcnt,
        })
    }

    fn link(&self, at: GuestVirt) -> Result<BpfLink> {
        let raw: Link = self.kernel.load(at)?;
        let program = match raw.prog.is_null() {
            true => None,
            false => {
                let prog = self.prog.load(raw.prog);
                let aux = prog.of(|| format!("its prog {}", raw.prog))?.aux;
                Some(self.kernel.load::<Aux>(aux)?.id)
            }
        };
        Ok(BpfLink {
            id: raw.id,
            at,
            kind: self.named("bpf_link_type", "BPF_LINK_TYPE_", raw.kind)?,
            program,
        })
    }

    fn named(&self, of: &str, prefix: &str, value: u32) -> Result<String> {
        let name = self.kernel.enumerator(of, value.into())?;
        Ok(name.strip_prefix(prefix).unwrap_or(&name).to_owned())
    }
}
