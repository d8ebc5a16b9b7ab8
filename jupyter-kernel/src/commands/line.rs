//! A `%` line of a cell: split into words, given to the same definitions as the shell's arguments.

use anyhow::{Result, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use probes::readers::Reader;

use super::cli::{Line, LineCommand};
use super::look::Look;
use super::pipe::Piped;
use super::{Context, Output, drgn, inside, kmod, machine, stopped};

/// The names of the options with a value of a command whose argument is C or Python, which has quotes and dashes of its
/// own.
fn options_before_c(command: &str) -> Option<Vec<String>> {
    let takes_c = |reader: &&'static Reader| reader.rest.is_some();
    let known = Reader::of_command(command)
        .into_iter()
        .any(|reader| takes_c(&reader));
    if !known && command != "drgn" {
        return None;
    }
    let mut line = Line::command();
    // The options that all commands have are the line's own until then.
    line.build();
    let options = line.find_subcommand(command)?.get_arguments();
    let valued = options.filter(|option| option.get_action().takes_values());
    Some(
        valued
            .filter_map(|option| Some(option.get_long()?.to_owned()))
            .collect(),
    )
}

/// Runs the command of one `%` line; `body` is what follows a `%%` line. The signs may be there or not.
///
/// # Errors
/// One sentence for the user, with the cure.
pub(crate) fn run_line(line: &str, body: &str, cx: &mut Context<'_>) -> Result<Output> {
    let line = line.trim().trim_start_matches('%').trim();
    let name = line.split_whitespace().next().unwrap_or_default();
    // In these the signs are the guest's shell's, and Python's.
    if ["sh", "drgn"].contains(&name) {
        return run(line, body, cx);
    }
    let piped = Piped::of(line, options_before_c(name).is_some());
    if piped.is_plain() {
        return run(line, body, cx);
    }
    let way = piped.way()?;
    way.put(run(piped.command, body, cx)?)
}

/// Tells whether a line asks for the variables of the cells, which their session knows.
pub(crate) fn is_variables(line: &str) -> bool {
    let line = Line::try_parse_from(line.trim_start_matches('%').split_whitespace());
    line.is_ok_and(|line| matches!(line.command, LineCommand::Who))
}

/// Tells whether a line reads a view, of all its output, and changes nothing.
pub(crate) fn is_view(line: &str) -> bool {
    let line = line.trim().trim_start_matches('%').trim();
    let name = line.split_whitespace().next().unwrap_or_default();
    let takes_c = options_before_c(name).is_some();
    let words = split(line)
        .ok()
        .filter(|_| Piped::of(line, takes_c).is_plain());
    let parsed = words.and_then(|words| Line::try_parse_from(words).ok());
    parsed.is_some_and(|line| matches!(line.command, LineCommand::Look(Look::Read(_))))
}

/// Runs a line with nothing behind its command.
fn run(line: &str, body: &str, cx: &mut Context<'_>) -> Result<Output> {
    let words = split(line)?;
    let parsed = match Line::try_parse_from(&words) {
        Ok(parsed) => parsed,
        Err(error) => return usage(&words, &error),
    };
    if !body.trim().is_empty()
        && !matches!(
            parsed.command,
            LineCommand::Sh(_) | LineCommand::Drgn(_) | LineCommand::Kmod(_)
        )
    {
        bail!(
            "`%{}` takes no body: put the Rust code into a cell of its own",
            words[0]
        );
    }
    let output = match parsed.command {
        LineCommand::Look(command) => command.run(cx),
        LineCommand::Go(go) => stopped::run(&go, cx),
        LineCommand::Guest { command } => machine::run(&command, cx),
        LineCommand::Kmod(what) => kmod::cell(&what, body, cx),
        LineCommand::Sh(sh) => inside::sh(&sh, body, cx),
        LineCommand::Drgn(code) => drgn::cell(&code, body, cx),
        LineCommand::Help => Ok(help()),
        LineCommand::Who => bail!("`%who` stands on a line of its own"),
        LineCommand::Time | LineCommand::Timeit => {
            bail!("`%{}` stands at the beginning of a cell", words[0])
        }
    }?;
    Ok(if parsed.common.json {
        output.into_json()
    } else {
        output
    })
}

/// Splits a line into words: as a shell does, but for C, which is kept as it was written.
fn split(line: &str) -> Result<Vec<String>> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let Some(valued) = options_before_c(name) else {
        return match shlex::split(line) {
            Some(words) if !words.is_empty() => Ok(words),
            Some(_) => bail!("a command is missing after `%`: `%help` lists them"),
            None => bail!("a quote is not closed in `%{line}`"),
        };
    };
    let is_valued = |word: &str| {
        let name = word.strip_prefix("--");
        name.is_some_and(|name| valued.iter().any(|known| known == name))
    };
    let (mut options, mut rest) = (vec![name.to_owned()], rest.trim().to_owned());
    // Options stand before or after the expression, never within.
    while let Some(word) = rest
        .split_whitespace()
        .next()
        .filter(|word| word.starts_with("--"))
        .map(str::to_owned)
    {
        rest = rest[word.len()..].trim_start().to_owned();
        let valued = is_valued(&word);
        options.push(word);
        if valued && let Some(value) = rest.split_whitespace().next().map(str::to_owned) {
            rest = rest[value.len()..].trim_start().to_owned();
            options.push(value);
        }
    }
    let mut words: Vec<&str> = rest.split_whitespace().collect();
    let mut end = rest.len();
    loop {
        let take = match words.as_slice() {
            [.., option, _] if is_valued(option) => 2,
            [.., option] if option.starts_with("--") => 1,
            _ => break,
        };
        let taken: Vec<&str> = words.split_off(words.len() - take);
        options.extend(taken.iter().map(|word| (*word).to_owned()));
        end = rest
            .get(..end)
            .and_then(|text| text.rfind(taken[0]))
            .unwrap_or(0);
    }
    let expression = rest.get(..end).unwrap_or_default().trim_end();
    if !expression.is_empty() {
        options.extend(["--".to_owned(), expression.to_owned()]);
    }
    Ok(options)
}

