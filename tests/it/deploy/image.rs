//! The Dockerfile. Its final stage is the folder that deploy/rootfs.sh makes, and nothing else, so that a
//! server in such a folder is a server in the image.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use serde_json::json;

use super::{at, port, root, text, yaml};
use crate::harness::{
    http_client,
    private_server::free_port,
    process::{SERVER, ServerProcess, run},
};

const USER: &str = "65532:65532";
/// The programs aside, the image has the C library and the authorities.
const MAX_FILES: u64 = 10 * 1024 * 1024;

/// The instructions of a Dockerfile, as (instruction, arguments).
fn instructions() -> Vec<(String, String)> {
    let text = text("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, arguments) = line.split_once(' ').unwrap();
            (name.to_owned(), arguments.split_whitespace().collect::<Vec<_>>().join(" "))
        })
        .collect()
}

/// The programs with their ports by default, in the order of the stages. The last one is the default.
const IMAGES: [(&str, &str); 3] = [("payment-sandbox", "9101"), ("cron", "9207"), ("server", "8107 9107")];

#[test]
fn each_final_stage_is_the_folder_of_the_script_and_runs_as_its_user() {
    let all = instructions();
    let stages: Vec<&[(String, String)]> = all.split_inclusive(|(name, _)| name == "CMD").collect();
    assert_eq!(stages.len(), IMAGES.len());
    let build = stages[0].split(|(_, arguments)| arguments.starts_with("scratch")).next().unwrap();
    let scripts =
        IMAGES.map(|(name, _)| format!(" && deploy/rootfs.sh target/release/{name} /rootfs/{name} 60")).concat();
    let makes = ("RUN".to_owned(), format!("cargo build --release --locked --bins{scripts}"));
    assert!(build.contains(&makes), "{build:?}");
    for ((name, ports), stage) in IMAGES.iter().zip(stages) {
        let begin = stage.iter().rposition(|(name, _)| name == "FROM").unwrap();
        let stage = &stage[begin..];
        let is = |name: &str, arguments: &str| stage.contains(&(name.to_owned(), arguments.to_owned()));
        assert!(is("FROM", &format!("scratch AS {name}")) && is("USER", USER) && is("EXPOSE", ports), "{stage:?}");
        assert!(is("ENTRYPOINT", &format!("[\"/bin/{name}\"]")), "{stage:?}");
        assert!(is("CMD", r#"["-conf", "/etc/billing/config.yaml"]"#), "{stage:?}");
        let copies: Vec<_> = stage.iter().filter(|(name, _)| ["COPY", "ADD"].contains(&&**name)).collect();
        assert_eq!(copies, [&("COPY".to_owned(), format!("--from=build /rootfs/{name} /"))]);
    }
    let conf = yaml("configs/config.yaml", &text("configs/config.yaml")).remove(0);
    let ports = ["server.http.addr", "server.grpc.addr"].map(|key| port(at(&conf, key).as_str().unwrap()).to_owned());
    assert_eq!(ports.join(" "), IMAGES[2].1);
    // The compiler is the one that Cargo.toml asks for.
    let cargo = text("Cargo.toml");
    let version = cargo.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(build[0].1.starts_with(&format!("rust:{version}-")), "{build:?}");
}

/// The bytes of all files below a folder.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| match fs::symlink_metadata(&path).unwrap() {
            metadata if metadata.is_dir() => size(&path),
            metadata => metadata.len(),
        })
        .sum()
}

/// Whether this process may change its root. Elsewhere the test says so and ends.
fn may_change_root() -> bool {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let can = is_root && Command::new("chroot").args(["/", "/bin/true"]).status().is_ok_and(|status| status.success());
    if !can {
        eprintln!("needs the rights of root; skipped");
    }
    can
}

/// The root file system of an image with a program of this build.
fn image_of(program: &str, root_folder: &Path) {
    let program = Path::new(SERVER).with_file_name(program);
    let made = Command::new(root().join("deploy/rootfs.sh")).arg(program).arg(root_folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let files = size(root_folder) - size(&root_folder.join("bin"));
    assert!(files < MAX_FILES, "{files} bytes");
}

/// The arguments of `chroot` that run a program of an image.
fn inside(image: &Path, program: &str) -> Vec<String> {
    let image = image.display().to_string();
    let program = format!("/bin/{program}");
    vec![format!("--userspec={USER}"), image, program, "-conf".into(), "/etc/billing/config.yaml".into()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_each_image_start_its_program() {
    if !may_change_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let images = IMAGES.map(|(name, _)| folder.path().join(name));
    let conf = json!({
        "environment": "development",
        "server": {"http": {"addr": "127.0.0.1:0"}, "grpc": {"addr": "127.0.0.1:0"}},
        "data": {"database": {"driver": "sqlite", "source": "/data/billing.db"}},
        "billing": {"prices": {"asset": 0.05}, "free_quotas": {"asset": 1000}},
        "payment_service": {"grpc_addr": format!("127.0.0.1:{}", free_port())},
        "log": {"format": "json"},
    });
    for ((name, _), image) in IMAGES.iter().zip(&images) {
        image_of(name, image);
        // JSON is YAML.
        fs::write(image.join("etc/billing/config.yaml"), conf.to_string()).unwrap();
    }
    let [sandbox, cron, server] = images;
    let small = folder.path().join("small");
    let small = Command::new(root().join("deploy/rootfs.sh")).arg(SERVER).arg(small).arg("1").output().unwrap();
    assert!(String::from_utf8_lossy(&small.stderr).contains("must be smaller than 1 MB"), "{small:?}");

    let arguments = inside(&server, "server");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let running = ServerProcess::start_binary("chroot", &arguments, "serving", "grpc_addr");
    let charge = json!({"user_id": "u", "service_name": "asset", "count": 5, "trace_id": "t"});
    let charged = http_client().post(format!("{}/internal/v1/billing/deduct", running.grpc)).body(charge.to_string());
    let reply: serde_json::Value = charged.send().await.unwrap().json().await.unwrap();
    assert_eq!(reply["free_remaining"], 995, "{reply}");
    running.terminate();
    assert_eq!(running.wait(), Some(0));

    fs::copy(server.join("data/billing.db"), cron.join("data/billing.db")).unwrap();
    let owned = Command::new("chown").arg(USER).arg(cron.join("data/billing.db")).status().unwrap();
    assert!(owned.success());
    let audit = [inside(&cron, "cron"), vec!["--once".into(), "audit".into()]].concat();
    let audit: Vec<&str> = audit.iter().map(String::as_str).collect();
    let audited = run("chroot", &audit, &[]);
    assert_eq!(String::from_utf8_lossy(&audited.stdout), "audit: 1 user, 0 differences\n", "{audited:?}");

    let arguments = inside(&sandbox, "payment-sandbox");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let running = ServerProcess::start_binary("chroot", &arguments, "payment-sandbox serving", "addr");
    running.terminate();
    assert_eq!(running.wait(), Some(0));
}
