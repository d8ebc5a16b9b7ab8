//! Levels and facilities of records, by their names (`KERN_*`, `LOG_*` of `syslog(3)`).

use crate::{Error, Result};

/// By number: `dmesg --level` has the same words.
const LEVELS: [&str; 8] = [
    "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug",
];
/// By number; those behind are `local0` to `local7`, from 16 on.
const FACILITIES: [&str; 12] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp",
];

/// The name of a level; `?` for one that there is not.
#[must_use]
pub fn level_name(level: u8) -> &'static str {
    LEVELS.get(usize::from(level)).copied().unwrap_or("?")
}

/// The name of a facility; its number for one without a name.
#[must_use]
pub fn facility_name(facility: u8) -> String {
    match FACILITIES.get(usize::from(facility)) {
        Some(name) => (*name).to_owned(),
        None if (16..24).contains(&facility) => format!("local{}", facility - 16),
        None => facility.to_string(),
    }
}

/// The level that a word means: its name or number.
pub(super) fn parse(word: &str) -> Result<u8> {
    let name = match word {
        "error" => "err",
        "warning" => "warn",
        name => name,
    };
    let number = || word.parse().ok().filter(|level| *level < LEVELS.len());
    let found = LEVELS.iter().position(|level| *level == name);
    let found = found
        .or_else(number)
        .and_then(|level| u8::try_from(level).ok());
    found.ok_or_else(|| {
        let all = LEVELS.join(", ");
        Error::Invalid(format!("there is no level `{word}`: {all}, or 0 to 7"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_name_or_a_number() {
        for (level, name) in (0..).zip(LEVELS) {
            assert_eq!(parse(name), Ok(level));
            assert_eq!(parse(&level.to_string()), Ok(level));
            assert_eq!(level_name(level), name);
        }
        assert_eq!((parse("warning"), parse("error")), (Ok(4), Ok(3)));
        for word in ["8", "", "-1", "warm"] {
            assert!(parse(word).is_err(), "{word}");
        }
        let names = [0, 11, 12, 16, 23, 24].map(facility_name);
        assert_eq!(names, ["kern", "ftp", "12", "local0", "local7", "24"]);
    }
}
