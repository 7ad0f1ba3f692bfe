//! The configuration file. A file that loads also prints, without its secrets.

use std::{
    fs::File,
    io::{Seek, Write},
    sync::{LazyLock, Mutex},
};

use billing_service::config::{Loaded, Secret};
use tempfile::NamedTempFile;

/// Fewest letters of a secret that no other text has by chance.
const LONG: usize = 8;

/// The input is the content of the file.
pub fn run(data: &[u8]) {
    static FILE: LazyLock<Mutex<NamedTempFile>> =
        LazyLock::new(|| Mutex::new(NamedTempFile::new().expect("a temporary file")));
    let mut file = FILE.lock().expect("no panic before");
    fill(file.as_file_mut(), data).expect("a temporary file can be written");
    let Ok(loaded) = Loaded::load(file.path()) else { return };
    let printed = loaded.to_yaml().expect("a configuration that loads");
    let server = &loaded.config.server;
    let jwt = server.http.auth.jwt.as_ref().and_then(|jwt| jwt.secret.as_ref());
    let text = String::from_utf8_lossy(data);
    for secret in server.grpc.internal_tokens.iter().chain(jwt).map(Secret::reveal) {
        // A secret that is also the value of another key is printed there.
        let is_elsewhere = text.matches(secret).count() != 1 || secret.len() < LONG;
        assert!(is_elsewhere || !printed.contains(secret), "the secret {secret:?} is in:\n{printed}");
    }
}

fn fill(file: &mut File, data: &[u8]) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(data)
}
