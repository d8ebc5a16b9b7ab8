//! The expressions of a rule, written as `nft --debug=netlink` writes them (`net/netfilter/nft_*.c`).

use serde::Serialize;

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Object;
use crate::structures::{offset_of, possible_cpus};
use crate::{Error, Result};

/// Expressions of one rule, at most: `NFT_RULE_MAXEXPRS`.
const MOST: usize = 128;
/// Bytes of a value, at most: four registers.
const VALUE: u64 = 64;
const NSEC: u64 = 1_000_000_000;

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NftExpression {
    /// Address of its `struct nft_expr`.
    pub at: GuestVirt,
    /// Its type: `meta`, `cmp`, `counter`, ..
    pub name: String,
    /// Its text in `nft`'s words; the type alone if the type is not known here.
    pub text: String,
}

/// The expressions of a rule: `nft_rule_for_each_expr()`, `len` bytes of them.
pub(super) fn expressions(
    kernel: &Kernel,
    first: GuestVirt,
    len: u64,
) -> Result<Vec<NftExpression>> {
    let pointer = |at: GuestVirt, c: &str, member: &str| -> Result<GuestVirt> {
        let at = at.offset(offset_of(kernel, c, member)?);
        kernel.read_u64(at).map(GuestVirt)
    };
    let data = offset_of(kernel, "struct nft_expr", "data")?;
    let mut all = Vec::new();
    let mut at = first;
    while at.0.wrapping_sub(first.0) < len {
        let ops = pointer(at, "struct nft_expr", "ops")?;
        let size = ops.offset(offset_of(kernel, "struct nft_expr_ops", "size")?);
        let size = u64::from(kernel.read_u32(size)?);
        if size < data || at.0.wrapping_sub(first.0) + size > len || all.len() == MOST {
            let why = format!("its size is {size}");
            return Err(Error::Broken {
                what: "nft_expr",
                at,
                why,
            });
        }
        let kind = pointer(ops, "struct nft_expr_ops", "type")?;
        let name = kernel.read_cstr(pointer(kind, "struct nft_expr_type", "name")?, 32)?;
        let ops = kernel.symbol_at(ops)?.filter(|symbol| symbol.offset == 0);
        let ops = ops.map_or_else(String::new, |symbol| symbol.name);
        let expression = Expression {
            kernel,
            at: at.offset(data),
            ops: &ops,
        };
        // A member that this kernel has elsewhere is a text less, no error.
        let text = match expression.text(&name) {
            Err(Error::NoMember { .. } | Error::NoType { .. }) => None,
            text => text?,
        };
        all.push(NftExpression {
            at,
            text: text.unwrap_or_else(|| name.clone()),
            name,
        });
        at = at.offset(size);
    }
    Ok(all)
}

/// An expression's own data.
struct Expression<'a> {
    kernel: &'a Kernel,
    at: GuestVirt,
    /// The symbol of its operations, which tell the variants of a type apart.
    ops: &'a str,
}

