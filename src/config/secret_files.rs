//! Secrets from files: beside each key with a secret, a key with `_file` names a file that has it.

use std::{fs::File, io::Read, os::unix::fs::PermissionsExt};

use anyhow::{Context, bail};
use config::{Map, Value, ValueKind};

/// Size limit of a file.
const MAX_BYTES: u64 = 64 * 1024;
/// The permissions to read a file for others than its owner.
const READABLE_BY_OTHERS: u32 = 0o044;

/// The form of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    One,
    /// One in each line.
    Several,
}

/// Every key that has a secret. A test finds a key that is not here.
const KEYS: [(&str, Form); 8] = [
    ("billing.webhooks.key", Form::One),
    ("billing.webhooks.old_keys", Form::Several),
    ("console.key", Form::One),
    ("data.database.source", Form::One),
    ("data.redis.password", Form::One),
    ("payment_service.callback_secrets", Form::Several),
    ("server.grpc.internal_tokens", Form::Several),
    ("server.http.auth.jwt.secret", Form::One),
];

/// Puts the secrets of all files into `values`. Returns warnings for the operator.
///
/// # Errors
/// The key and the defect of its file, without the content.
pub(super) fn read(values: &mut Value) -> anyhow::Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (key, form) in KEYS {
        let Some((section, name)) = key.rsplit_once('.') else { continue };
        let file_key = format!("{key}_file");
        let Some(section) = section_of(values, section) else { continue };
        let path = match section.get(&format!("{name}_file")).map(|value| &value.kind) {
            None | Some(ValueKind::Nil) => continue,
            Some(ValueKind::String(path)) => path.clone(),
            Some(_) => bail!("config key {file_key}: must be the path of a file"),
        };
        if section.get(name).is_some_and(|value| value.kind != ValueKind::Nil) {
            bail!("config key {file_key}: {key} is set too; set one of them");
        }
        let (secret, mode) = read_file(&path).with_context(|| format!("config key {file_key}"))?;
        if mode & READABLE_BY_OTHERS != 0 {
            let mode = mode & 0o777;
            warnings.push(format!(
                "config key {file_key}: others than its owner can read {path} (mode {mode:04o}); chmod 600 closes it"
            ));
        }
        let secret = match form {
            Form::One => ValueKind::String(secret),
            Form::Several => {
                ValueKind::Array(secret.lines().map(|line| Value::new(Some(&file_key), line.to_owned())).collect())
            }
        };
        section.insert(name.to_owned(), Value::new(Some(&file_key), secret));
    }
    Ok(warnings)
}

/// The key that the operator gave for the secret of `key`: `key` itself, or the one of its file.
pub(super) fn given_key(values: &Value, key: &str) -> String {
    let is_from_file = || {
        let (section, name) = key.rsplit_once('.')?;
        let section = section.split('.').try_fold(values, |value, part| match &value.kind {
            ValueKind::Table(table) => table.get(part),
            _ => None,
        })?;
        let ValueKind::Table(section) = &section.kind else { return None };
        section.get(name)?.origin().filter(|origin| *origin == format!("{key}_file")).map(str::to_owned)
    };
    is_from_file().unwrap_or_else(|| key.to_owned())
}

fn section_of<'v>(values: &'v mut Value, path: &str) -> Option<&'v mut Map<String, Value>> {
    let section = path.split('.').try_fold(values, |value, part| match &mut value.kind {
        ValueKind::Table(table) => table.get_mut(part),
        _ => None,
    })?;
    match &mut section.kind {
        ValueKind::Table(table) => Some(table),
        _ => None,
    }
}

/// The text of a file without its last line break, and the permissions of the file.
fn read_file(path: &str) -> anyhow::Result<(String, u32)> {
    let file = File::open(path).with_context(|| format!("can't open {path}"))?;
    let metadata = file.metadata().with_context(|| format!("can't read {path}"))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("can't read {path}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{path} has more than {} KiB", MAX_BYTES / 1024);
    }
    // The error of the conversion would have the bytes.
    let Ok(text) = String::from_utf8(bytes) else { bail!("{path} is not a text in UTF-8") };
    let text = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    if text.is_empty() {
        bail!("{path} is empty");
    }
    Ok((text.to_owned(), metadata.permissions().mode()))
}

/// Whether `key` names the file of a secret.
pub(super) fn is_key(key: &str) -> bool {
    key.strip_suffix("_file").is_some_and(|key| KEYS.iter().any(|(secret, _)| *secret == key))
}

#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(key, _)| *key)
}
