//! The macro that makes readers of the entries of the table.

/// A method's name as a command has it: `nf_hooks`, `nf-hooks`.
pub(super) const fn dashed<const N: usize>(name: &str) -> [u8; N] {
    let (name, mut bytes, mut at) = (name.as_bytes(), [b'-'; N], 0);
    while at < N {
        if name[at] != b'_' {
            bytes[at] = name[at];
        }
        at += 1;
    }
    bytes
}

/// Makes [`READERS`](super::READERS) of the entries of the table, and the methods of [`Guest`](crate::Guest).
///
/// An entry is: the manual, of the command and of the method; the method and its aliases; `as "WORD"`, where several readers
/// share a command; the parameters, each with its manual and perhaps a default word; the type of what is shown; how it is
/// read, of the `kernel` or of the `guest`; `flags [..]`, the parameters that the command takes as options; `rest [..]`, the one
/// that takes all words that are left; `not [dumps]`, where it reads most of the guest's memory; words to try it with, where
/// it needs some.
macro_rules! readers {
    ($(
        $(#[doc = $manual:literal])*
        $method:ident $(| $alias:literal)* $(as $command:literal)?
        ( $( $(#[doc = $what:literal])* $parameter:ident : $ty:ty $(= $default:literal)? ),* $(,)? )
        -> $out:ty $(= |$source:ident| $body:expr)?
        $(, flags [$($flag:ident),*])?
        $(, rest [$rest:ident])?
        $(, not [$not:ident])?
        $(, try [$([$($word:literal),*]),*])?
        ;
    )*) => {
        /// All readers, in the order in which commands are listed.
        pub const READERS: &[$crate::readers::Reader] = &[$(
            $crate::readers::Reader {
                method: stringify!($method),
                command: readers!(@command $method $($command)?),
                aliases: &[$($alias),*],
                manual: &[$($manual),*],
                parameters: &[$(
                    $crate::readers::Parameter {
                        name: stringify!($parameter),
                        manual: &[$($what),*],
                        kind: <$ty as $crate::readers::Argument<'_>>::KIND,
                        optional: <$ty as $crate::readers::Argument<'_>>::OPTIONAL,
                        default: readers!(@option $($default)?),
                    }
                ),*],
                flags: &[$($(stringify!($flag)),*)?],
                rest: readers!(@option $(stringify!($rest))?),
                samples: readers!(@samples $($([$($word),*])*)?),
                reads_all: readers!(@not $($not)?),
                read: |guest, words| {
                    let mut words = words.iter().copied();
                    $( let $parameter = <$ty as $crate::readers::Argument<'_>>::read(words.next().flatten(), guest)?; )*
                    debug_assert!(words.next().is_none());
                    let value: $out = guest.$method($($parameter),*)?;
                    Ok(Box::new(value))
                },
                code: |guest, words| {
                    let mut words = words.iter().copied();
                    let literals: &[String] = &[$(
                        <$ty as $crate::readers::Argument<'_>>::literal(words.next().flatten(), guest)
                    ),*];
                    debug_assert!(words.next().is_none());
                    format!("{guest}.{}({})?", stringify!($method), literals.join(", "))
                },
            }
        ),*];

        impl $crate::Guest {
            $( readers!(@method [$($manual),*] $method ($($parameter: $ty),*) -> $out $(= |$source| $body)?); )*
        }
    };
    (@command $method:ident) => {{
        const NAME: &str = stringify!($method);
        const DASHED: [u8; NAME.len()] = dashed(NAME);
        match std::str::from_utf8(&DASHED) {
            Ok(command) => command,
            Err(_) => NAME,
        }
    }};
    (@command $method:ident $command:literal) => { $command };
    (@option) => { None };
    (@option $value:expr) => { Some($value) };
    (@not) => { false };
    (@not dumps) => { true };
    (@samples) => { &[&[]] };
    (@samples $([$($word:literal),*])+) => { &[$(&[$($word),*]),+] };
    (@method [$($manual:literal),*] $method:ident ($($parameter:ident: $ty:ty),*) -> $out:ty) => {};
    (@method [$($manual:literal),*] $method:ident ($($parameter:ident: $ty:ty),*) -> $out:ty = |$source:ident| $body:expr) => {
        $(#[doc = $manual])*
        ///
        /// # Errors
        /// `Absent` for a task or a thing that is not there; `Unsupported` on a kernel without it; `Torn` if it keeps
        /// changing; `Broken` or `Unmapped` if what it starts from is damaged. A value names the parts of it that could
        /// not be read.
        pub fn $method(&self, $($parameter: $ty),*) -> $crate::Result<$out> {
            let $source = readers!(@source $source self);
            $body
        }
    };
    (@source kernel $guest:ident) => { &$guest.kernel()? };
    (@source guest $guest:ident) => { $guest };
}
pub(super) use readers;