impl Expression<'_> {
    /// Finds its text in `nft`'s words; `None` if its type is not known here.
    fn text(&self, name: &str) -> Result<Option<String>> {
        Ok(Some(match name {
            "meta" => self.load_or_set("meta", "struct nft_meta", "NFT_META_")?,
            "ct" => self.load_or_set("ct", "struct nft_ct", "NFT_CT_")?,
            "payload" if self.ops.contains("_set_") => return Ok(None),
            "payload" => self.payload()?,
            "cmp" => self.cmp()?,
            "range" => {
                let range = self.object("struct nft_range_expr")?;
                let len = number(&range, "len")?;
                let op = lower(&range, "op", "NFT_RANGE_")?;
                let (from, to) = (
                    value(&range, "data_from", len)?,
                    value(&range, "data_to", len)?,
                );
                format!("range {op} reg {} {from} {to}", register(&range, "sreg")?)
            }
            "immediate" => self.immediate()?,
            "bitwise" => self.bitwise()?,
            "lookup" => self.lookup()?,
            "counter" => self.counter()?,
            "limit" => self.limit()?,
            "masq" => self.masq()?,
            "nat" => self.nat()?,
            "reject" => {
                let reject = self.object("struct nft_reject")?;
                let (kind, code) = (number(&reject, "type")?, number(&reject, "icmp_code")?);
                format!("reject type {kind} code {code}")
            }
            _ => return Ok(None),
        }))
    }

    fn object(&self, c: &str) -> Result<Object> {
        Object::at(self.kernel, c, self.at)
    }

    fn load_or_set(&self, name: &str, c: &str, prefix: &str) -> Result<String> {
        let expression = self.object(c)?;
        let key = lower(&expression, "key", prefix)?
            .replace("time_ns", "time")
            .replace("time_day", "day")
            .replace("time_hour", "hour");
        let reg = register(&expression, "dreg")?;
        Ok(match self.ops.contains("_set_") {
            true => format!("{name} set {key} with reg {reg}"),
            false => format!("{name} load {key} => reg {reg}"),
        })
    }

    fn payload(&self) -> Result<String> {
        let payload = self.object("struct nft_payload")?;
        let base = lower(&payload, "base", "NFT_PAYLOAD_")?;
        let base = match base.as_str() {
            "ll_header" => "link",
            other => other.strip_suffix("_header").unwrap_or(other),
        };
        let (len, offset) = (number(&payload, "len")?, number(&payload, "offset")?);
        let reg = register(&payload, "dreg")?;
        Ok(format!(
            "payload load {len}b @ {base} header + {offset} => reg {reg}"
        ))
    }

    fn cmp(&self) -> Result<String> {
        let (c, fast) = match self.ops {
            "nft_cmp_fast_ops" => ("struct nft_cmp_fast_expr", true),
            "nft_cmp16_fast_ops" => ("struct nft_cmp16_fast_expr", true),
            _ => ("struct nft_cmp_expr", false),
        };
        let cmp = self.object(c)?;
        let op = match fast {
            true if number(&cmp, "inv")? != 0 => "neq".to_owned(),
            true => "eq".to_owned(),
            false => lower(&cmp, "op", "NFT_CMP_")?,
        };
        // The one that compares a word knows its length in bits.
        let len = number(&cmp, "len")?;
        let len = match self.ops {
            "nft_cmp_fast_ops" => len.div_ceil(8),
            _ => len,
        };
        let (reg, value) = (register(&cmp, "sreg")?, value(&cmp, "data", len)?);
        Ok(format!("cmp {op} reg {reg} {value}"))
    }

    fn immediate(&self) -> Result<String> {
        let immediate = self.object("struct nft_immediate_expr")?;
        let reg = number(&immediate, "dreg")?;
        if reg != 0 {
            let value = value(&immediate, "data", number(&immediate, "dlen")?)?;
            return Ok(format!("immediate reg {} {value}", named(reg)));
        }
        let code = immediate.member("data.verdict.code")?.u64()? as u32;
        let verdict = match code.cast_signed() {
            0 => "drop",
            1 => "accept",
            2 => "stolen",
            3 => "queue",
            4 => "repeat",
            -1 => "continue",
            -2 => "break",
            -3 => "jump",
            -4 => "goto",
            -5 => "return",
            _ => return Ok(format!("immediate reg 0 {code:#x}")),
        };
        let chain = match code.cast_signed() {
            -4 | -3 => {
                let chain = immediate.member("data.verdict.chain")?.deref()?;
                format!(" -> {}", chain.member("name")?.string()?)
            }
            _ => String::new(),
        };
        Ok(format!("immediate reg 0 {verdict}{chain}"))
    }

    fn bitwise(&self) -> Result<String> {
        let fast = self.ops == "nft_bitwise_fast_ops";
        let c = match fast {
            true => "struct nft_bitwise_fast_expr",
            false => "struct nft_bitwise",
        };
        let bitwise = self.object(c)?;
        let (from, to) = (register(&bitwise, "sreg")?, register(&bitwise, "dreg")?);
        let len = if fast { 4 } else { number(&bitwise, "len")? };
        // A mask and an exclusive or; the others shift.
        let op = if fast { 0 } else { number(&bitwise, "op")? };
        Ok(match op {
            0 => {
                let (mask, xor) = (value(&bitwise, "mask", len)?, value(&bitwise, "xor", len)?);
                format!("bitwise reg {to} = ( reg {from} & {mask} ) ^ {xor}")
            }
            _ => {
                let shift = value(&bitwise, "data", 4)?;
                let sign = if op == 1 { "<<" } else { ">>" };
                format!("bitwise reg {to} = ( reg {from} {sign} {shift} )")
            }
        })
    }

    fn lookup(&self) -> Result<String> {
        let lookup = self.object("struct nft_lookup")?;
        let of = lookup.member("set")?.deref()?;
        let set = of.member("name")?.string()?;
        // NFT_SET_MAP: it has a value for the key.
        let dreg = match number(&of, "flags")? & 8 {
            0 => String::new(),
            _ => format!(" dreg {}", register(&lookup, "dreg")?),
        };
        let (reg, invert) = (register(&lookup, "sreg")?, number(&lookup, "invert")?);
        Ok(format!("lookup reg {reg} set {set}{dreg} {invert:#x}"))
    }

    /// Adds up the counts of all CPUs.
    fn counter(&self) -> Result<String> {
        let counter = self.object("struct nft_counter_percpu_priv")?;
        let per_cpu = counter.member("counter")?.pointer()?;
        let c = "struct nft_counter";
        let (packets, bytes) = (
            offset_of(self.kernel, c, "packets")?,
            offset_of(self.kernel, c, "bytes")?,
        );
        let mut sum = (0_u64, 0_u64);
        for cpu in possible_cpus(self.kernel)? {
            let at = self.kernel.per_cpu(per_cpu, cpu)?;
            sum.0 = sum
                .0
                .wrapping_add(self.kernel.read_u64(at.offset(packets))?);
            sum.1 = sum.1.wrapping_add(self.kernel.read_u64(at.offset(bytes))?);
        }
        Ok(format!("counter pkts {} bytes {}", sum.0, sum.1))
    }

    /// Both variants begin with the same structure.
    fn limit(&self) -> Result<String> {
        let limit = self.object("struct nft_limit_priv")?;
        let (rate, nsecs) = (number(&limit, "rate")?, number(&limit, "nsecs")?);
        let unit = match nsecs / NSEC {
            1 => "second",
            60 => "minute",
            3600 => "hour",
            86400 => "day",
            604_800 => "week",
            _ => "error",
        };
        let kind = if self.ops.contains("bytes") {
            "bytes"
        } else {
            "packets"
        };
        let (burst, invert) = (number(&limit, "burst")?, number(&limit, "invert")?);
        Ok(format!(
            "limit rate {rate}/{unit} burst {burst} type {kind} flags {invert:#x}"
        ))
    }

    fn masq(&self) -> Result<String> {
        let masq = self.object("struct nft_masq")?;
        let mut text = "masq".to_owned();
        for (name, member) in [
            ("proto_min", "sreg_proto_min"),
            ("proto_max", "sreg_proto_max"),
        ] {
            if number(&masq, member)? != 0 {
                text += &format!(" {name} reg {}", register(&masq, member)?);
            }
        }
        let flags = number(&masq, "flags")?;
        if flags != 0 {
            text += &format!(" flags {flags:#x}");
        }
        Ok(text)
    }

    fn nat(&self) -> Result<String> {
        let nat = self.object("struct nft_nat")?;
        // NF_NAT_MANIP_SRC is 0.
        let kind = if number(&nat, "type")? == 0 {
            "snat"
        } else {
            "dnat"
        };
        let family = if number(&nat, "family")? == 10 {
            "ip6"
        } else {
            "ip"
        };
        let mut text = format!("nat {kind} {family}");
        for name in ["addr_min", "addr_max", "proto_min", "proto_max"] {
            let member = format!("sreg_{name}");
            if number(&nat, &member)? != 0 {
                text += &format!(" {name} reg {}", register(&nat, &member)?);
            }
        }
        let flags = number(&nat, "flags")?;
        if flags != 0 {
            text += &format!(" flags {flags:#x}");
        }
        Ok(text)
    }
}

