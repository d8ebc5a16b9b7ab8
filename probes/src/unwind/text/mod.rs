//! Machine code as it lies in the guest's memory, disassembled: what the kernel has patched since it was linked shows, and
//! the tables that it patches by say what a place is for (`arch/x86/kernel/jump_label.c`, `static_call.c`, `ftrace.c`).
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! for instruction in guest.disassembly(guest.symbol("schedule")?)?.instructions {
//!     println!("{} {}", instruction.at, instruction.text);
//! }
//! # Ok(())
//! # }
//! ```

mod patch;
mod view;

use std::rc::Rc;

use iced_x86::{
    Decoder, DecoderOptions, Formatter as _, GasFormatter, Mnemonic, OpKind, SymbolResolver,
    SymbolResult,
};
use serde::Serialize;

use self::patch::Sites;
use crate::kernel::{Kernel, ModuleSymbols, SymbolAt};
use crate::memory::GuestVirt;
use crate::structures::twice;
use crate::{Error, Listing, Missing, Result};

/// Bytes of the longest function that is read: what is longer is not code, or no symbol ends it.
const MOST: u64 = 128 << 10;

/// An instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instruction {
    /// Address.
    pub at: GuestVirt,
    /// Offset in the function, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Itself, as the GNU assembler writes it, with symbols for addresses.
    pub text: String,
    /// Target of a call or jump, if the instruction has it.
    pub target: Option<GuestVirt>,
    /// The kernel's patch there, and its state now.
    pub patched: Option<String>,
}

/// A function's instructions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disassembly {
    /// The function.
    pub function: String,
    /// Its module; `None` for the kernel itself.
    pub module: Option<String>,
    /// Address of its first instruction.
    pub start: GuestVirt,
    /// The address that was asked for, in it.
    pub here: GuestVirt,
    /// Its instructions, without what fills the room to the next function.
    pub instructions: Vec<Instruction>,
    /// Tables of patches that cannot be read; the modules whose symbols cannot be, if an instruction goes to what may be in
    /// one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// The function that an address of the kernel or a module lies in, instruction by instruction, as it is in memory now.
pub(crate) fn disassembly(kernel: &Kernel, at: GuestVirt) -> Result<Disassembly> {
    let names = Rc::new(Names::of(kernel)?);
    let nowhere = || {
        let unread: String = names
            .modules
            .missing
            .iter()
            .map(|missing| format!("; {}: {}", missing.what, missing.error))
            .collect();
        Error::Absent(format!(
            "{at} lies in no function of the kernel or a module: `klab sym NAME` finds one by its name{unread}"
        ))
    };
    let symbol = names.at(at).ok_or_else(nowhere)?;
    let start = at.back(symbol.offset);
    let end = names.after(start).ok_or_else(nowhere)?;
    let len = end.0.wrapping_sub(start.0);
    if len > MOST {
        let name = &symbol.name;
        return Err(Error::Invalid(format!(
            "`{name}` has {len} bytes: too many for a function"
        )));
    }
    let walk = kernel.space().walk(start)?;
    if walk.steps.iter().any(|step| step.entry.no_execute()) {
        let name = &symbol.name;
        return Err(Error::Invalid(format!(
            "`{name}` is no code, or was given back after the boot: its page may not be executed"
        )));
    }
    let code = twice(&format!("the code of {}", symbol.name), || {
        let mut code = vec![0; len as usize];
        kernel.read(start, &mut code)?;
        Ok(code)
    })?;
    let mut missing = Vec::new();
    let sites = Sites::between(kernel, start..end, &mut missing)?;
    let instructions = decode(&names, &sites, start, &code);
    let mut targets = instructions.iter().filter_map(|one| one.target);
    if targets.any(|target| names.at(target).is_none()) {
        missing.extend(names.modules.missing.iter().cloned());
    }
    Ok(Disassembly {
        instructions,
        function: symbol.name,
        module: symbol.module,
        start,
        here: at,
        missing,
    })
}

/// The symbols of the kernel and its modules.
struct Names {
    kernel: Kernel,
    modules: Listing<ModuleSymbols>,
}

impl Names {
    fn of(kernel: &Kernel) -> Result<Self> {
        kernel.symbols()?;
        Ok(Self {
            kernel: kernel.clone(),
            modules: kernel.module_symbols()?,
        })
    }

    fn at(&self, at: GuestVirt) -> Option<SymbolAt> {
        let own = self.kernel.symbols().ok()?.at(at);
        own.or_else(|| self.modules.iter().find_map(|module| module.at(at)))
    }

    fn after(&self, at: GuestVirt) -> Option<GuestVirt> {
        let symbols = self.kernel.symbols().ok()?;
        match symbols.at(at) {
            Some(_) => symbols.after(at),
            None => self.modules.iter().find_map(|module| module.after(at)),
        }
    }

    /// `schedule+0x10 [module]`
    fn say(&self, at: GuestVirt) -> Option<String> {
        Some(self.at(at)?.to_string())
    }
}

/// Names for the formatter: of where calls and jumps go, and of what is addressed relative to the instruction.
struct Resolver(Rc<Names>);

impl SymbolResolver for Resolver {
    fn symbol(
        &mut self,
        instruction: &iced_x86::Instruction,
        _operand: u32,
        instruction_operand: Option<u32>,
        address: u64,
        _address_size: u32,
    ) -> Option<SymbolResult<'_>> {
        let kind = instruction.op_kind(instruction_operand?);
        let near = kind == OpKind::NearBranch64;
        let relative = kind == OpKind::Memory && instruction.is_ip_rel_memory_operand();
        if !near && !relative {
            return None;
        }
        let text = self.0.say(GuestVirt(address))?;
        Some(SymbolResult::with_string(address, text))
    }
}

fn decode(names: &Rc<Names>, sites: &Sites, start: GuestVirt, code: &[u8]) -> Vec<Instruction> {
    let mut formatter = GasFormatter::with_options(Some(Box::new(Resolver(names.clone()))), None);
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    options.set_uppercase_hex(false);
    let mut decoder = Decoder::with_ip(64, code, start.0, DecoderOptions::NONE);
    let mut all: Vec<(Instruction, Mnemonic)> = Vec::new();
    while decoder.can_decode() {
        let from = decoder.position();
        let decoded = decoder.decode();
        let bytes = code.get(from..decoder.position()).unwrap_or(&[]).to_vec();
        let at = GuestVirt(decoded.ip());
        let goes = decoded.op0_kind() == OpKind::NearBranch64;
        let target = goes.then(|| GuestVirt(decoded.near_branch_target()));
        let mut text = String::new();
        formatter.format(&decoded, &mut text);
        let patched = sites.say(names, at, &bytes, target);
        all.push((
            Instruction {
                at,
                offset: at.0.wrapping_sub(start.0),
                bytes,
                text,
                target,
                patched,
            },
            decoded.mnemonic(),
        ));
    }
    let filling = |mnemonic| matches!(mnemonic, Mnemonic::Int3 | Mnemonic::Nop);
    while let Some((last, mnemonic)) = all.last()
        && filling(*mnemonic)
        && last.patched.is_none()
    {
        all.pop();
    }
    all.into_iter()
        .map(|(instruction, _)| instruction)
        .collect()
}
