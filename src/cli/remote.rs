//! What the commands over the HTTP API share: the service and the key, lists, and output.

use std::{
    fmt::Write as _,
    fs,
    io::{self, ErrorKind, Write as _},
    path::PathBuf,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::table;
use crate::{app, client::Client, config::Variables, domain::address::is_on_this_machine};

const URL_VARIABLE: &str = "VENDOR_URL";
const KEY_VARIABLE: &str = "VENDOR_OPS_KEY";
const DEFAULT_URL: &str = "http://127.0.0.1:8080";
const DEFAULT_LIMIT: usize = 100;
/// The largest page of the service.
const PAGE: usize = 1000;

/// The service, the key and the output format.
#[derive(Debug, Args)]
#[command(next_help_heading = "Service")]
pub(super) struct Remote {
    /// The URL of the service; `VENDOR_URL` or `http://127.0.0.1:8080` by default.
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Read the operator key from a file instead of `VENDOR_OPS_KEY`.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "key_stdin")]
    key_file: Option<PathBuf>,
    /// Read the operator key from the first line of standard input.
    #[arg(long, global = true)]
    key_stdin: bool,
    /// Allow plain http to another machine, where the key can be read on the way.
    #[arg(long, global = true)]
    allow_http: bool,
    /// Print the JSON of the service, for scripts.
    #[arg(long, global = true)]
    json: bool,
}

/// The length of a list.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The number of entries; 100 by default.
    #[arg(long, value_name = "N", conflicts_with = "all", value_parser = positive)]
    limit: Option<usize>,
    /// Show all entries.
    #[arg(long)]
    all: bool,
}

/// A client and the output format.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    json: bool,
}

impl Remote {
    /// Makes a client; sends nothing yet.
    pub(super) fn open(&self, environment: &Variables) -> anyhow::Result<Session> {
        let url = self.address(environment)?;
        let key = self.key(environment)?;
        // Ignore `HTTP_PROXY` for a service on this machine.
        let http = app::client_builder(is_on_this_machine(&url)).build()?;
        Ok(Session { client: Client::new(http, url, &key)?, json: self.json })
    }

    fn address(&self, environment: &Variables) -> anyhow::Result<Url> {
        let (name, text) = match (&self.url, environment.get(URL_VARIABLE)) {
            (Some(url), _) => ("--url", url.as_str()),
            (None, Some(url)) => (URL_VARIABLE, url.as_str()),
            (None, None) => ("--url", DEFAULT_URL),
        };
        let url = Url::parse(text)
            .with_context(|| format!("{name} is not a valid URL (expected, for example, `{DEFAULT_URL}`)"))?;
        ensure!(matches!(url.scheme(), "http" | "https"), "{name} must start with `https://` or `http://`");
        let is_plain = url.username().is_empty() && url.password().is_none();
        ensure!(
            is_plain && url.query().is_none() && url.fragment().is_none(),
            "{name} must not have a user, a password, a query or a fragment"
        );
        ensure!(
            url.scheme() == "https" || is_on_this_machine(&url) || self.allow_http,
            "{name} is plain http to another machine, where the key can be read on the way: \
             use https, or --allow-http on a network that you trust"
        );
        Ok(url)
    }

    fn key(&self, environment: &Variables) -> anyhow::Result<SecretString> {
        let text = if let Some(file) = &self.key_file {
            fs::read_to_string(file).with_context(|| format!("cannot read the key from `{}`", file.display()))?
        } else if self.key_stdin {
            let mut line = String::new();
            io::stdin().read_line(&mut line).context("cannot read the key from standard input")?;
            line
        } else {
            environment.get(KEY_VARIABLE).cloned().unwrap_or_default()
        };
        let key = SecretString::from(text.trim());
        ensure!(
            !key.expose_secret().is_empty(),
            "no operator key: set {KEY_VARIABLE}, or use --key-file FILE or --key-stdin"
        );
        Ok(key)
    }
}

impl Session {
    /// Gets an operation or a revocation.
    pub(super) async fn get(&self, path: &str, id: Uuid) -> anyhow::Result<Value> {
        self.client.get(&[path, &id.to_string()], &[]).await
    }

