//! The `console` blocks of a document: commands with their replies.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use regex::Regex;

/// One command of a block.
pub struct Step {
    pub document: PathBuf,
    /// The line of the command, from 1.
    pub line: usize,
    pub command: String,
    pub reply: String,
    /// The bytes of the reply in the document.
    at: Range<usize>,
}

impl Step {
    /// Whether a repeat of the command changes nothing.
    pub fn only_reads(&self) -> bool {
        let changes = ["--json", " -d ", " -X ", "bin/", "cargo"];
        !changes.iter().any(|part| self.command.contains(part))
    }
}

/// The commands of all `console` blocks of a document, in order. A command begins with `$ `. A line that
/// ends with a backslash or a pipe goes on.
pub fn steps(document: &Path) -> Vec<Step> {
    let text = fs::read_to_string(document).unwrap();
    let mut steps: Vec<Step> = Vec::new();
    let (mut is_console, mut goes_on, mut at) = (false, false, 0);
    for (number, full) in text.split_inclusive('\n').enumerate() {
        let line = full.trim_end_matches('\n');
        let end = at + full.len();
        if line.starts_with("```") {
            is_console = line == "```console";
        } else if let (true, Some(command)) = (is_console && !goes_on, line.strip_prefix("$ ")) {
            let (document, command) = (document.to_owned(), command.to_owned());
            goes_on = command.ends_with(['\\', '|']);
            steps.push(Step { document, line: number + 1, command, reply: String::new(), at: end..end });
        } else if is_console {
            let step = steps.last_mut().expect("a block begins with a command");
            if goes_on {
                goes_on = line.ends_with(['\\', '|']);
                step.command = format!("{}\n{line}", step.command);
                step.at = end..end;
            } else {
                step.reply += full;
                step.at.end = end;
            }
        }
        at = end;
    }
    for step in &mut steps {
        // The empty line before the next command is none of the reply.
        if step.reply.ends_with("\n\n") || step.reply == "\n" {
            step.reply.pop();
            step.at.end -= 1;
        }
    }
    steps
}

/// Texts that differ from run to run, with the word that stands for them.
static CHANGING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]+)?Z", "TIME"),
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),
        (r"pay_[0-9a-f]{32}", "PAYMENT"),
        (r"recharge_[a-z0-9_]+_[0-9]{10}_[0-9a-f]{6}", "ORDER"),
        (r#""(request_id|next_page_token)":"[A-Za-z0-9_-]+""#, r#""$1":"TEXT""#),
        (r#""[0-9]{4}-[0-9]{2}-[0-9]{2}""#, r#""DAY""#),
        (r#""[0-9]{4}-[0-9]{2}""#, r#""MONTH""#),
    ]
    .map(|(pattern, word)| (Regex::new(pattern).unwrap(), word))
    .into()
});

/// A reply without the texts that differ from run to run. The members of JSON come in any order.
pub fn shape(reply: &str) -> String {
    let sorted = |line: &str| match serde_json::from_str::<serde_json::Value>(line) {
        Ok(json) if json.is_object() => json.to_string(),
        _ => line.to_owned(),
    };
    let reply = reply.trim_end().lines().map(sorted).collect::<Vec<_>>().join("\n");
    CHANGING.iter().fold(reply, |text, (pattern, word)| pattern.replace_all(&text, *word).into_owned())
}

/// Whether a reply is the one of the document. A line `...` there stands for any lines.
pub fn is_as_documented(reply: &str, documented: &str) -> bool {
    let (reply, documented) = (shape(reply), shape(documented));
    let parts: Vec<&str> = documented.split("...\n").collect();
    let [first, between @ .., last] = parts.as_slice() else { return reply == documented };
    let Some(mut rest) = reply.strip_prefix(first) else { return false };
    for part in between {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// Puts the replies of `differing` commands into their documents. Documents with `...` keep their text.
pub fn write(all: &[Step], differing: &[(usize, String)]) {
    for (index, got) in differing.iter().rev() {
        let Step { document, at, .. } = &all[*index];
        let mut text = fs::read_to_string(document).unwrap();
        let got = if got.is_empty() || got.ends_with('\n') { got.clone() } else { format!("{got}\n") };
        text.replace_range(at.clone(), &got);
        fs::write(document, text).unwrap();
    }
}
