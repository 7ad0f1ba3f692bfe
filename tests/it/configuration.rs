//! `--print-config` and `--check-config`, and the files in a configuration.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Output,
};

use rstest::rstest;

use crate::harness::{
    Database, Service, Sqlite, charge,
    process::{CRON, SERVER, ServerProcess, run},
};

const CONFIGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs");

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[rstest]
fn a_configuration_is_printed_and_checked_without_a_start(#[values(SERVER, CRON)] binary: &str) {
    let conf = format!("{CONFIGS}/config.yaml");
    let environment = [("BILLING__DATA__DATABASE__SOURCE", "u:PW@tcp(127.0.0.1:1)/b")];
    let printed = run(binary, &["-conf", &conf, "--print-config"], &environment);
    let (out, err) = texts(&printed);
    assert_eq!(printed.status.code(), Some(0), "{err}");
    assert!(out.starts_with(&format!("# file: {conf}\n")), "{out}");
    assert!(out.contains("\"u:***@tcp(127.0.0.1:1)/b\"  # BILLING__DATA__DATABASE__SOURCE\n"), "{out}");
    assert!(out.contains("    max_connections: 16  # default\n") && !out.contains("PW"), "{out}");

    let checked = run(binary, &["-conf", &conf, "--check-config"], &environment);
    assert_eq!((checked.status.code(), texts(&checked).0), (Some(0), format!("{conf} is valid\n")));
    let bad = [("BILLING__DATA__DATABASE__SOURCE", "u:PW@nowhere")];
    for flag in ["--check-config", "--print-config"] {
        let refused = run(binary, &["-conf", &conf, flag], &bad);
        let (out, err) = texts(&refused);
        assert_eq!((refused.status.code(), &*out), (Some(1), ""), "{err}");
        assert!(err.contains("config key data.database.source") && !err.contains("PW"), "{err}");
    }
}

#[tokio::test]
async fn a_secret_file_that_others_can_read_is_a_warning_at_the_start() {
    let database = Database::create(Sqlite).await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("tokens");
    fs::write(&secret, "a-token-of-an-admin\n").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
    let file = secret.display().to_string();
    let conf = database.config_file(&[("server.grpc.internal_tokens_file", &file)]);
    let checked = run(SERVER, &["-conf", conf.to_str().unwrap(), "--check-config"], &[]);
    let (_, err) = texts(&checked);
    assert_eq!(checked.status.code(), Some(0), "{err}");
    assert!(err.contains("server.grpc.internal_tokens_file: others than its owner can read"), "{err}");

    let server = ServerProcess::start(&conf);
    let get = |token: &str| {
        let request =
            crate::harness::http_client().get(format!("{}/internal/v1/billing/transactions/u/t", server.grpc));
        request.bearer_auth(token).send()
    };
    assert_ne!(get("a-token-of-an-admin").await.unwrap().status(), 401);
    assert_eq!(get("a-token-of-a-stranger").await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_bad_file_for_outgoing_tls_is_an_error_that_names_its_key() {
    let database = Database::create(Sqlite).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let pair = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(["a".to_owned()]).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    };
    let (pair, other) = (pair(), pair());
    let (cert, key, others) = (file("cert", &pair.0), file("key", &pair.1), file("others", &other.1));
    let (empty, text) = (file("empty", ""), file("text", "PW"));
    let missing = folder.path().join("missing").display().to_string();
    for (keys, named) in [
        (vec![("tls", "true"), ("ca_file", &*missing)], "ca_file"),
        (vec![("tls", "true"), ("ca_file", &*empty)], "ca_file"),
        (vec![("tls", "true"), ("ca_file", &*text)], "ca_file"),
        (vec![("tls", "true"), ("ca_file", &*key)], "ca_file"),
        (vec![("ca_file", &*cert)], "tls"),
        (vec![("tls", "true"), ("ca_file", &*cert), ("cert_file", &*cert)], "cert_file"),
        (vec![("tls", "true"), ("ca_file", &*cert), ("key_file", &*key)], "key_file"),
        (vec![("tls", "true"), ("ca_file", &*cert), ("cert_file", &*text), ("key_file", &*key)], "cert_file"),
        (vec![("tls", "true"), ("ca_file", &*cert), ("cert_file", &*cert), ("key_file", &*others)], "key_file"),
        (vec![("tls", "true"), ("ca_file", &*cert), ("cert_file", &*cert), ("key_file", &*cert)], "key_file"),
        // No authorities of the system.
        (vec![("tls", "true")], "tls"),
    ] {
        for (section, needed) in [("data.redis", "addr"), ("payment_service", "grpc_addr")] {
            let dotted: Vec<_> = keys.iter().map(|(name, value)| (format!("{section}.{name}"), *value)).collect();
            let needed = format!("{section}.{needed}");
            let mut changes = vec![(&*needed, "'127.0.0.1:1'")];
            changes.extend(dotted.iter().map(|(name, value)| (&**name, *value)));
            let conf = database.config_file(&changes);
            let arguments = ["-conf", conf.to_str().unwrap(), "--check-config"];
            let refused = run(SERVER, &arguments, &[("SSL_CERT_FILE", &*empty), ("SSL_CERT_DIR", "")]);
            let (_, err) = texts(&refused);
            assert_eq!(refused.status.code(), Some(1), "{keys:?}");
            assert!(err.contains(&format!("config key {section}.{named}: ")) && !err.contains("PW"), "{keys:?}: {err}");
        }
    }
    for (tls, keys, named) in [
        ("custom", vec![], "ca_file"),
        ("true", vec![("data.database.ca_file", &*cert)], "ca_file"),
        ("preferred", vec![("data.database.ca_file", &*cert)], "ca_file"),
        ("skip-verify", vec![("data.database.cert_file", &*cert), ("data.database.key_file", &*key)], "cert_file"),
        ("true", vec![], "source"),
        ("maybe", vec![], "source"),
    ] {
        let database = Database::on(format!("u@tcp(127.0.0.1:1)/b?tls={tls}"));
        let conf = database.config_file(&keys);
        let arguments = ["-conf", conf.to_str().unwrap(), "--check-config"];
        let refused = run(SERVER, &arguments, &[("SSL_CERT_FILE", &*empty), ("SSL_CERT_DIR", "")]);
        let (_, err) = texts(&refused);
        assert_eq!(refused.status.code(), Some(1), "{tls} {keys:?}");
        assert!(err.contains(&format!("config key data.database.{named}: ")), "{tls} {keys:?}: {err}");
    }
}

#[tokio::test]
async fn only_their_owner_can_read_the_files_of_a_new_database() {
    let database = Database::empty(Sqlite).await;
    let file = database.source.clone();
    let folder = std::path::Path::new(&file).parent().unwrap();
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let service = Service::start_on(database, &[]).await;
    service.deduct(charge("u", "asset", 1)).await;
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(&format!("{file}{suffix}")), 0o600, "{suffix}");
    }
    assert_eq!(mode(&folder.display().to_string()), 0o755);
}