    /// Shows a list: as JSON for scripts, as a table for people. `member` is its name in the response.
    pub(super) async fn show_list<T: DeserializeOwned, const N: usize>(
        &self,
        path: &str,
        member: &str,
        filter: &[(&str, Option<String>)],
        list: &ListArgs,
        header: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> anyhow::Result<()> {
        let mut answer = self.list(path, member, filter, list).await?;
        if self.json {
            return print(&pretty(&answer)?);
        }
        let items: Vec<T> = read(&answer[member].take())?;
        print(&table::table(header, items.iter().map(row)))
    }

    /// Reads a list page by page and returns it as one page.
    async fn list(
        &self,
        path: &str,
        member: &str,
        filter: &[(&str, Option<String>)],
        list: &ListArgs,
    ) -> anyhow::Result<Value> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = list.wanted().map_or(PAGE, |wanted| PAGE.min(wanted.saturating_sub(items.len())));
            let mut query: Vec<_> = filter.iter().filter_map(|(name, value)| Some((*name, value.clone()?))).collect();
            query.push(("limit", page.to_string()));
            query.extend(cursor.clone().map(|cursor| ("cursor", cursor)));
            let mut answer = self.client.get(&[path], &query).await?;
            let Some(Value::Array(more)) = answer.get_mut(member).map(Value::take) else {
                bail!("the response has no `{member}`; is this the address of the service?");
            };
            items.extend(more);
            let next = answer["nextCursor"].as_str().map(str::to_owned);
            ensure!(next.is_none() || next != cursor, "the service returned the same page twice");
            let enough = list.wanted().is_some_and(|wanted| items.len() >= wanted);
            if enough && next.is_some() && !self.json {
                eprintln!("there may be more: use --limit N or --all");
            }
            if enough || next.is_none() {
                return Ok(json!({ member: items, "nextCursor": next }));
            }
            cursor = next;
        }
    }

    /// Shows a response: as JSON for scripts, as text for people.
    pub(super) fn show<T: DeserializeOwned>(
        &self,
        answer: &Value,
        describe: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        if self.json { print(&pretty(answer)?) } else { print(&describe(&read(answer)?)) }
    }
}

impl ListArgs {
    fn wanted(&self) -> Option<usize> {
        (!self.all).then(|| self.limit.unwrap_or(DEFAULT_LIMIT))
    }
}

pub(super) fn read<T: DeserializeOwned>(answer: &Value) -> anyhow::Result<T> {
    T::deserialize(answer).context("unexpected response; does the service have another version? Use --json to print it")
}

/// Prints to standard output; its reader may stop early, as `head` does.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Writes JSON. Characters that control the terminal only occur in its strings, where they are escaped.
fn pretty(answer: &Value) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(answer)?;
    let escaped = text.chars().fold(String::new(), |mut escaped, c| {
        if c != '\n' && table::controls_terminal(c) {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
        escaped
    });
    Ok(escaped + "\n")
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number greater than zero".to_owned()),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str, allow_http: bool) -> Remote {
        Remote { url: Some(url.to_owned()), key_file: None, key_stdin: false, allow_http, json: false }
    }

    #[test]
    fn the_key_is_not_sent_over_plain_http_to_another_machine() {
        let none = Variables::new();
        for url in ["http://localhost:1", "http://127.9.9.9", "http://[::1]:8080", "https://example.com/v"] {
            assert!(remote(url, false).address(&none).is_ok(), "{url}");
        }
        for url in ["http://example.com", "http://10.0.0.1", "http://localhost.example.com"] {
            let error = remote(url, false).address(&none).unwrap_err().to_string();
            assert!(error.contains("--allow-http"), "{error}");
            assert!(remote(url, true).address(&none).is_ok(), "{url}");
        }
        for url in ["ftp://localhost", "localhost:8080", "https://u:p@localhost", "https://localhost/?a=b"] {
            assert!(remote(url, true).address(&none).is_err(), "{url}");
        }
    }

    #[test]
    fn the_option_overrides_the_variable_and_the_variable_overrides_the_default() {
        let variables = Variables::from([(URL_VARIABLE.to_owned(), "https://variable.example".to_owned())]);
        let given = remote("https://option.example", false);
        assert_eq!(given.address(&variables).unwrap().as_str(), "https://option.example/");
        let open = Remote { url: None, ..given };
        assert_eq!(open.address(&variables).unwrap().as_str(), "https://variable.example/");
        assert_eq!(open.address(&Variables::new()).unwrap().as_str(), "http://127.0.0.1:8080/");
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = json!({"subject": "a\u{9b}31m\u{202e}ü\n"});
        let text = pretty(&value).unwrap();
        assert!(!text.contains(['\u{9b}', '\u{202e}']) && text.contains('ü'), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
