//! Chat templates, in a process of their own whose time and memory are limited: a template comes with a model, and is a
//! program. Instructions are counted where it runs ([`chat::render`]), but one may ask for a list without end.

use anyhow::Context;
use satura::{
    chat::{self, Message},
    ir::Chat,
};
use std::{
    env,
    io::{self, Read, Write},
    process::{Command, ExitCode, Stdio},
};

/// The hidden command that renders a template.
pub const COMMAND: &str = "render-template";

/// Longest time that a template may take, in seconds.
const SECONDS: u64 = 5;

/// Most memory that it may take, in bytes.
const MEMORY: u64 = 1 << 30;

/// The text of a conversation, up to where the model is to answer.
pub fn render(chat: &Chat, messages: &[Message]) -> anyhow::Result<String> {
    let program =
        env::current_exe().context("satura does not find itself, to render a template")?;
    let mut child = Command::new(program)
        .arg(COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("no process to render the model's chat template in")?;
    let input = serde_json::to_vec(&(chat, messages))?;
    // It reads everything before it writes anything. Where it cannot, its status says why.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(&input));
    let done = child.wait_with_output()?;
    if done.status.success() {
        written.transpose()?;
        return Ok(String::from_utf8(done.stdout)?);
    }
    match done.status.code() {
        Some(1) => anyhow::bail!("{}", String::from_utf8_lossy(&done.stderr).trim_end()),
        Some(code) => {
            anyhow::bail!("the model's chat template fails: its process ends with {code}")
        }
        None => anyhow::bail!(
            "the model's chat template takes more than {SECONDS} s or {} MB of memory, or nests without end ({})",
            MEMORY >> 20,
            done.status
        ),
    }
}

/// What the process does: reads a template and a conversation, writes its text.
pub fn run() -> ExitCode {
    match limit().and_then(|()| rendered()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = write!(io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn rendered() -> anyhow::Result<()> {
    let mut input = vec![];
    io::stdin().read_to_end(&mut input)?;
    let (chat, messages): (Chat, Vec<Message>) = serde_json::from_slice(&input)?;
    let text = chat::render(&chat, &messages)?;
    Ok(io::stdout().write_all(text.as_bytes())?)
}

#[cfg(target_os = "linux")]
fn limit() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    for (resource, most) in [
        (Resource::Cpu, SECONDS),
        (Resource::As, MEMORY),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    Ok(())
}

/// Elsewhere instructions are all that is limited.
#[cfg(not(target_os = "linux"))]
fn limit() -> anyhow::Result<()> {
    Ok(())
}
