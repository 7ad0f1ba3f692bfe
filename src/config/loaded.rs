//! Loads a configuration, and prints it as YAML with the origin of each value.

use std::{fmt::Write, path::Path};

use anyhow::{Context, anyhow};
use config::{Value, ValueKind};
use serde_json::Value as Shown;

use super::{Config, secret_files};

/// Names of keys that have an older name too, and the older names.
const OLDER: [(&str, &str); 2] = [("legacy_zone", "former_zone"), ("retry_timeout", "patience")];

/// A checked configuration, with the origin of each value.
pub struct Loaded {
    pub config: Config,
    /// Defects that do not prevent a start.
    pub warnings: Vec<String>,
    file: String,
    /// The values of the file, of the environment and of the files of secrets.
    values: Value,
}

impl Config {
    /// Reads `path`, the environment, and the files of secrets.
    ///
    /// # Errors
    /// The file or the key, and its defect.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        Loaded::load(path).map(|loaded| loaded.config)
    }

    fn from_values(values: &config::Value) -> anyhow::Result<Self> {
        let mut config: Config = serde_path_to_error::deserialize(values.clone()).map_err(|error| {
            let key = error.path().to_string();
            let why = match error.into_inner() {
                // The cause without its path, which our message already has.
                config::ConfigError::At { error, .. } => error.to_string(),
                other => other.to_string(),
            };
            let why = without_text(why);
            let key = secret_files::given_key(values, &key);
            if key == "." { anyhow!("config: {why}") } else { anyhow!("config key {key}: {why}") }
        })?;
        config.check()?;
        config.choose_defaults();
        Ok(config)
    }

    /// Sets the keys whose default depends on other keys.
    fn choose_defaults(&mut self) {
        let auth = &mut self.server.http.auth;
        auth.mode = Some(auth.mode());
        if let Some(payment) = &mut self.payment_service {
            payment.chosen_callback_auth = Some(payment.callback_auth());
        }
    }
}

/// A line of YAML, and the origin of its value.
struct Line {
    text: String,
    origin: Option<String>,
}

impl Loaded {
    /// Reads `path` and the environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let environment = config::Environment::with_prefix("BILLING").prefix_separator("__").separator("__");
        Self::read(path, environment)
    }

    pub(super) fn read(path: &Path, environment: config::Environment) -> anyhow::Result<Self> {
        if !path.is_file() {
            anyhow::bail!("config file {} not found", path.display());
        }
        let merged = config::Config::builder()
            .add_source(config::File::from(path).format(config::FileFormat::Yaml))
            .add_source(environment)
            .build()
            .with_context(|| format!("config file {}", path.display()))?;
        let mut values = merged.cache;
        let warnings = secret_files::read(&mut values)?;
        let config = Config::from_values(&values)?;
        Ok(Self { config, warnings, file: path.display().to_string(), values })
    }

    /// The configuration in force as YAML, with a comment on the origin of each value. Secrets are
    /// `***`.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn to_yaml(&self) -> anyhow::Result<String> {
        let shown = serde_json::to_value(&self.config).context("the configuration can't be printed")?;
        let mut yaml = format!("# file: {}\n", self.file);
        for Line { text, origin } in self.lines(&shown, &mut Vec::new()) {
            // Writing into a String can't fail.
            let _ = match origin {
                Some(origin) => writeln!(yaml, "{text}  # {origin}"),
                None => writeln!(yaml, "{text}"),
            };
        }
        Ok(yaml)
    }

    /// The lines of `value`. `path` has the keys that lead to it.
    fn lines<'s>(&self, value: &'s Shown, path: &mut Vec<&'s str>) -> Vec<Line> {
        match value {
            Shown::Object(members) if !members.is_empty() => members
                .iter()
                .flat_map(|(key, member)| {
                    path.push(key);
                    let lines = self.lines(member, path);
                    path.pop();
                    under(key, lines, is_block(member))
                })
                .collect(),
            Shown::Array(items) if !items.is_empty() => items
                .iter()
                .flat_map(|item| {
                    let lines = self.lines(item, path).into_iter().enumerate();
                    lines.map(|(index, line)| line.after(if index == 0 { "- " } else { "  " }))
                })
                .collect(),
            _ => vec![Line { text: scalar(value), origin: Some(self.origin(path)) }],
        }
    }

    /// The origin of the value that the keys of `path` lead to.
    fn origin(&self, path: &[&str]) -> String {
        let (mut at, mut depth) = (&self.values, 0);
        for part in path {
            // A list, or a text from the environment, has all that is below it.
            let ValueKind::Table(table) = &at.kind else { break };
            let older = || OLDER.iter().find(|(name, _)| name == part).and_then(|(_, older)| table.get(*older));
            match table.get(*part).or_else(older) {
                Some(value) => (at, depth) = (value, depth + 1),
                None => return "default".into(),
            }
        }
        match at.origin() {
            Some("the environment") => {
                let path: Vec<String> = path.iter().take(depth).map(|part| part.to_uppercase()).collect();
                format!("BILLING__{}", path.join("__"))
            }
            Some(origin) if secret_files::is_key(origin) => origin.to_owned(),
            Some(_) => "file".into(),
            None => "default".into(),
        }
    }
}

impl Line {
    fn after(self, prefix: &str) -> Self {
        Self { text: format!("{prefix}{}", self.text), ..self }
    }
}

/// The lines of a member.
fn under(key: &str, lines: Vec<Line>, is_block: bool) -> Vec<Line> {
    let key = scalar(&key.into());
    if is_block {
        let head = Line { text: format!("{key}:"), origin: None };
        std::iter::once(head).chain(lines.into_iter().map(|line| line.after("  "))).collect()
    } else {
        lines.into_iter().map(|line| line.after(&format!("{key}: "))).collect()
    }
}

/// Whether a value takes lines of its own.
fn is_block(value: &Shown) -> bool {
    match value {
        Shown::Object(members) => !members.is_empty(),
        Shown::Array(items) => !items.is_empty(),
        _ => false,
    }
}

/// A value in one line. JSON is YAML too; plain texts go without quotes.
fn scalar(value: &Shown) -> String {
    match value {
        Shown::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether YAML reads a text without quotes as this text.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let is_number = text.parse::<f64>().is_ok() || text.starts_with("0x") || text.starts_with("0o");
    let starts = text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '/');
    let is_safe = |letter: char| letter.is_ascii_alphanumeric() || "_-./:@+()=&?%".contains(letter);
    starts
        && !is_number
        && text.chars().all(is_safe)
        && !text.ends_with(':')
        && !WORDS.contains(&text.to_lowercase().as_str())
}

/// The error of a key that has a text in place of another type, without the text, because it may be
/// a misplaced URL with a password.
fn without_text(why: String) -> String {
    let (Some(start), Some(end)) = (why.find("string \""), why.rfind("\", expected ")) else { return why };
    match (why.get(..start), why.get(end + 1..)) {
        (Some(before), Some(after)) if start < end => format!("{before}a text{after}"),
        _ => why,
    }
}
