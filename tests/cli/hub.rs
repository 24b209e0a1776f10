//! Models of the hub, from a server of its kind on this machine: what is fetched and what is not, the cache that is
//! shared with Python's, and what is said where a model is not to be had.

use super::{Case, Run, command, copy, edit, fixture, text};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server treats its model.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Open,
    /// 403 for files, as for those who have not accepted its terms.
    Gated,
    /// The weights end too early.
    Short,
    /// The weights are others than announced, of the same length.
    Other,
}

/// A hub of one model, `org/tiny`, whose weights lie on another server, as the hub's do.
struct Server {
    endpoint: String,
    /// `path`, then what there was of ` [token]` and ` [range]`.
    asked: Arc<Mutex<Vec<String>>>,
    manner: Arc<Mutex<Manner>>,
}

impl Server {
    fn new(model: &Path) -> Server {
        let asked = Arc::new(Mutex::new(vec![]));
        let manner = Arc::new(Mutex::new(Manner::Open));
        let storage = TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = |l: &TcpListener| format!("http://{}", l.local_addr().unwrap());
        let (endpoint, elsewhere) = (address(&hub), address(&storage));
        for listener in [hub, storage] {
            let (model, elsewhere) = (model.to_path_buf(), elsewhere.clone());
            let (asked, manner) = (asked.clone(), manner.clone());
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let manner = *manner.lock().unwrap();
                    let _ = answer(stream.unwrap(), &model, &elsewhere, manner, &asked);
                }
            });
        }
        Server {
            endpoint,
            asked,
            manner,
        }
    }

    fn treat(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// What was asked since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes)
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Answers one request as the hub does.
fn answer(
    mut stream: TcpStream,
    model: &Path,
    elsewhere: &str,
    manner: Manner,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines();
    let lines: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|l| !l.is_empty())
        .collect();
    let path = lines[0].split(' ').nth(1).unwrap().to_string();
    let header = |name: &str| {
        let found = lines.iter().find(|l| l.to_lowercase().starts_with(name));
        found.map(|l| l[name.len()..].trim().to_string())
    };
    let range = header("range:");
    let mut note = path.clone();
    if header("authorization:").as_deref() == Some("Bearer secret") {
        note += " [token]";
    }
    if let Some(range) = &range {
        note += &format!(" [{range}]");
    }
    asked.lock().unwrap().push(note);
    let mut send = |status: &str, headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)
    };
    let refuse = |code: &str| format!("Content-Length: 0\r\nX-Error-Code: {code}\r\n");
    if let Some(rest) = path.strip_prefix("/api/models/") {
        let revision = rest
            .strip_prefix("org/tiny/revision/")
            .map(|r| r.split('?').next().unwrap());
        match revision {
            None if rest.starts_with("org/private") => {
                return send("401 Unauthorized", &refuse("RepoNotFound"), &[]);
            }
            None if rest.starts_with("org/broken") => {
                return send("503 Unavailable", "Content-Length: 0\r\n", &[]);
            }
            None => return send("404 Not Found", &refuse("RepoNotFound"), &[]),
            Some("main" | "refs%2Fpr%2F1" | COMMIT) => {}
            Some(_) => return send("404 Not Found", &refuse("RevisionNotFound"), &[]),
        }
        let mut siblings = vec![];
        for file in fs::read_dir(model)? {
            let file = file?;
            let size = file.metadata()?.len();
            siblings.push(json!({ "rfilename": file.file_name().to_str(), "size": size }));
        }
        let body = json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return send(
            "200 OK",
            &format!("Content-Length: {}\r\n", body.len()),
            body.as_bytes(),
        );
    }
    let file = path.rsplit('/').next().unwrap().split('?').next().unwrap();
    let mut body = fs::read(model.join(file))?;
    let sha = hex(&body);
    if path.starts_with("/org/tiny/resolve/") {
        if manner == Manner::Gated {
            return send("403 Forbidden", &refuse("GatedRepo"), &[]);
        }
        if file.ends_with(".safetensors") {
            let headers = format!(
                "Content-Length: 0\r\nX-Linked-Etag: \"{sha}\"\r\nETag: \"other\"\r\n\
                 Location: {elsewhere}/store/{file}?signature=hidden\r\n"
            );
            return send("302 Found", &headers, &[]);
        }
        let headers = format!(
            "Content-Length: {}\r\nETag: \"{}\"\r\n",
            body.len(),
            &sha[..40]
        );
        return send("200 OK", &headers, &body);
    }
    let all = body.len();
    let from = range.map_or(0, |r| {
        r["bytes=".len()..].trim_end_matches('-').parse().unwrap()
    });
    let sent = match manner {
        Manner::Short => all / 2,
        _ => all,
    };
    if manner == Manner::Other {
        *body.last_mut().unwrap() ^= 1;
    }
    let length = all - from;
    let (status, extra) = match from {
        0 => ("200 OK", String::new()),
        _ => (
            "206 Partial Content",
            format!("Content-Range: bytes {from}-{}/{all}\r\n", all - 1),
        ),
    };
    send(
        status,
        &format!("Content-Length: {length}\r\n{extra}"),
        &body[from..sent],
    )
}

