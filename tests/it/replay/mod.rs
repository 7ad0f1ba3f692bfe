//! Every `console` block of README.md and docs/ is replayed, in order, against a server that was started
//! as `make run` starts it. `make examples` writes the replies of such a run into the documents.

mod blocks;
mod shell;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use self::{
    blocks::{Step, is_as_documented, steps},
    shell::{Server, Shell},
};
use crate::harness::{
    private_server::needs_installed,
    process::{CRON, SERVER},
    wait::until,
};

/// With this variable, replies that differ go into the documents.
const WRITE: &str = "BILLING_WRITE_EXAMPLES";
/// The billing zone of configs/local.yaml.
const ZONE: &str = "CST-8";
/// A session that crosses midnight is replayed once more.
const ATTEMPTS: usize = 2;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md, then docs/api.md, which goes on from it, then the rest.
fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut rest: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect();
    let api = root().join("docs/api.md");
    rest.retain(|path| *path != api);
    rest.sort();
    [root().join("README.md"), api, root().join("CONTRIBUTING.md")].into_iter().chain(rest).collect()
}

/// The folder in which a reader types: the programs in bin/, and the files of the repository.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("bin")).unwrap();
    for (name, program) in [("server", SERVER), ("cron", CRON)] {
        symlink(program, path.join("bin").join(name)).unwrap();
    }
    for name in ["configs", "examples"] {
        symlink(root().join(name), path.join(name)).unwrap();
    }
    // A list as LiteLLM publishes it.
    fs::copy(root().join("tests/fixtures/model_prices.json"), path.join("model_prices.json")).unwrap();
    folder
}

fn today() -> String {
    let output = Command::new("date").arg("+%F").env("TZ", ZONE).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The replies that differ, by document.
async fn replay(all: &[Step], writes: bool) -> Vec<(usize, String)> {
    let folder = folder();
    let server = Server::start(folder.path());
    let mut shell = Shell::start(folder.path(), &server);
    let mut differing = Vec::new();
    for (index, step) in all.iter().enumerate() {
        let is_right = |got: &str| is_as_documented(got, &step.reply);
        let mut got = shell.run(&step.command);
        if step.only_reads() && writes {
            // A callback of the sandbox may be under way.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            got = shell.run(&step.command);
        } else if step.only_reads() && !is_right(&got) {
            let mut last = got.clone();
            let settled = async {
                until("the reply is that of the document", async || {
                    last = shell.run(&step.command);
                    is_right(&last)
                })
                .await;
            };
            if tokio::time::timeout(shell::SETTLES, settled).await.is_ok() {
                continue;
            }
            got = last;
        }
        if !is_right(&got) {
            differing.push((index, got));
        }
    }
    differing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_console_block_of_the_documents_is_replayed_on_a_new_server() {
    needs_installed("curl");
    let writes = std::env::var_os(WRITE).is_some();
    let all: Vec<Step> = documents().iter().flat_map(|document| steps(document)).collect();
    assert!(all.len() > 50, "the blocks have another form: {}", all.len());
    let mut differing = Vec::new();
    for _ in 0..ATTEMPTS {
        let day = today();
        differing = replay(&all, writes).await;
        if day == today() {
            break;
        }
    }
    if writes {
        blocks::write(&all, &differing);
        return;
    }
    let shown = differing.iter().map(|(index, got)| {
        let Step { document, line, command, reply, .. } = &all[*index];
        format!("{}:{line}: {command}\nin the document:\n{reply}\nnow:\n{got}", document.display())
    });
    let shown: Vec<String> = shown.collect();
    assert!(shown.is_empty(), "`make examples` writes the new replies:\n{}", shown.join("\n\n"));
}

#[test]
fn replies_differ_in_everything_but_ids_and_times() {
    use blocks::shape;
    let shaped = r#"{"id":"01a1fdc0-db6d-77eb-953c-86aecbccde43","at":"2026-11-21T14:30:21.241383Z","month":"2026-11","amount":0.5}"#;
    let other =
        shaped.replace("01a1fdc0", "01a1fdc1").replace("21.241383Z", "59Z").replace("\"2026-11\"", "\"2027-01\"");
    assert_eq!(shape(shaped), shape(&other));
    for (from, to) in [("0.5", "0.6"), ("amount", "amounts"), ("2026-11\"", "2026\""), ("01a1fdc0-", "")] {
        assert_ne!(shape(shaped), shape(&shaped.replace(from, to)), "{from}");
    }
}
