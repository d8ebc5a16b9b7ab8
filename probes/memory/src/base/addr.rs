//! Address types: an address of the wrong space does not compile.

use std::fmt;

/// Bytes in a base page of x86-64.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// This address moved by `bytes`, wrapping as the machine's own arithmetic does.
            #[must_use]
            pub const fn offset(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// This address moved back by `bytes`, wrapping (the arithmetic of `container_of`).
            #[must_use]
            pub const fn back(self, bytes: u64) -> Self {
                Self(self.0.wrapping_sub(bytes))
            }

            /// The start of the base page that holds this address.
            #[must_use]
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// The offset in bytes into that page.
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// Tells whether this is the null address.
            #[must_use]
            pub const fn is_null(self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#018x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A guest-physical address.
    GuestPhys
}
address! {
    /// A guest-virtual address, of the kernel or of one process.
    GuestVirt
}
impl GuestVirt {
    /// An address as people write it: hexadecimal, with 0x or with all its 16 digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text
            .strip_prefix("0x")
            .or_else(|| Some(text).filter(|text| text.len() == 16))?;
        u64::from_str_radix(digits, 16).ok().map(Self)
    }
}
