//! `import` and `export`: mappings as CSV or JSON lines.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};

use super::{
    remote::{Remote, read},
    table,
};
use crate::{
    api::{ImportLine, ImportLineResult, ImportResult, UserResponse, UsersPage},
    config::Variables,
};

/// The size of the chunks that are sent, and how many of them are read ahead.
const CHUNK_BYTES: usize = 32 * 1024;
const CHUNKS_AHEAD: usize = 8;
/// How long the service may take for one line.
const TIMEOUT: Duration = Duration::from_mins(2);
/// The page size of an export.
const PAGE: usize = 1000;
/// The longest line that is read. The limit of the service is lower.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// The file to import.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The file: CSV with the columns `issuer`, `subject` and `communicationUserId` (or `identity`), or JSON lines with
    /// these members; `-` for standard input.
    file: PathBuf,
    /// The format; by default that of the file name.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Resume with this line of the file; the first line is 1.
    #[arg(long, value_name = "N", default_value_t = 1)]
    from_line: u64,
    #[command(flatten)]
    remote: Remote,
}

/// What to export, and to which file.
#[derive(Debug, Args)]
pub(super) struct ExportOptions {
    /// The file; standard output by default.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The format; by default that of the file name, or else JSON lines.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Only users of this issuer key.
    #[arg(long, value_name = "KEY")]
    issuer: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated values with a header.
    Csv,
    /// A JSON object on each line.
    Jsonl,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

pub(super) async fn run(options: Options, environment: &Variables) -> anyhow::Result<()> {
    let format = options.format.or_else(|| Format::of(&options.file));
    let format = format.context("the file name ends neither in .csv nor in .jsonl: use --format")?;
    let is_input = options.file.as_os_str() == "-";
    let file: Box<dyn Read + Send> = if is_input {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(&options.file).with_context(|| format!("cannot read `{}`", options.file.display()))?)
    };
    let session = options.remote.open(environment)?;
    let (send, receive) = mpsc::channel(CHUNKS_AHEAD);
    let (number, numbers) = channel();
    let from_line = options.from_line;
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = Lines { send, number, chunk: Vec::new(), from_line, bad: 0 };
        match format {
            Format::Csv => lines.read_csv(file),
            Format::Jsonl => lines.read_json(BufReader::new(file)),
        }?;
        lines.flush();
        anyhow::Ok(lines.bad)
    });
    let body = stream::unfold(receive, async |mut receive| Some((receive.recv().await?, receive)));
    let answers = session.client.post_lines(&["users", "import"], body.map(Ok).boxed()).await?;
    let totals = collect(answers, &numbers, from_line).await?;
    let unread = reading.await.context("the file could not be read")??;
    let bad = totals.failed + unread;
    println!("{} imported, {} unchanged, {bad} failed", totals.imported, totals.unchanged);
    ensure!(bad == 0, "{bad} lines were not imported");
    Ok(())
}

/// The results of the lines that were sent.
#[derive(Default)]
struct Totals {
    imported: u64,
    unchanged: u64,
    failed: u64,
}

