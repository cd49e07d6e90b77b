//! One request over the control socket.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use relay_abi::control::{MAX_RESPONSE_LINE, Request, Response, read_line};

/// How long the relay may be silent. It answers within a second even if its worker hangs; other
/// clients before this one take their time, too.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends `request` to the relay at `path` and returns its answer, or a message for the operator.
pub fn ask(path: &Path, request: &Request) -> Result<Response, String> {
    let stream = UnixStream::connect(path).map_err(|error| unreachable(path, &error))?;
    exchange(stream, request).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!(
            "{}: no answer within {} s: is the process stopped?",
            path.display(),
            TIMEOUT.as_secs()
        ),
        io::ErrorKind::UnexpectedEof => {
            format!("{}: the relay closed the connection: has it just ended?", path.display())
        }
        _ => format!("{}: {error}", path.display()),
    })
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Response> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let answer = read_line(&mut BufReader::new(stream), MAX_RESPONSE_LINE)?;
    serde_json::from_slice(&answer).map_err(|error| {
        let problem = format!("the answer is not understood ({error}): is it of this version?");
        io::Error::new(io::ErrorKind::InvalidData, problem)
    })
}

fn unreachable(path: &Path, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => {
            "is the relay running? Name its socket with --control or RELAY_CONTROL"
        }
        io::ErrorKind::ConnectionRefused => "the relay that made this socket has ended: start it",
        io::ErrorKind::PermissionDenied => "run this as the user of the relay (root)",
        _ => "name the socket of a relay with --control or RELAY_CONTROL",
    };
    format!("cannot reach the relay at {} ({error}): {remedy}", path.display())
}
