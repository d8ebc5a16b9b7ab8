//! Reasons for the drop of a packet: `enum skb_drop_reason` by its names in this kernel.

use std::collections::BTreeMap;

use crate::kernel::Kernel;
use crate::kernel::btf::Kind;
use crate::{Error, Result};

/// `SKB_DROP_REASON_SUBSYS_SHIFT` (`include/net/dropreason-core.h`): the subsystem's number is above.
const SUBSYSTEM: u32 = 16;

/// The names of the reasons.
#[derive(Debug, Clone)]
pub(super) struct Reasons(BTreeMap<i64, String>);

impl Reasons {
    pub(super) fn read(kernel: &Kernel) -> Result<Self> {
        let btf = kernel.btf()?;
        let id = btf
            .find(Kind::Enum, "skb_drop_reason")
            .ok_or_else(|| Error::NoType {
                name: "enum skb_drop_reason".to_owned(),
                release: kernel.release().to_owned(),
                hint: String::new(),
            })?;
        let names = btf.type_of(id)?.enumerators();
        Ok(Self(
            names.map(|e| (e.value, short(e.name).to_owned())).collect(),
        ))
    }

    pub(super) fn name(&self, reason: u32) -> String {
        match self.0.get(&i64::from(reason)) {
            Some(name) => name.clone(),
            None => format!(
                "reason {} of subsystem {}",
                reason & 0xffff,
                reason >> SUBSYSTEM
            ),
        }
    }
}

fn short(name: &str) -> &str {
    name.strip_prefix("SKB_DROP_REASON_")
        .or_else(|| name.strip_prefix("SKB_"))
        .unwrap_or(name)
}