async fn collect(
    answers: impl futures_util::Stream<Item = anyhow::Result<String>>,
    numbers: &Receiver<u64>,
    from_line: u64,
) -> anyhow::Result<Totals> {
    let mut answers = std::pin::pin!(answers);
    let mut totals = Totals::default();
    let mut last = from_line.saturating_sub(1);
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{pos} lines, {per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    loop {
        let resume =
            || format!("import interrupted; all lines before {0} are done. Resume with --from-line {0}", last + 1);
        let answer =
            timeout(TIMEOUT, answers.next()).await.context("timed out waiting for the service").with_context(resume)?;
        let Some(answer) = answer else { break };
        let answer = answer.with_context(resume)?;
        let answer: ImportLineResult =
            serde_json::from_str(&answer).context("unexpected response").with_context(resume)?;
        let number = numbers.recv().unwrap_or(answer.line);
        match answer.result {
            ImportResult::Imported => totals.imported += 1,
            ImportResult::Unchanged => totals.unchanged += 1,
            ImportResult::Conflict | ImportResult::Invalid => {
                totals.failed += 1;
                report(&bar, number, &answer.detail.unwrap_or_default());
            }
            ImportResult::Failed => {
                let detail = table::printable(&answer.detail.unwrap_or_default());
                bail!("{}: {detail}", resume());
            }
        }
        last = number;
        bar.inc(1);
    }
    bar.finish_and_clear();
    // A line that was sent but not answered means that the service stopped early.
    ensure!(numbers.recv().is_err(), "the service stopped early. Resume with --from-line {}", last + 1);
    Ok(totals)
}

fn report(bar: &ProgressBar, line: u64, what: &str) {
    bar.suspend(|| eprintln!("line {line}: {}", table::printable(what)));
}

/// Reads the lines of a file and sends them to the service.
struct Lines {
    send: mpsc::Sender<Vec<u8>>,
    /// The number in the file of each line that is sent.
    number: std::sync::mpsc::Sender<u64>,
    /// The next chunk.
    chunk: Vec<u8>,
    from_line: u64,
    bad: u64,
}

impl Lines {
    fn read_csv(&mut self, file: impl Read) -> anyhow::Result<()> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(file);
        let header = reader.headers().context("cannot read the header")?.clone();
        let column = |names: &[&str]| {
            let is_named = |name: &str| names.contains(&name.trim_start_matches('\u{feff}'));
            header.iter().position(is_named).with_context(|| format!("the header has no column `{}`", names[0]))
        };
        let (issuer, subject) = (column(&["issuer"])?, column(&["subject"])?);
        let identity = column(&["communicationUserId", "identity"])?;
        for record in reader.records() {
            let (record, line) = match record {
                Ok(record) => {
                    let line = record.position().map_or(0, csv::Position::line);
                    (record, line)
                }
                Err(error) => {
                    let is_fatal = error.is_io_error();
                    let line = error.position().map_or(0, csv::Position::line);
                    self.reject(line, &error.to_string());
                    if is_fatal {
                        bail!("cannot read the rest of the file");
                    }
                    continue;
                }
            };
            let cell = |column| record.get(column).unwrap_or_default().to_owned();
            let json =
                ImportLine { issuer: cell(issuer), subject: cell(subject), communication_user_id: cell(identity) };
            if !self.push(line, &serde_json::to_string(&json)?) {
                break;
            }
        }
        Ok(())
    }

    fn read_json(&mut self, mut file: impl BufRead) -> anyhow::Result<()> {
        for line in 1.. {
            let mut text = Vec::new();
            let read =
                file.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text).context("cannot read the file")?;
            if read == 0 {
                break;
            }
            let is_whole = text.ends_with(b"\n") || u64::try_from(read).is_ok_and(|read| read < MAX_LINE_BYTES);
            ensure!(is_whole, "line {line} has more than {MAX_LINE_BYTES} bytes");
            match std::str::from_utf8(&text).map(str::trim) {
                Ok("") => {}
                Ok(text) if !self.push(line, text) => break,
                Ok(_) => {}
                Err(_) => self.reject(line, "is not valid UTF-8"),
            }
        }
        Ok(())
    }

    /// Sends a line; returns false if the request has ended.
    fn push(&mut self, line: u64, text: &str) -> bool {
        if line < self.from_line {
            return true;
        }
        self.chunk.extend_from_slice(text.as_bytes());
        self.chunk.push(b'\n');
        self.number.send(line).is_ok() && (self.chunk.len() < CHUNK_BYTES || self.flush())
    }

    fn flush(&mut self) -> bool {
        let chunk = std::mem::take(&mut self.chunk);
        chunk.is_empty() || self.send.blocking_send(chunk).is_ok()
    }

    fn reject(&mut self, line: u64, what: &str) {
        if line >= self.from_line {
            self.bad += 1;
            eprintln!("line {line}: {}", table::printable(what));
        }
    }
}

pub(super) async fn export(options: ExportOptions, environment: &Variables) -> anyhow::Result<()> {
    let format = options.format.or_else(|| options.output.as_deref().and_then(Format::of)).unwrap_or(Format::Jsonl);
    let session = options.remote.open(environment)?;
    let out: Box<dyn Write> = match &options.output {
        Some(file) => Box::new(File::create(file).with_context(|| format!("cannot write `{}`", file.display()))?),
        None => Box::new(io::stdout()),
    };
    let mut out = Out::new(format, BufWriter::new(out))?;
    let mut query = vec![("state", "active".to_owned()), ("limit", PAGE.to_string())];
    query.extend(options.issuer.map(|issuer| ("issuer", issuer)));
    let mut cursor: Option<String> = None;
    let mut count = 0_u64;
    loop {
        let mut query = query.clone();
        query.extend(cursor.clone().map(|cursor| ("cursor", cursor)));
        let answer: Value = session.client.get(&["users"], &query).await?;
        let page: UsersPage = read(&answer)?;
        for user in page.users {
            count += u64::from(out.write(user)?);
        }
        ensure!(page.next_cursor.is_none() || page.next_cursor != cursor, "the service returned the same page twice");
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    out.finish()?;
    eprintln!("{count} mappings exported");
    Ok(())
}

/// A file of mappings.
enum Out<W: Write> {
    Csv(Box<csv::Writer<W>>),
    Json(W),
}

impl<W: Write> Out<W> {
    fn new(format: Format, out: W) -> anyhow::Result<Self> {
        if format == Format::Jsonl {
            return Ok(Self::Json(out));
        }
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(["issuer", "subject", "communicationUserId"])?;
        Ok(Self::Csv(Box::new(csv)))
    }

    /// Writes a mapping, if it has an identity.
    fn write(&mut self, user: UserResponse) -> anyhow::Result<bool> {
        let Some(communication_user_id) = user.communication_user_id else { return Ok(false) };
        let line = ImportLine { issuer: user.issuer, subject: user.subject, communication_user_id };
        match self {
            Self::Csv(out) => out.write_record([&line.issuer, &line.subject, &line.communication_user_id])?,
            Self::Json(out) => {
                serde_json::to_writer(&mut *out, &line)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(true)
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Csv(mut out) => out.flush()?,
            Self::Json(mut out) => out.flush()?,
        }
        Ok(())
    }
}
