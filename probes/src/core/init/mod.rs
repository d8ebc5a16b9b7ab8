//! The kernel's command line (`init/main.c`) and configuration (`kernel/configs.c`).

mod view;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use serde::Serialize;

use crate::Listing;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// `COMMAND_LINE_SIZE` of x86 is 2048, to which a boot configuration may be added.
const COMMAND_LINE: usize = 1 << 16;
/// Bytes of the longest configuration, packed and not: those of distributions have 40 and 250 KiB.
const PACKED: u64 = 4 << 20;
const PLAIN: usize = 32 << 20;

/// A word of the kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootParameter {
    /// Text before the `=`, or the whole.
    pub name: String,
    /// Text after the `=`, without quotes.
    pub value: Option<String>,
}

/// The kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandLine {
    /// As it was given.
    pub text: String,
    /// Its words.
    pub parameters: Vec<BootParameter>,
}

/// An option of the kernel's configuration that is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigOption {
    /// Its name: `CONFIG_SMP`.
    pub name: String,
    /// `y`, `m`, a number, or a text with its quotes.
    pub value: String,
}

/// The kernel's configuration: the options that are set.
pub type Kconfig = Listing<ConfigOption>;

/// The configuration that the kernel was built with: `/proc/config.gz`.
///
/// # Errors
/// When the kernel does not have it in it, as those of most distributions do not.
pub(crate) fn kconfig(kernel: &Kernel) -> Result<Kconfig> {
    let start = kernel.find_symbol("kernel_config_data")?;
    let end = kernel.find_symbol("kernel_config_data_end")?;
    let (Some(start), Some(end)) = (start, end) else {
        return Err(Error::Unsupported(format!(
            "{} was built without CONFIG_IKCONFIG, so its memory does not hold its configuration: its package has it as the file config-{0}",
            kernel.release()
        )));
    };
    let len = end.0.wrapping_sub(start.0);
    if len > PACKED {
        return Err(malformed(format!("it lies from {start} to {end}")));
    }
    let mut packed = vec![0; len as usize];
    kernel.read(start, &mut packed)?;
    let text = String::from_utf8_lossy(&gunzip(&packed)?).into_owned();
    let options = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        (!name.starts_with('#')).then(|| ConfigOption {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    });
    Ok(options.collect())
}

/// The kernel's command line: `/proc/cmdline`.
pub(crate) fn command_line(kernel: &Kernel) -> Result<CommandLine> {
    let at = GuestVirt(kernel.read_u64(kernel.symbol("saved_command_line")?)?);
    let text = kernel.read_cstr(at, COMMAND_LINE)?;
    Ok(CommandLine {
        parameters: words(&text),
        text,
    })
}

fn malformed(why: String) -> Error {
    Error::Malformed {
        what: "the kernel's configuration",
        why,
    }
}

/// The words of a command line as `next_arg()` tells them apart: quotes hold blanks.
fn words(text: &str) -> Vec<BootParameter> {
    let mut quoted = false;
    let words = text.split(|c: char| {
        quoted ^= c == '"';
        c.is_ascii_whitespace() && !quoted
    });
    let words = words.filter(|word| !word.is_empty()).map(|word| {
        let bare = |text: &str| text.replace('"', "");
        match word.split_once('=') {
            Some((name, value)) => BootParameter {
                name: bare(name),
                value: Some(bare(value)),
            },
            None => BootParameter {
                name: bare(word),
                value: None,
            },
        }
    });
    words.collect()
}

/// Unpacks one member of a gzip file (RFC 1952).
fn gunzip(packed: &[u8]) -> Result<Vec<u8>> {
    let broken = |what: &str| malformed(format!("{what} in its gzip data"));
    let ([0x1f, 0x8b, 8, flags, ..], Some(mut body)) = (packed, packed.get(10..)) else {
        return Err(broken("no header"));
    };
    // FEXTRA, FNAME, FCOMMENT, FHCRC; `gzip -n`, which the kernel is built with, writes none of them.
    if *flags != 0 {
        return Err(broken("a header with names"));
    }
    let size;
    (body, size) = body
        .split_last_chunk::<4>()
        .ok_or_else(|| broken("no end"))?;
    let size = u32::from_le_bytes(*size) as usize;
    if size > PLAIN {
        return Err(broken("a size of more than 32 MiB"));
    }
    let mut plain = vec![0; size];
    let mut state = DecompressorOxide::new();
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    match decompress(&mut state, body, &mut plain, 0, flags) {
        (TINFLStatus::Done, _, written) if written == size => Ok(plain),
        (status, ..) => Err(broken(&format!("{status:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Guest;
    use crate::kernel::FakeKernel;
    use crate::view::View as _;

    #[test]
    fn words_are_told_apart_as_the_kernel_does() {
        let words = words("ro console=ttyS0,115200 dyndbg=\"file a.c +p\" \"quiet\"  x=");
        let texts: Vec<_> = words
            .iter()
            .map(|word| (word.name.as_str(), word.value.as_deref()))
            .collect();
        assert_eq!(
            texts,
            [
                ("ro", None),
                ("console", Some("ttyS0,115200")),
                ("dyndbg", Some("file a.c +p")),
                ("quiet", None),
                ("x", Some("")),
            ]
        );
    }

    #[test]
    fn a_kernel_without_its_configuration_says_where_it_is() {
        let guest = Guest::from_kernel(FakeKernel::new().finish().unwrap());
        let error = guest.kconfig().unwrap_err().to_string();
        assert!(error.contains("config-7.3.4-fake"), "{error}");
    }

    /// `printf '# Linux\nCONFIG_SMP=y\n# CONFIG_X is not set\nCONFIG_HZ=250\n' | gzip -n`
    const PACKED: [u8; 65] = [
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x53, 0x56, 0xf0, 0xc9, 0xcc,
        0x2b, 0xad, 0xe0, 0x72, 0xf6, 0xf7, 0x73, 0xf3, 0x74, 0x8f, 0x0f, 0xf6, 0x0d, 0xb0, 0xad,
        0xe4, 0x52, 0x56, 0x80, 0x72, 0x23, 0x14, 0x32, 0x8b, 0x15, 0xf2, 0xf2, 0x4b, 0x14, 0x8a,
        0x53, 0x4b, 0x60, 0x4a, 0x3c, 0xa2, 0x6c, 0x8d, 0x4c, 0x0d, 0xb8, 0x00, 0xe6, 0xad, 0xe2,
        0x4d, 0x39, 0x00, 0x00, 0x00,
    ];

    #[test]
    fn the_configuration_is_unpacked_and_no_lie_in_it_harms() {
        let plain = "# Linux\nCONFIG_SMP=y\n# CONFIG_X is not set\nCONFIG_HZ=250\n";
        assert_eq!(gunzip(&PACKED).unwrap(), plain.as_bytes());
        let mut fake = FakeKernel::new();
        let at = fake.symbol("kernel_config_data", 'R', &PACKED).unwrap();
        let end = at.offset(PACKED.len() as u64);
        fake.symbol_at("kernel_config_data_end", 'R', end);
        let guest = Guest::from_kernel(fake.finish().unwrap());
        let text = guest.kconfig().unwrap().text();
        assert_eq!(text, "CONFIG_SMP=y\nCONFIG_HZ=250\n");
        for at in 0..PACKED.len() {
            for lie in [0, 0xff, PACKED[at] ^ 0x10] {
                let mut packed = PACKED;
                packed[at] = lie;
                let _ = gunzip(&packed);
            }
            assert!(gunzip(&PACKED[..at]).is_err());
        }
    }
}
