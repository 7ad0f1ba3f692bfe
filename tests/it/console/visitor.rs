//! A browser without a screen: it keeps cookies, follows nothing by itself, and sends the proof of forms.

use std::{cell::RefCell, collections::BTreeMap};

use reqwest::{
    Method, Response,
    header::{HeaderMap, LOCATION, SET_COOKIE},
    redirect::Policy,
};

use crate::harness::Service;

fn unescaped(text: &str) -> String {
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

/// An answer.
pub struct Shown {
    pub status: u16,
    pub headers: HeaderMap,
    pub html: String,
}

impl Shown {
    async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, html: response.text().await.unwrap() }
    }

    /// The texts without their tags, with one blank between two.
    pub fn text(&self) -> String {
        let parts = self.html.split('<').filter_map(|part| part.split_once('>').map(|(_, text)| text));
        let text = parts.collect::<Vec<_>>().join(" ");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The values of attributes of that name.
    pub fn attributes(&self, name: &str) -> Vec<String> {
        let begin = format!(" {name}=\"");
        let values = self.html.split(&begin).skip(1).map(|rest| rest.split('"').next().unwrap());
        values.map(|value| value.replace("&amp;", "&")).collect()
    }

    /// The hidden fields of the form that sends to `action`.
    pub fn hidden(&self, action: &str) -> BTreeMap<String, String> {
        let form = self.html.split("<form").find(|form| form.contains(&format!("action=\"{action}")));
        let form = form.unwrap_or_else(|| panic!("no form sends to {action}: {}", self.html));
        let inputs = form.split("</form>").next().unwrap().split("<input type=\"hidden\"").skip(1);
        let value =
            |input: &str, name: &str| input.split(&format!("{name}=\"")).nth(1)?.split('"').next().map(str::to_owned);
        inputs.map(|input| (value(input, "name").unwrap(), unescaped(&value(input, "value").unwrap()))).collect()
    }
}

pub struct Visitor {
    base: String,
    http: reqwest::Client,
    cookies: RefCell<BTreeMap<String, String>>,
    /// Headers of every request.
    headers: Vec<(&'static str, String)>,
}

impl Visitor {
    pub fn of(service: &Service) -> Self {
        let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
        Self {
            base: format!("http://{}", service.app.http_addr),
            http,
            cookies: RefCell::default(),
            headers: Vec::new(),
        }
    }

    /// At the internal port.
    pub fn of_operators(service: &Service) -> Self {
        Self { base: format!("http://{}", service.app.grpc_addr), ..Self::of(service) }
    }

    pub fn set_cookie(&self, name: &str, value: &str) {
        self.cookies.borrow_mut().insert(name.into(), value.into());
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The same browser at another server.
    pub fn at(&self, service: &Service) -> Self {
        Self { cookies: self.cookies.clone(), headers: self.headers.clone(), ..Self::of(service) }
    }

    pub fn cookie(&self, name: &str) -> Option<String> {
        self.cookies.borrow().get(name).cloned()
    }

    pub async fn get(&self, path: &str) -> Shown {
        self.send(Method::GET, path, &[], None).await
    }

    /// As [`Self::get`], with the header that browsers send when a page of another site leads on.
    pub async fn get_from_elsewhere(&self, path: &str) -> Shown {
        self.send(Method::GET, path, &[("sec-fetch-site", "cross-site")], None).await
    }

    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Shown {
        self.post_with(path, &[], fields).await
    }

    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], fields: &[(&str, &str)]) -> Shown {
        let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        self.send(Method::POST, path, headers, Some(body.join("&"))).await
    }

    /// Reads a page, and sends its form with these fields beside the hidden ones.
    pub async fn submit(&self, page: &str, action: &str, fields: &[(&str, &str)]) -> Shown {
        let hidden = self.get(page).await.hidden(action);
        let hidden = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let fields: Vec<_> = hidden
            .filter(|(name, _)| !fields.iter().any(|(own, _)| own == name))
            .chain(fields.iter().copied())
            .collect();
        self.post(action, &fields).await
    }

    /// Signs in on a page that asks for it. Returns the page that follows.
    pub async fn sign_in(&self, token: &str) -> Shown {
        let asked = self.submit("/console", "/console/sign-in", &[("token", token)]).await;
        assert_eq!(asked.status, 303, "{}", asked.html);
        self.get(asked.header(LOCATION.as_str())).await
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<String>) -> Shown {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        for (name, value) in
            self.headers.iter().map(|(name, value)| (*name, value.as_str())).chain(headers.iter().copied())
        {
            request = request.header(name, value);
        }
        let cookies: Vec<_> = self.cookies.borrow().iter().map(|(name, value)| format!("{name}={value}")).collect();
        // A page of another site: browsers keep strict cookies to themselves.
        if !cookies.is_empty() && !headers.contains(&("sec-fetch-site", "cross-site")) {
            request = request.header("cookie", cookies.join("; "));
        }
        if let Some(body) = body {
            if !headers.iter().any(|(name, _)| *name == "origin") {
                request = request.header("origin", &self.base);
            }
            request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
        }
        let response = request.send().await.unwrap();
        for cookie in response.headers().get_all(SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            let (pair, attributes) = cookie.split_once("; ").unwrap();
            assert!(attributes.starts_with("Path=/console; HttpOnly; SameSite=Strict; Max-Age="), "{attributes}");
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.cookies.borrow_mut().remove(name);
            } else {
                self.cookies.borrow_mut().insert(name.into(), value.into());
            }
        }
        Shown::of(response).await
    }
}
