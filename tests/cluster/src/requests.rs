//! A list of raw HTTP/1.1 requests, sent in order, and what came back, as one text to compare.
//!
//! The form of the list is described at its top (`requests/ingress.txt`). The requests are written byte by byte,
//! since a good part of them are wrong. Start at [`transcript`].

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A request that waits for its answer has reached its partition after so long.
const SENT_WITHIN: Duration = Duration::from_millis(300);
/// Pause before a request that waits for something is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// A longer body is shown by its length.
const BODY_SHOWN_BYTES_MAX: usize = 2000;
/// Headers that every server sets as it likes.
const NOT_COMPARED: [&str; 3] = ["date", "content-length", "connection"];

#[derive(Debug, Clone, Default)]
struct Request {
    name: String,
    join: bool,
    chunked: bool,
    exact: bool,
    background: bool,
    id: Option<String>,
    result: Option<String>,
    until: Option<(u16, String)>,
    head: Vec<String>,
    body: String,
}

/// Sends the requests of `list` to `address` (`host:port`) one after the other, and writes down the answers.
pub async fn transcript(list: &str, address: &str) -> String {
    let mut text = String::new();
    let mut variables = HashMap::new();
    let mut waiting: HashMap<String, JoinHandle<String>> = HashMap::new();
    for request in parse(list) {
        if request.join {
            let answer = waiting.remove(&request.name).expect("it was sent before");
            let answer = answer.await.expect("the request ended");
            let _ = write!(text, "=== (later) {}\n{answer}\n", request.name);
        } else if request.background {
            let (request, variables, address) = (request, variables.clone(), address.to_owned());
            let name = request.name.clone();
            let task = async move {
                let answer = send(&request, &variables, &address).await;
                show(&request, &answer, &variables)
            };
            waiting.insert(name, tokio::spawn(task));
            // Nothing tells from outside that a server waits.
            sleep(SENT_WITHIN).await;
        } else {
            let answer = send_until(&request, &variables, address).await;
            if let Some(name) = &request.id {
                let id = header(&answer, "x-restate-id").unwrap_or_default();
                variables.insert(name.clone(), id);
            }
            if let Some(name) = &request.result {
                let value = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
                variables.insert(name.clone(), value.trim_matches('"').to_owned());
            }
            let answer = show(&request, &answer, &variables);
            let _ = write!(text, "=== {}\n{answer}\n", request.name);
        }
    }
    text
}

fn parse(list: &str) -> Vec<Request> {
    let mut requests = Vec::new();
    for block in list.split("\n=== ").skip(1) {
        let mut request = Request::default();
        let mut lines = block.lines();
        let name = lines.next().unwrap_or_default();
        request.join = name.starts_with("@join ");
        request.name = name.trim_start_matches("@join ").to_owned();
        for line in lines.by_ref() {
            let mut words = line.splitn(3, ' ');
            let directive = words.next().unwrap_or_default();
            let mut word = || words.next().unwrap_or_default().to_owned();
            match directive {
                "@chunked" => request.chunked = true,
                "@exact" => request.exact = true,
                "@background" => request.background = true,
                "@id" => request.id = Some(word()),
                "@result" => request.result = Some(word()),
                "@until" => {
                    request.until = Some((word().parse().expect("a status"), word()));
                }
                "@bytes" => {
                    let count = word().parse().expect("a number of bytes");
                    request.body = format!("\"{}\"", "a".repeat(count));
                }
                "" => break,
                _ => request.head.push(line.to_owned()),
            }
        }
        // Comments between requests belong to none.
        let body: Vec<&str> = lines.take_while(|line| !line.starts_with("# ")).collect();
        if request.body.is_empty() {
            request.body = body.join("\n").trim_end().to_owned();
        }
        requests.push(request);
    }
    requests
}

async fn send_until(
    request: &Request,
    variables: &HashMap<String, String>,
    address: &str,
) -> String {
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        let answer = send(request, variables, address).await;
        let Some((status, part)) = &request.until else {
            return answer;
        };
        let there = answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(part);
        if there || Instant::now() > deadline {
            return answer;
        }
        sleep(AGAIN_AFTER).await;
    }
}