/// Runs the program with a home of its own.
fn with(home: &Path, endpoint: &str, args: &[&str]) -> Run {
    let done = command(args, &home.join("artifacts"))
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_TOKEN", "secret")
        .env_remove("HF_HUB_CACHE")
        .env_remove("HF_HUB_OFFLINE")
        .current_dir(home)
        .output()
        .unwrap();
    let run = Run {
        code: done.status.code(),
        out: String::from_utf8(done.stdout).unwrap(),
        err: String::from_utf8(done.stderr).unwrap(),
    };
    assert!(!run.err.contains("panicked"), "{args:?}: {run:?}");
    assert!(
        !run.err.contains("secret") && !run.err.contains("hidden"),
        "{run:?}"
    );
    run
}

/// A model, a hub that has it, and the home of somebody who asks.
struct World {
    case: Case,
    server: Server,
    home: TempDir,
}

impl World {
    fn new(name: &str) -> World {
        let case = Case::new(name, &[]);
        for more in ["README.md", "pytorch_model.bin", "consolidated.safetensors"] {
            fs::write(case.dir.path().join(more), "not needed").unwrap();
        }
        World {
            server: Server::new(case.dir.path()),
            case,
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn run(&self, more: &[&str]) -> Run {
        let args = ["run", "org/tiny", "-p", "w5 w6", "-n", "4", "--json"];
        with(
            self.home.path(),
            &self.server.endpoint,
            &[&args[..], more].concat(),
        )
    }

    fn expected(&self) -> Value {
        let args = ["run", self.case.path(), "-p", "w5 w6", "-n", "4", "--json"];
        with(self.home.path(), &self.server.endpoint, &args).json()["results"].take()
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("hub/models--org--tiny")
    }
}

/// A port that nobody listens on.
const NOWHERE: &str = "http://127.0.0.1:9";

#[test]
fn a_model_of_the_hub_runs_as_its_directory_does() {
    let world = World::new("llama_tied_llama3");
    let expected = world.expected();
    assert_eq!(world.run(&[]).json()["results"], expected);

    // What is needed, and no other file; the token goes to the hub alone.
    let mut asked = world.server.asked();
    let api = "/api/models/org/tiny/revision/main?blobs=true [token]";
    assert_eq!(asked.remove(0), api);
    assert!(asked[0].ends_with("/config.json [token]"), "{asked:?}");
    let stored = asked.iter().filter(|a| a.starts_with("/store/"));
    let stored: Vec<&String> = stored.collect();
    assert_eq!(stored.len(), 3, "{asked:?}");
    assert!(stored.iter().all(|a| !a.contains("token")), "{asked:?}");
    let unneeded = ["README", ".bin", "consolidated", "expected"];
    assert!(
        !asked.iter().any(|a| unneeded.iter().any(|u| a.contains(u))),
        "{asked:?}"
    );

    // The layout that Python's huggingface_hub shares.
    let folder = world.folder();
    assert_eq!(
        fs::read_to_string(folder.join("refs/main")).unwrap(),
        COMMIT
    );
    let snapshot = folder.join("snapshots").join(COMMIT);
    for file in fs::read_dir(&snapshot).unwrap() {
        let (name, path) = file.map(|f| (f.file_name(), f.path())).unwrap();
        let content = fs::read(&path).unwrap();
        assert_eq!(
            content,
            fs::read(world.case.dir.path().join(&name)).unwrap()
        );
        let sha = hex(&content);
        let large = name.to_str().unwrap().ends_with(".safetensors");
        let etag = if large { &sha[..] } else { &sha[..40] };
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(&path).unwrap(),
            Path::new("../../blobs").join(etag)
        );
        assert!(folder.join("blobs").join(etag).is_file());
    }

    // Once there, a model is asked for but not fetched again; it needs no network when told, or when there is none.
    assert_eq!(
        world.run(&["--revision", COMMIT]).json()["results"],
        expected
    );
    assert_eq!(world.server.asked().len(), 1);
    assert_eq!(world.run(&["--offline"]).json()["results"], expected);
    assert_eq!(
        world.run(&["--offline", "--revision", COMMIT]).json()["results"],
        expected
    );
    assert_eq!(world.server.asked(), [""; 0]);
    let args = ["run", "org/tiny", "-p", "w5 w6", "-n", "4", "--json"];
    let alone = with(world.home.path(), NOWHERE, &args);
    assert!(
        alone
            .err
            .contains("warning: http://127.0.0.1:9 cannot be reached"),
        "{alone:?}"
    );
    let found: Value = serde_json::from_str(&alone.out).unwrap();
    assert_eq!(found["results"], expected);
}

#[test]
fn a_model_is_inspected_without_its_weights() {
    for (name, shards) in [("llama_gqa", 1), ("llama_tied_llama3", 3)] {
        let world = World::new(name);
        // The headers are all that comes.
        world.server.treat(Manner::Short);
        let inspect = |model: &str| {
            let args = ["inspect", model, "--json"];
            let mut found = with(world.home.path(), &world.server.endpoint, &args).json();
            found["model"].take();
            found
        };
        let found = inspect("org/tiny");
        let asked = world.server.asked();
        let stored = asked.iter().filter(|a| a.starts_with("/store/")).count();
        assert_eq!(stored, shards, "{asked:?}");
        assert!(
            !asked.iter().any(|a| a.contains("tokenizer.json")),
            "{asked:?}"
        );
        assert_eq!(found, inspect(world.case.path()));
        // Nothing in the cache passes for the model.
        let snapshot = world.folder().join("snapshots").join(COMMIT);
        let mut kept = fs::read_dir(snapshot)
            .unwrap()
            .map(|f| f.unwrap().file_name());
        assert!(!kept.any(|f| f.to_str().unwrap().ends_with(".safetensors")));
        assert_eq!(world.run(&["--offline"]).code, Some(1));

        // Where the model is, it is looked at.
        world.server.treat(Manner::Open);
        world.run(&[]).json();
        world.server.asked();
        assert_eq!(inspect("org/tiny"), found);
        let asked = world.server.asked();
        assert!(asked.len() == 1, "{asked:?}");
    }
}

#[test]
fn a_directory_wins_over_an_id() {
    let world = World::new("llama_gqa");
    let expected = world.expected();
    let here = world.home.path().join("org");
    fs::create_dir(&here).unwrap();
    fs::rename(world.case.dir.path(), here.join("tiny")).unwrap();
    assert_eq!(world.run(&[]).json()["results"], expected);
    assert_eq!(world.server.asked(), [""; 0]);
}

#[test]
fn a_download_that_was_cut_goes_on_where_it_ended() {
    let world = World::new("llama_gqa");
    world.server.treat(Manner::Short);
    let cut = world.run(&[]);
    assert_eq!(cut.code, Some(1), "{cut:?}");
    assert!(cut.err.contains("model.safetensors stops after"), "{cut:?}");
    let offline = world.run(&["--offline"]);
    assert!(
        offline.err.contains("run once without --offline"),
        "{offline:?}"
    );
    world.server.treat(Manner::Open);
    world.server.asked();
    assert_eq!(world.run(&[]).json()["results"], world.expected());
    let size = fs::metadata(world.case.dir.path().join("model.safetensors"))
        .unwrap()
        .len();
    let rest = format!(
        "/store/model.safetensors?signature=hidden [bytes={}-]",
        size / 2
    );
    assert!(world.server.asked().contains(&rest));

    // One that is not what was announced is an error, and not kept.
    let world = World::new("llama_gqa");
    world.server.treat(Manner::Other);
    let damaged = world.run(&[]);
    assert!(
        damaged
            .err
            .contains("model.safetensors arrived damaged: its SHA-256 is"),
        "{damaged:?}"
    );
    world.server.treat(Manner::Open);
    assert_eq!(world.run(&[]).json()["results"], world.expected());
}

#[test]
fn what_the_hub_does_not_give_is_said() {
    let world = World::new("llama_gqa");
    let server = &world.server;
    let check = |endpoint: &str, args: &[&str], words: &[&str]| {
        let args = [&["run"], args, &["-p", "w5"]].concat();
        let done = with(world.home.path(), endpoint, &args);
        assert_eq!(done.code, Some(1), "{args:?}: {done:?}");
        assert!(done.out.is_empty(), "{args:?}: {done:?}");
        for word in words {
            assert!(
                done.err.contains(word),
                "{args:?}: {word:?} in {}",
                done.err
            );
        }
    };
    let hub = &server.endpoint;
    check(
        hub,
        &["org/missing"],
        &[
            "org/missing",
            "no such file or directory",
            "no model of that id",
            "HF_TOKEN",
        ],
    );
    check(
        hub,
        &["org/private"],
        &["no model of that id, or it is private"],
    );
    check(
        hub,
        &["org/broken"],
        &["/api/models/org/broken", "status 503", "try again later"],
    );
    check(
        hub,
        &["org/tiny", "--revision", "v9"],
        &["no revision \"v9\""],
    );
    check(
        hub,
        &["org/tiny", "--revision", "../../etc"],
        &["no revision"],
    );
    check(
        NOWHERE,
        &["org/tiny"],
        &["http://127.0.0.1:9 cannot be reached", "check the network"],
    );
    check(
        hub,
        &["org/tiny", "--offline"],
        &["does not hold it: it was never fetched", "--offline"],
    );
    for name in [
        "tiny",
        "./org/tiny",
        "org/tiny/more",
        "/org/tiny",
        "org/..",
        "a b/c",
    ] {
        check(hub, &[name], &["no such file or directory", "org/name"]);
    }
    server.treat(Manner::Gated);
    let terms = format!("accept its terms at {hub}/org/tiny");
    check(hub, &["org/tiny"], &["(403)", &terms, "does not suffice"]);
    server.treat(Manner::Open);
    server.asked();

    // Nothing but config.json is fetched of a model that is not supported.
    edit(
        world.case.dir.path(),
        "config.json",
        "LlamaForCausalLM",
        "NewForCausalLM",
    );
    check(
        hub,
        &["org/tiny"],
        &["architecture `NewForCausalLM` is not supported"],
    );
    let asked = server.asked();
    assert!(
        asked.len() == 2 && asked[1].contains("config.json"),
        "{asked:?}"
    );

    let pickle = copy(&fixture("llama_gqa"));
    fs::remove_file(pickle.path().join("model.safetensors")).unwrap();
    fs::write(pickle.path().join("pytorch_model.bin"), "pickle").unwrap();
    let server = Server::new(pickle.path());
    let home = tempfile::tempdir().unwrap();
    let done = with(
        home.path(),
        &server.endpoint,
        &["run", "org/tiny", "-p", "w5"],
    );
    assert!(
        done.err.contains("no weights in safetensors format")
            && done.err.contains("pytorch_model.bin"),
        "{done:?}"
    );
}

#[test]
fn the_places_that_python_uses_are_used() {
    let world = World::new("llama_gqa");
    let (home, elsewhere) = (world.home.path(), tempfile::tempdir().unwrap());
    let args = ["run", "org/tiny", "-p", "w5", "--revision", "refs/pr/1"];
    let mut run = command(&args, &home.join("artifacts"));
    run.env("HF_HOME", home)
        .env("HF_HUB_CACHE", elsewhere.path());
    run.env("HF_ENDPOINT", format!("{}/", world.server.endpoint))
        .env_remove("HF_TOKEN");
    // As `hf auth login` leaves it.
    fs::write(home.join("token"), "secret\n").unwrap();
    let done = run.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(world.server.asked()[0].ends_with("[token]"));
    let folder = elsewhere.path().join("models--org--tiny");
    assert_eq!(
        fs::read_to_string(folder.join("refs/refs/pr/1")).unwrap(),
        COMMIT
    );
    assert!(!world.folder().exists());
    assert!(text(&folder).contains("tiny"));

    run.env("HF_HUB_OFFLINE", "1").env("HF_ENDPOINT", NOWHERE);
    assert!(run.output().unwrap().status.success());
}
