//! The places that ftrace patches: each must hold what ftrace says of it.

use super::{Audit, Auditor, Finding, Owner, unknown};
use crate::base::check_interrupt;
use crate::core::trace::{self, Record};
use crate::{Missing, Result};

/// The instruction of five bytes that does nothing (`arch/x86/include/asm/nops.h`).
const NOP: [u8; 5] = [0x0f, 0x1f, 0x44, 0, 0];
/// Findings that are told one by one; a kernel that patches otherwise than is known here would have tens of thousands.
const TOLD: usize = 100;

/// Compares each place with what ftrace says of it.
pub(super) fn check(auditor: &Auditor<'_>, audit: &mut Audit) -> Result<()> {
    let records = trace::records(auditor.kernel)?;
    audit.sites = records.len();
    let mut wrong = 0;
    audit.missing.extend(records.missing);
    for record in records.items {
        check_interrupt();
        audit.hooked_sites += usize::from(record.enabled);
        let why = match fault(auditor, record) {
            Ok(Some(why)) => why,
            Ok(None) => continue,
            Err(error) => {
                let what = format!("the place at {} that ftrace patches", record.ip);
                audit.missing.push(Missing::new(what, &error));
                continue;
            }
        };
        wrong += 1;
        if wrong <= TOLD {
            audit.findings.push(Finding {
                place: auditor.functions.at(record.ip)?.to_string(),
                at: record.ip,
                why,
            });
        }
    }
    if let Some(more @ 1..) = usize::checked_sub(wrong, TOLD) {
        audit.findings.push(Finding {
            place: "functions".to_owned(),
            at: Default::default(),
            why: format!("{more} more do not hold what ftrace says of them"),
        });
    }
    Ok(())
}

/// A fault of a place.
fn fault(auditor: &Auditor<'_>, record: Record) -> Result<Option<String>> {
    let mut bytes = [0; 5];
    auditor.kernel.read(record.ip, &mut bytes)?;
    let target = trace::call_at(auditor.kernel, record.ip)?;
    Ok(match (record.enabled, target) {
        (false, _) if bytes == NOP => None,
        (false, Some(target)) => Some(format!(
            "calls {}, though ftrace says that nobody has hooked it",
            auditor.functions.at(target)?
        )),
        (true, Some(target)) => match auditor.code.owner(target) {
            Owner::Nobody | Owner::Unlisted(_) => Some(format!(
                "calls {}, which is nobody's that the kernel knows",
                auditor.functions.at(target)?
            )),
            Owner::Unknown => return Err(unknown(&auditor.functions.at(target)?)),
            _ => None,
        },
        // A probe's breakpoint, for which ftrace leaves its place alone.
        (_, None) if bytes[0] == 0xcc => {
            let probes = trace::kprobes(auditor.kernel, &auditor.functions)?;
            let own = probes.iter().any(|probe| probe.place.at == record.ip);
            if !own && !probes.is_whole() {
                return Err(unknown(&auditor.functions.at(record.ip)?));
            }
            (!own).then(|| "has a breakpoint that nobody has set".to_owned())
        }
        (_, None) => Some(format!("was overwritten: {bytes:02x?}")),
    })
}
