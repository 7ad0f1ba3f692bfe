//! A real browser: headless Chromium, driven by the WebDriver protocol.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::private_server::needs_installed;

/// The name that the protocol gives to references of elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A window. Dropping it closes the window and the browser.
pub struct Browser {
    /// chromedriver and its browser share a process group.
    driver: Child,
    /// A folder for the temporary files of the browser.
    _folder: tempfile::TempDir,
    session: String,
    http: reqwest::Client,
}

impl Browser {
    /// Opens a window with the size of a phone.
    pub async fn open() -> Self {
        needs_installed("chromedriver");
        let folder = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("TMPDIR", folder.path())
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver runs; `make deps` installs it");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = tokio::task::spawn_blocking(move || {
            let said = |line: String| line.rsplit_once("successfully on port ").map(|(_, port)| port.to_owned());
            lines.map_while(Result::ok).find_map(said).expect("chromedriver logs its port")
        });
        let driver_url = format!("http://127.0.0.1:{}", port.await.unwrap().trim_end_matches('.'));
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=480,640"];
        let options = json!({"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}});
        let mut browser = Self { driver, _folder: folder, session: String::new(), http: reqwest::Client::new() };
        let body = json!({"capabilities": {"alwaysMatch": options}});
        let begun = browser.send(reqwest::Method::POST, &format!("{driver_url}/session"), body).await;
        browser.session = format!("{driver_url}/session/{}", begun["sessionId"].as_str().unwrap());
        browser
    }

    pub async fn go_to(&self, url: &str) {
        self.post("url", json!({"url": url})).await;
    }

    /// Clicks the element of a CSS selector.
    pub async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.post(&format!("element/{element}/click"), json!({})).await;
    }

    /// Replaces the text of a field.
    pub async fn fill(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.post(&format!("element/{element}/clear"), json!({})).await;
        self.post(&format!("element/{element}/value"), json!({"text": text})).await;
    }

    /// The visible text of an element.
    pub async fn text(&self, selector: &str) -> String {
        let element = self.find(selector).await;
        let text = self.get(&format!("element/{element}/text")).await;
        text.as_str().unwrap().to_owned()
    }

    pub async fn has(&self, selector: &str) -> bool {
        let found = self.post("elements", json!({"using": "css selector", "value": selector})).await;
        !found.as_array().unwrap().is_empty()
    }

    /// Saves a picture of the window in the folder that `BILLING_SCREENSHOTS` names, if it is set.
    pub async fn screenshot(&self, name: &str) {
        let Some(folder) = std::env::var_os("BILLING_SCREENSHOTS") else { return };
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(Path::new(&folder).join(name), self.picture().await).unwrap();
    }

    /// A picture of the window, as PNG.
    pub async fn picture(&self) -> Vec<u8> {
        BASE64_STANDARD.decode(self.get("screenshot").await.as_str().unwrap()).unwrap()
    }

    /// The result of a script. It runs beside the scripts of the page, whose policy does not count for it.
    pub async fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []})).await
    }

    /// As [`Self::run`], for a script that calls back with its result: `arguments[0](result)`.
    pub async fn run_and_wait(&self, script: &str) -> Value {
        self.post("execute/async", json!({"script": script, "args": []})).await
    }

    /// A command of the protocol of Chromium's own tools.
    pub async fn command(&self, name: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({"cmd": name, "params": parameters})).await
    }

    /// Sets the size of the window and the colour scheme.
    pub async fn look(&self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.command("Emulation.setDeviceMetricsOverride", size).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.command("Emulation.setEmulatedMedia", features).await;
    }

    /// Presses a key, such as `\u{e004}` for Tab.
    pub async fn press(&self, key: &str) {
        let actions = [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        self.post("actions", json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})).await;
    }

    /// The errors in the log of the browser since the last call, such as a violated policy.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.post("se/log", json!({"type": "browser"})).await;
        let severe = log.as_array().unwrap().iter().filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    async fn find(&self, selector: &str) -> String {
        let found = self.post("element", json!({"using": "css selector", "value": selector})).await;
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    async fn get(&self, path: &str) -> Value {
        self.send(reqwest::Method::GET, &format!("{}/{path}", self.session), Value::Null).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.send(reqwest::Method::POST, &format!("{}/{path}", self.session), body).await
    }

    async fn send(&self, method: reqwest::Method, url: &str, body: Value) -> Value {
        let mut request = self.http.request(method, url).timeout(std::time::Duration::from_secs(60));
        if !body.is_null() {
            request = request.json(&body);
        }
        let reply: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(reply["value"]["error"].is_null(), "{url}: {reply}");
        reply["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = format!("-{}", self.driver.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.driver.wait();
    }
}