/// The answer as it came, read until the server closed the connection.
async fn send(request: &Request, variables: &HashMap<String, String>, address: &str) -> String {
    match timeout(ANSWER_WITHIN, exchange(&bytes(request, variables), address)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => format!("no answer: {}", error.kind()),
        Err(_) => "no answer in time".to_owned(),
    }
}

async fn exchange(request: &[u8], address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    // A server may answer and close before it has read all; what it said still counts.
    let (_written, read) = tokio::join!(writer.write_all(request), reader.read_to_end(&mut answer));
    if answer.is_empty() {
        read?;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn bytes(request: &Request, variables: &HashMap<String, String>) -> Vec<u8> {
    let mut lines = request.head.iter().map(|line| fill(line, variables));
    let first = lines.next().unwrap_or_default();
    let body = fill(&request.body, variables);
    let mut text = format!("{first} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for line in lines {
        text.push_str(&line);
        text.push_str("\r\n");
    }
    if request.chunked {
        text.push_str("transfer-encoding: chunked\r\n\r\n");
        let (left, right) = body.split_at(body.len() / 2);
        for chunk in [left, right] {
            let _ = write!(text, "{:x}\r\n{chunk}\r\n", chunk.len());
        }
        text.push_str("0\r\n\r\n");
    } else {
        if !body.is_empty() {
            let _ = write!(text, "content-length: {}\r\n", body.len());
        }
        let _ = write!(text, "\r\n{body}");
    }
    text.into_bytes()
}

fn fill(text: &str, variables: &HashMap<String, String>) -> String {
    let mut text = text.to_owned();
    for (name, value) in variables {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    text
}

fn header(answer: &str, name: &str) -> Option<String> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then(|| value.to_owned())
    })
}

/// Status, headers by name and body, with what differs from run to run made equal.
fn show(request: &Request, answer: &str, variables: &HashMap<String, String>) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    let status = status.strip_prefix("HTTP/1.1 ").unwrap_or(status);
    // The words behind the number say nothing.
    let status = match status.split_once(' ') {
        Some((code, _)) if code.parse::<u16>().is_ok() => code,
        _ => status,
    };
    let mut headers: Vec<String> = lines
        .filter(|line| {
            let name = line.split(':').next().unwrap_or_default();
            !NOT_COMPARED.contains(&name.to_ascii_lowercase().as_str())
        })
        .map(str::to_owned)
        .collect();
    headers.sort();
    let body = if body.len() > BODY_SHOWN_BYTES_MAX {
        format!("({} bytes)", body.len())
    } else {
        body.to_owned()
    };
    let mut text = format!("{status}\n");
    for header in headers {
        let _ = writeln!(text, "{header}");
    }
    if !body.is_empty() {
        let _ = write!(text, "\n{body}\n");
    }
    mask(text, request.exact, variables)
}

fn mask(text: String, exact: bool, variables: &HashMap<String, String>) -> String {
    let mut text = text;
    if !exact {
        for (name, value) in variables {
            if !value.is_empty() {
                text = text.replace(value, &format!("${{{name}}}"));
            }
        }
    }
    let mut masked = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix("inv_1").filter(|_| !exact) {
            let end = tail
                .find(|letter: char| !letter.is_ascii_alphanumeric())
                .unwrap_or(tail.len());
            if end == 33 {
                masked.push_str("inv_1…");
                rest = &tail[end..];
                continue;
            }
        }
        if let Some(length) = time_length(rest) {
            masked.extend(
                rest[..length].chars().map(
                    |letter| {
                        if letter.is_ascii_digit() { '0' } else { letter }
                    },
                ),
            );
            rest = &rest[length..];
            continue;
        }
        let letter = rest.chars().next().expect("it is not empty");
        masked.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    masked
}

/// How long the RFC 3339 time is that `text` begins with, if it does.
fn time_length(text: &str) -> Option<usize> {
    let shape = "0000-00-00T00:00:00.";
    let begin = text.as_bytes().get(..shape.len())?;
    let fits = begin
        .iter()
        .zip(shape.bytes())
        .all(|(byte, want)| match want {
            b'0' => byte.is_ascii_digit(),
            want => *byte == want,
        });
    let rest = &text[fits.then_some(shape.len())?..];
    let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
    Some(shape.len() + digits)
}
