//! `import` and `export`: mappings as files, CSV or JSON lines.

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

/// How much is sent at once, and how many such pieces are read ahead of what the service has taken.
const PIECE_BYTES: usize = 32 * 1024;
const AHEAD: usize = 8;
/// How long the service may take for the next line.
const PATIENCE: Duration = Duration::from_mins(2);
/// How many mappings are exported at once.
const PAGE: usize = 1000;
/// The longest line that is read; the service takes shorter ones.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// What to import.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The file: CSV with a header that names `issuer`, `subject` and `communicationUserId` (or `identity`), or JSON lines
    /// with these members; `-` for standard input.
    file: PathBuf,
    /// The form; by the file's name where not given.
    #[arg(long, value_enum)]
    format: Option<Form>,
    /// Go on with this line of the file, the first being 1.
    #[arg(long, value_name = "N", default_value_t = 1)]
    from_line: u64,
    #[command(flatten)]
    remote: Remote,
}

/// What to export, and where to.
#[derive(Debug, Args)]
pub(super) struct ExportOptions {
    /// The file; standard output where not given.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The form; by the file's name where not given, else JSON lines.
    #[arg(long, value_enum)]
    format: Option<Form>,
    /// Only users of this issuer key.
    #[arg(long, value_name = "KEY")]
    issuer: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Comma-separated values with a header.
    Csv,
    /// A JSON object on each line.
    Jsonl,
}

impl Form {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

pub(super) async fn run(options: Options, environment: &Variables) -> anyhow::Result<()> {
    let form = options.format.or_else(|| Form::of(&options.file));
    let form = form.context("the file's name ends neither in .csv nor in .jsonl: give --format")?;
    let is_input = options.file.as_os_str() == "-";
    let file: Box<dyn Read + Send> = if is_input {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(&options.file).with_context(|| format!("cannot read `{}`", options.file.display()))?)
    };
    let session = options.remote.open(environment)?;
    let (send, receive) = mpsc::channel(AHEAD);
    let (number, numbers) = channel();
    let from_line = options.from_line;
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = Lines { send, number, piece: Vec::new(), from_line, bad: 0 };
        match form {
            Form::Csv => lines.read_csv(file),
            Form::Jsonl => lines.read_json(BufReader::new(file)),
        }?;
        lines.flush();
        anyhow::Ok(lines.bad)
    });
    let body = stream::unfold(receive, async |mut receive| Some((receive.recv().await?, receive)));
    let answers = session.client.post_lines(&["users", "import"], body.map(Ok).boxed()).await?;
    let taken = take(answers, &numbers, from_line).await?;
    let unread = reading.await.context("the file could not be read")??;
    let bad = taken.bad + unread;
    println!("{} imported, {} were so before, {bad} bad", taken.imported, taken.unchanged);
    ensure!(bad == 0, "{bad} lines were not imported");
    Ok(())
}

/// What became of the lines that the service took.
#[derive(Default)]
struct Taken {
    imported: u64,
    unchanged: u64,
    bad: u64,
}

async fn take(
    answers: impl futures_util::Stream<Item = anyhow::Result<String>>,
    numbers: &Receiver<u64>,
    from_line: u64,
) -> anyhow::Result<Taken> {
    let mut answers = std::pin::pin!(answers);
    let mut taken = Taken::default();
    let mut last = from_line.saturating_sub(1);
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{pos} lines, {per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    loop {
        let go_on = || format!("stopped; what was told is done, go on with --from-line {}", last + 1);
        let answer = timeout(PATIENCE, answers.next()).await.context("the service says nothing").with_context(go_on)?;
        let Some(answer) = answer else { break };
        let answer = answer.with_context(go_on)?;
        let answer: ImportLineResult =
            serde_json::from_str(&answer).context("the answer cannot be understood").with_context(go_on)?;
        let number = numbers.recv().unwrap_or(answer.line);
        match answer.result {
            ImportResult::Imported => taken.imported += 1,
            ImportResult::Unchanged => taken.unchanged += 1,
            ImportResult::Conflict | ImportResult::Invalid => {
                taken.bad += 1;
                tell(&bar, number, &answer.detail.unwrap_or_default());
            }
            ImportResult::Failed => {
                bail!(go_on() + ": " + &answer.detail.unwrap_or_default());
            }
        }
        last = number;
        bar.inc(1);
    }
    bar.finish_and_clear();
    // The file's reader is gone by now; a line that was sent and not answered means that the service stopped early.
    ensure!(numbers.recv().is_err(), "the service stopped early; go on with --from-line {}", last + 1);
    Ok(taken)
}

fn tell(bar: &ProgressBar, line: u64, what: &str) {
    bar.suspend(|| eprintln!("line {line}: {}", table::printable(what)));
}

/// The lines of a file on their way to the service.
struct Lines {
    send: mpsc::Sender<Vec<u8>>,
    /// The place in the file of each line that is sent.
    number: std::sync::mpsc::Sender<u64>,
    /// What is to be sent next.
    piece: Vec<u8>,
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
                    let is_over = error.is_io_error();
                    let line = error.position().map_or(0, csv::Position::line);
                    self.complain(line, &error.to_string());
                    if is_over {
                        bail!("the file could not be read to its end");
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
                Err(_) => self.complain(line, "is no UTF-8"),
            }
        }
        Ok(())
    }

    /// Sends a line; false when nobody takes it any more.
    fn push(&mut self, line: u64, text: &str) -> bool {
        if line < self.from_line {
            return true;
        }
        self.piece.extend_from_slice(text.as_bytes());
        self.piece.push(b'\n');
        let is_noted = self.number.send(line).is_ok();
        is_noted && (self.piece.len() < PIECE_BYTES || self.flush())
    }

    fn flush(&mut self) -> bool {
        let piece = std::mem::take(&mut self.piece);
        piece.is_empty() || self.send.blocking_send(piece).is_ok()
    }

    fn complain(&mut self, line: u64, what: &str) {
        if line >= self.from_line {
            self.bad += 1;
            eprintln!("line {line}: {}", table::printable(what));
        }
    }
}

pub(super) async fn export(options: ExportOptions, environment: &Variables) -> anyhow::Result<()> {
    let form = options.format.or_else(|| options.output.as_deref().and_then(Form::of)).unwrap_or(Form::Jsonl);
    let session = options.remote.open(environment)?;
    let out: Box<dyn Write> = match &options.output {
        Some(file) => Box::new(File::create(file).with_context(|| format!("cannot write `{}`", file.display()))?),
        None => Box::new(io::stdout()),
    };
    let mut out = Out::new(form, BufWriter::new(out))?;
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
        ensure!(page.next_cursor.is_none() || page.next_cursor != cursor, "the service gave the same page twice");
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    out.finish()?;
    eprintln!("{count} mappings");
    Ok(())
}

/// Where mappings are written to.
enum Out<W: Write> {
    Csv(Box<csv::Writer<W>>),
    Json(W),
}

impl<W: Write> Out<W> {
    fn new(form: Form, out: W) -> anyhow::Result<Self> {
        if form == Form::Jsonl {
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
