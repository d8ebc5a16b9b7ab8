//! The interrupt descriptor table: where the CPU goes on an exception or interrupt (`arch/x86/include/asm/desc_defs.h`).

use serde::Serialize;

use crate::Listing;
use crate::Result;
use crate::kernel::{Function, Functions, Kernel};
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};

/// `IDT_ENTRIES`
const ENTRIES: u64 = 256;
/// Names of the CPU's own vectors, as in its manual.
const EXCEPTIONS: [&str; 32] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "", "#TS", "#NP", "#SS", "#GP",
    "#PF", "", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP", "", "", "", "", "", "", "#HV", "#VC",
    "#SX", "",
];

/// An entry of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gate {
    /// Number of the vector.
    pub vector: u8,
    /// The exception that it is for, as the CPU's manual calls it: `#PF`.
    pub exception: Option<&'static str>,
    /// Address that the CPU jumps to.
    pub handler: Function,
    /// True if that is in the kernel's image: its text, or the part of it that is freed after the boot, where vectors
    /// that cannot come still lead.
    pub in_image: bool,
    /// The stack of the interrupt stack table that it takes, 1 to 7; 0 stays on the stack that it has.
    pub ist: u8,
    /// The privilege that `int` needs to come here: 3 lets user space.
    pub dpl: u8,
    /// 14: interrupts are off on the way; 15: they stay as they are.
    pub kind: u8,
    /// True if it is in use.
    pub present: bool,
}

/// The table of all CPUs.
pub type Idt = Listing<Gate>;

#[derive(Debug, Mirror)]
#[mirror(c = "struct gate_struct")]
struct Raw {
    offset_low: u16,
    offset_middle: u16,
    offset_high: u32,
    #[mirror(member = "bits.ist")]
    ist: u8,
    #[mirror(member = "bits.type")]
    kind: u8,
    #[mirror(member = "bits.dpl")]
    dpl: u8,
    #[mirror(member = "bits.p")]
    present: bool,
}

/// The interrupt descriptor table, `idt_table`.
pub(crate) fn idt(kernel: &Kernel) -> Result<Idt> {
    gates(kernel)
}

pub(crate) fn gates(kernel: &Kernel) -> Result<Idt> {
    let functions = Functions::new(kernel);
    let table = kernel.symbol("idt_table")?;
    let plan = Plan::<Raw>::new(kernel)?;
    let mut image = Vec::new();
    for (start, end) in [("_stext", "_etext"), ("_sinittext", "_einittext")] {
        image.push(kernel.symbol(start)?..kernel.symbol(end)?);
    }
    let gate = |vector: u64| {
        let raw = plan.load(table.offset(vector * plan.size()))?;
        let at = u64::from(raw.offset_high) << 32
            | u64::from(raw.offset_middle) << 16
            | u64::from(raw.offset_low);
        Ok(Gate {
            vector: vector as u8,
            exception: EXCEPTIONS
                .get(vector as usize)
                .copied()
                .filter(|name| !name.is_empty()),
            handler: functions.at(GuestVirt(at))?,
            in_image: image.iter().any(|text| text.contains(&GuestVirt(at))),
            ist: raw.ist,
            dpl: raw.dpl,
            kind: raw.kind,
            present: raw.present,
        })
    };
    let mut gates = Listing::new();
    for vector in 0..ENTRIES {
        gates.take(gate(vector), || format!("the gate of vector {vector}"));
    }
    Ok(gates)
}