/// clap's message: help is an output, all else one sentence.
fn usage(words: &[String], error: &clap::Error) -> Result<Output> {
    let text = error.render().to_string().replace("Usage: ", "Usage: %");
    match error.kind() {
        ErrorKind::DisplayHelp => Ok(Output::text(text)),
        ErrorKind::InvalidSubcommand
            if words.len() == 1 || words.first().is_some_and(|word| word != "guest") =>
        {
            let hint = text
                .lines()
                .find_map(|line| line.trim().strip_prefix("tip: "));
            let hint = hint
                .map(|hint| format!(" ({})", hint.trim()))
                .unwrap_or_default();
            bail!(
                "there is no command `%{}`{hint}: `%help` lists them",
                words[0]
            )
        }
        _ => {
            let first = text
                .trim_start_matches("error: ")
                .split("\n\n")
                .next()
                .unwrap_or_default();
            let first = first.split_whitespace().collect::<Vec<_>>().join(" ");
            bail!(
                "{first}: `%{} --help` is its manual",
                words.first().map_or("help", String::as_str)
            )
        }
    }
}

/// The commands of a cell, each with its arguments and its one line.
fn help() -> Output {
    let mut rows = Vec::new();
    for command in Line::command().get_subcommands() {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        let sign = if ["sh", "drgn", "kmod"].contains(&command.get_name()) {
            "%%"
        } else {
            "%"
        };
        let mut usage = format!("{sign}{}", command.get_name());
        for arg in command
            .get_positionals()
            .filter(|arg| arg.is_required_set())
        {
            usage = format!("{usage} {}", arg.get_id().as_str().to_uppercase());
        }
        let below: Vec<&str> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        if !below.is_empty() {
            usage = format!("{usage} {}", below.join("|"));
        }
        rows.push((usage, about));
    }
    let wide = rows
        .iter()
        .map(|(usage, _)| usage.chars().count())
        .filter(|wide| *wide < 24)
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (usage, about) in &rows {
        text.push_str(&format!("{usage:<wide$}  {about}\n"));
    }
    text.push_str("\n`%COMMAND --help` is the command's manual, `--code` prints the Rust cell that does the same. Behind a command may stand \
         `| grep [-i] [-v] PATTERN`, `| head [N]`, `| tail [N]`, `| wc -l`, `| sort [-n] [-r]`, `> FILE` and `>> FILE`.\n");
    Output::text(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context<'a>(sink: &'a mut super::super::output::Sink<'a>) -> Context<'a> {
        Context {
            guest: "default".to_owned(),
            sink,
            rewrites: false,
            interrupt: std::sync::Arc::default(),
            signals: false,
        }
    }

    fn fails(line: &str) -> String {
        run_line(line, "", &mut context(&mut |_, _| {}))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn c_is_kept_as_written() {
        let words = |line| split(line).unwrap();
        assert_eq!(words("p 'a' +  x->y"), ["p", "--", "'a' +  x->y"]);
        assert_eq!(
            words("p --code init_task.mm --guest g"),
            ["p", "--code", "--guest", "g", "--", "init_task.mm"]
        );
        assert_eq!(
            words("list init_task.tasks --of task_struct.tasks --json"),
            [
                "list",
                "--json",
                "--of",
                "task_struct.tasks",
                "--",
                "init_task.tasks"
            ]
        );
        for option in ["snapshot", "since", "core", "kernel-at", "guest"] {
            let wanted = ["p", &format!("--{option}"), "x", "--", "a - b"];
            for line in [
                format!("p --{option} x a - b"),
                format!("p a - b --{option} x"),
            ] {
                assert_eq!(split(&line).unwrap(), wanted);
            }
        }
        assert_eq!(words("sh --guest 'a b'"), ["sh", "--guest", "a b"]);
    }

    #[test]
    fn what_is_wrong_is_one_sentence_with_the_cure() {
        for (line, says) in [
            ("%", "`%help` lists them"),
            ("%nope", "there is no command `%nope`"),
            ("%mm", "`%mm --help`"),
            ("%mm x", "`%mm --help`"),
            ("%vtop 'x", "a quote is not closed"),
            ("%guest fly", "`%guest --help`"),
            ("%%sh", "nothing to run"),
            ("%%drgn", "nothing to run"),
        ] {
            let text = fails(line);
            assert!(
                text.contains(says) && text.lines().count() == 1,
                "{line}: {text}"
            );
        }
    }

    #[test]
    fn help_lists_every_command() {
        let text = run_line("%help", "", &mut context(&mut |_, _| {}))
            .unwrap()
            .text;
        for name in [
            "%tasks",
            "%address-map PID",
            "%vtop ADDRESS",
            "%guest up|status|",
            "%%sh",
            "%eval EXPRESSION",
        ] {
            assert!(text.contains(name), "{name} is not in\n{text}");
        }
    }

    #[test]
    fn a_manual_names_the_command_as_a_cell_writes_it() {
        let text = run_line("%mm --help", "", &mut context(&mut |_, _| {}))
            .unwrap()
            .text;
        assert!(text.contains("Usage: %address-map "), "{text}");
    }

    #[test]
    fn the_text_of_a_command_is_filtered() {
        let text = |line: &str| {
            run_line(line, "", &mut context(&mut |_, _| {}))
                .unwrap()
                .text
        };
        assert!(text("%help | grep '^%tasks ' | wc -l").starts_with("1\n"));
        assert!(text("%p --help | head 1").contains("expression"));
        assert!(fails("%help | less").contains("behind a `|` stand"));
    }

    #[test]
    fn a_view_reads_and_changes_nothing() {
        for view in ["%tasks", "%ps", "%p init_task.comm"] {
            assert!(is_view(view), "{view}");
        }
        for other in [
            "%tasks | head",
            "%set jiffies 1",
            "%skb true",
            "%guest reset",
            "%%sh",
            "%help",
            "%nosuch",
        ] {
            assert!(!is_view(other), "{other}");
        }
    }

    #[test]
    fn a_body_belongs_to_sh_alone() {
        let mut sink = |_, _: &[u8]| {};
        let error = run_line("%%tasks", "let x = 1;", &mut context(&mut sink)).unwrap_err();
        assert!(error.to_string().contains("takes no body"));
    }
}
