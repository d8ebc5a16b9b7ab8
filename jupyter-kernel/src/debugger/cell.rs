//! The name that a front end gives a cell's text: both make it of the text's hash, so that the breakpoints of a cell are found again.

/// Seed of the hash; any will do that front end and kernel share.
pub(super) const SEED: u32 = 0xc70f_6907;
/// Beginning and end of the name.
pub(super) const PREFIX: &str = "/klab/cell/";
pub(super) const SUFFIX: &str = ".rs";

/// Name of the cell with this text.
pub(super) fn name_of(code: &str) -> String {
    format!("{PREFIX}{}{SUFFIX}", murmur2(code.as_bytes(), SEED))
}

/// `MurmurHash2` of 32 bits, which is the one that JupyterLab knows (packages/debugger/src/hash.ts@v4.0.0).
fn murmur2(bytes: &[u8], seed: u32) -> u32 {
    const M: u32 = 0x5bd1_e995;
    // The text of a cell is below 4 GiB.
    let mut hash = seed ^ bytes.len() as u32;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let word = word
            .iter()
            .rev()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word.wrapping_mul(M);
        let word = (word ^ (word >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_ipykernel() {
        // ipykernel.compiler.murmur2_x86 gives these.
        let known = [
            ("", 3_990_065_800),
            ("a", 2_167_009_006),
            ("print(1)", 3_773_950_048),
            ("größe\n", 3_495_502_336),
        ];
        for (text, hash) in known {
            assert_eq!(murmur2(text.as_bytes(), SEED), hash, "{text}");
        }
    }
}