fn number(object: &Object, member: &str) -> Result<u64> {
    object.member(member)?.u64()
}

/// A constant's name without its beginning, in lower case; its number if it has none.
fn lower(object: &Object, member: &str, prefix: &str) -> Result<String> {
    let member = object.member(member)?;
    Ok(match member.enumerator()? {
        Some(name) => name.strip_prefix(prefix).unwrap_or(&name).to_lowercase(),
        None => member.u64()?.to_string(),
    })
}

fn register(object: &Object, member: &str) -> Result<u64> {
    number(object, member).map(named)
}

/// The number that user space has for a register: `nft_dump_register()`. The kernel counts words.
const fn named(register: u64) -> u64 {
    match register % 4 {
        0 => register / 4,
        // NFT_REG32_00 is 8.
        _ => register.wrapping_sub(4) + 8,
    }
}

/// The words of a value of `len` bytes.
fn value(object: &Object, member: &str, len: u64) -> Result<String> {
    let member = object.member(member)?;
    let Some(at) = member.address() else {
        return Ok(String::new());
    };
    let mut bytes = vec![0; len.min(VALUE) as usize];
    object.kernel().read(at, &mut bytes)?;
    let word = |bytes: &[u8]| {
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(bytes) {
            *to = *from;
        }
        format!("{:#010x}", u32::from_le_bytes(word))
    };
    let words: Vec<String> = bytes.chunks(4).map(word).collect();
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn registers_have_the_numbers_of_user_space() {
        // NFT_REG_1 to NFT_REG_4, and NFT_REG32_01.
        assert_eq!([4, 8, 12, 16].map(named), [1, 2, 3, 4]);
        assert_eq!(named(5), 9);
    }
}
