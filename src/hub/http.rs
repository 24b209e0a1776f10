//! Requests to the hub: where they lead, what the answers mean. The token goes to the hub alone, not to where it
//! redirects. Every wait has an end. Knows nothing of models or caches.

use super::{Hub, HubError};
use serde::Deserialize;
use std::{io::Read, time::Duration};
use ureq::{Agent, Body, http::Response};

/// Longest wait for a connection, for an answer to begin, and between two parts of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Redirects that are followed.
const REDIRECTS: usize = 8;

/// Longest description of a model, in bytes.
const MAX_DESCRIPTION: u64 = 32 << 20;

/// A connection to the hub, to ask for one model.
pub(super) struct Http<'a> {
    agent: Agent,
    hub: &'a Hub,
    id: &'a str,
}

/// What the hub says of a model at some revision.
#[derive(Debug, Deserialize)]
pub(super) struct Description {
    /// The commit.
    pub sha: String,
    /// Its files.
    pub siblings: Vec<Sibling>,
}

/// A file of a model.
#[derive(Debug, Deserialize)]
pub(super) struct Sibling {
    #[serde(rename = "rfilename")]
    pub name: String,
    /// In bytes, where the hub says so.
    pub size: Option<u64>,
}

/// A file on its way.
pub(super) struct Download {
    /// Names the content: for large files their SHA-256.
    pub etag: String,
    response: Response<Body>,
}

impl<'a> Http<'a> {
    pub fn new(hub: &'a Hub, id: &'a str) -> Http<'a> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("satura/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(PATIENCE))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE));
        Http {
            agent: config.build().into(),
            hub,
            id,
        }
    }

    /// What the hub has at its revision.
    pub fn description(&self) -> Result<Description, HubError> {
        let revision = encoded(&self.hub.revision, "");
        let path = format!(
            "/api/models/{}/revision/{revision}?blobs=true",
            encoded(self.id, "/")
        );
        let (url, response) = self.follow(&path, 0)?.1;
        let answer = |why: String| self.answer(&url, why);
        let body = response.into_body().into_with_config();
        let text = body.limit(MAX_DESCRIPTION).read_to_vec();
        let text = text.map_err(|e| answer(e.to_string()))?;
        serde_json::from_slice(&text)
            .map_err(|e| answer(format!("answers what is no model's description: {e}")))
    }

    /// A file of a commit from byte `from` on, or from its beginning where [`Download::resumed`] says no.
    pub fn file(&self, commit: &str, name: &str, from: u64) -> Result<Download, HubError> {
        let (id, commit, name) = (
            encoded(self.id, "/"),
            encoded(commit, ""),
            encoded(name, "/"),
        );
        let path = format!("/{id}/resolve/{commit}/{name}");
        let (etag, (url, response)) = self.follow(&path, from)?;
        let etag = etag.filter(|etag| super::snapshot::is_word(etag));
        let etag = etag.ok_or_else(|| self.answer(&url, "gives no usable ETag".into()))?;
        Ok(Download { etag, response })
    }

    /// Asks, and asks where the answers lead, until one is no redirect; also gives the first ETag on the way, the hub's
    /// own before that of where it keeps its files.
    #[allow(
        clippy::type_complexity,
        reason = "what is found on the way, and the end of it"
    )]
    fn follow(
        &self,
        path: &str,
        from: u64,
    ) -> Result<(Option<String>, (String, Response<Body>)), HubError> {
        let mut url = format!("{}{path}", self.hub.endpoint);
        let mut etag = None;
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&url);
            let token = self.hub.token.as_deref();
            if let Some(token) = token.filter(|_| origin(&url) == origin(&self.hub.endpoint)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|e| HubError::Unreachable {
                id: self.id.into(),
                endpoint: origin(&url).into(),
                why: e.to_string(),
            })?;
            let header = |name: &str| response.headers().get(name)?.to_str().ok();
            if etag.is_none() {
                let found = header("x-linked-etag").or(header("etag"));
                etag = found.map(|e| e.trim_start_matches("W/").trim_matches('"').to_string());
            }
            match response.status().as_u16() {
                200 | 206 => return Ok((etag, (url, response))),
                // Nothing is left of what was asked for: the caller sees by the length.
                416 if from > 0 => return Ok((etag, (url, response))),
                301 | 302 | 303 | 307 | 308 => {
                    let to = header("location").unwrap_or_default();
                    let next = match to {
                        _ if to.starts_with("http://") || to.starts_with("https://") => to.into(),
                        _ if to.starts_with('/') => format!("{}{to}", origin(&url)),
                        _ => return Err(self.answer(&url, format!("redirects to {to:?}"))),
                    };
                    url = next;
                }
                status => return Err(self.refusal(&url, status, header("x-error-code"))),
            }
        }
        Err(self.answer(&url, format!("redirects more than {REDIRECTS} times")))
    }

    /// What a status other than success means, with the code that the hub sends beside it.
    fn refusal(&self, url: &str, status: u16, code: Option<&str>) -> HubError {
        let (id, endpoint) = (self.id.to_string(), self.hub.endpoint.clone());
        match (status, code) {
            (404, Some("RevisionNotFound")) => HubError::Revision {
                id,
                revision: self.hub.revision.clone(),
            },
            // Without a token, the hub does not say whether a private model is there.
            (401 | 404, Some("RepoNotFound")) | (404, None) => HubError::Absent { id, endpoint },
            (401 | 403, _) => HubError::Gated {
                id,
                endpoint,
                status,
                token: self.hub.token.is_some(),
            },
            _ => {
                let code = code.map(|code| format!(", {code}")).unwrap_or_default();
                self.answer(url, format!("answers with status {status}{code}"))
            }
        }
    }

    fn answer(&self, url: &str, why: String) -> HubError {
        HubError::Answer {
            id: self.id.into(),
            // Without what may be a secret: addresses of storage are signed.
            url: url.split('?').next().unwrap_or_default().into(),
            why,
        }
    }
}

impl Download {
    /// Whether it goes on from the byte that was asked for.
    pub fn resumed(&self) -> bool {
        matches!(self.response.status().as_u16(), 206 | 416)
    }

    /// Bytes of the whole file, where the answer says so.
    pub fn length(&self) -> Option<u64> {
        let header = |name: &str| self.response.headers().get(name)?.to_str().ok();
        match self.resumed() {
            true => header("content-range")?.rsplit('/').next()?.parse().ok(),
            false => header("content-length")?.parse().ok(),
        }
    }

    /// The bytes; none where nothing is left of the file.
    pub fn reader(self) -> Box<dyn Read> {
        match self.response.status().as_u16() {
            416 => Box::new(std::io::empty()),
            _ => Box::new(self.response.into_body().into_reader()),
        }
    }
}

/// `scheme://host:port` of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

/// Text as a part of an address: everything escaped but letters, digits, `-._~` and what is in `kept`.
fn encoded(text: &str, kept: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || kept.contains(c) {
            out.push(c);
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}
