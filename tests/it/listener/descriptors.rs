//! Processes with a low limit of open files.

use std::{net::SocketAddr, process::Command};

use tokio::net::TcpStream;

use crate::harness::{
    Database, Sqlite, http_client,
    process::{SERVER, ServerProcess},
    wait::soon,
};

const TOO_LOW: &str = "server.limits.connections needs more open files than the hard limit (ulimit -Hn); each port takes fewer connections";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_port_leaves_descriptors_for_the_other_and_for_health() {
    let database = Database::create(Sqlite).await;
    let conf = database.config_file(&[("server.limits.connections_per_address", "10000")]);
    let (server, mut log) = ServerProcess::start_logged_with_files(&conf, 600);
    let serving = log.line(|line| line["fields"]["message"] == "serving");
    let http: SocketAddr = serving["fields"]["http_addr"].as_str().unwrap().parse().unwrap();
    // More connections than the process may open.
    let mut silent = Vec::new();
    for _ in 0..700 {
        silent.push(TcpStream::connect(http).await.unwrap());
    }
    let client = http_client();
    for url in [format!("http://{http}/health"), format!("{}/health", server.grpc), format!("{}/ready", server.grpc)] {
        // `soon`, because a server without descriptors leaves the connection in the queue of the kernel.
        assert_eq!(soon(client.get(&url).send()).await.unwrap().status(), 200, "{url}");
    }
    let body = r#"{"user_id":"u","service_name":"asset","count":1}"#;
    let url = format!("{}/internal/v1/billing/check", server.grpc);
    let checked = soon(client.post(url).body(body).send()).await.unwrap();
    assert!(checked.status() == 200, "{checked:?}");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_open_files_that_is_too_low_is_reported() {
    let database = Database::create(Sqlite).await;
    let conf = database.config_file(&[]);
    let limited = |files: u32| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files}; exec \"$@\""), "sh", SERVER, "-conf"]).arg(&conf);
        command
    };
    let refused = limited(200).output().unwrap();
    assert!(!refused.status.success());
    let says = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(says.contains("config key server.limits.connections") && says.contains("200 files"), "{says}");

    // The server raises a low soft limit.
    let conf = database.config_file(&[("server.limits.connections", "300")]);
    let (server, mut log) = ServerProcess::start_logged_by(&conf, "ulimit -Sn 200");
    log.line(|line| line["fields"]["message"] == "serving");
    assert_eq!(log.count(|line| line["fields"]["message"] == TOO_LOW), 0);
    assert_eq!(reqwest::get(format!("{}/health", server.grpc)).await.unwrap().status(), 200);
    drop(server);
    let (_server, mut log) = ServerProcess::start_logged_with_files(&conf, 600);
    log.line(|line| line["fields"]["message"] == TOO_LOW);
}
