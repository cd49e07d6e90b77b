//! The control socket: a thread that passes operators' requests to the workers and back.
//!
//! Only the owner of the process may open the socket. Clients are served one after another, one
//! request each, so whatever they do costs a worker at most one [`Query`] per turn.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use relay_abi::control::{MAX_REQUEST_LINE, MAX_RESPONSE_LINE, Request, Response, read_line};

use crate::document::Operator;
use crate::report;

/// How long the worker may take to answer; a longer pause means that it hangs.
const WORKER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one client may take to send its request, and to read the response: others wait.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Rest after a failed `accept`, which may fail for as long as the process lacks descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request for the worker.
///
/// The worker answers with `reply.try_send`: the channel holds one response, and who asked may have
/// gone away.
#[derive(Debug)]
pub struct Query {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: Sender<Response>,
}

/// Why the control socket cannot be served; the text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The directory of the socket cannot be made.
    #[error("{}: cannot be created ({cause}): choose another node.control", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// Another process answers on the socket.
    #[error("{}: another relay serves it: stop that one, or choose another node.control", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket has the name of the socket.
    #[error("{}: exists and is not a socket: remove it, or choose another node.control", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("{}: cannot be bound ({cause}): choose another node.control", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
}

/// The served control socket. Dropping it ends the service and removes the socket.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    /// Device and inode of the socket's file: under the same name there may be another's by now.
    file: (u64, u64),
    /// The listening socket, to shut it down.
    listener: OwnedFd,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Serves the socket at `path`, mode 0600, and sends what is asked to the `workers`. The file that a
    /// dead process left behind is replaced.
    ///
    /// # Errors
    /// When the socket is in use or cannot be made.
    pub fn start(path: &Path, workers: Vec<Sender<Query>>) -> Result<ControlServer, ControlError> {
        Self::start_with(path, workers, None)
    }

    /// The same; what is about the cluster's configuration is for `operator`, who takes time.
    ///
    /// # Errors
    /// As [`ControlServer::start`].
    pub fn start_with(
        path: &Path,
        workers: Vec<Sender<Query>>,
        operator: Option<Operator>,
    ) -> Result<ControlServer, ControlError> {
        let failed = |cause| ControlError::Bind { path: path.to_owned(), cause };
        let listener = listen(path)?;
        let file = identity(path).map_err(failed)?;
        let shared = listener.try_clone().map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || serve(&shared, (&workers, operator.as_ref()), &stopped))
            .map_err(failed)?;
        let path = path.to_owned();
        Ok(ControlServer { path, file, listener: listener.into(), stop, thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Shut down, a listening socket wakes the thread out of `accept`.
        let woken = self.listener.try_clone().map(UnixStream::from);
        let woken = woken.and_then(|socket| socket.shutdown(Shutdown::Both));
        if let Some(thread) = self.thread.take().filter(|_| woken.is_ok()) {
            let _ = thread.join();
        }
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn listen(path: &Path) -> Result<UnixListener, ControlError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
        made.map_err(|cause| ControlError::Directory { path: parent.to_owned(), cause })?;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ControlError::NotASocket(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(ControlError::InUse(path.to_owned()));
        }
        _ => {}
    }
    bind(path).map_err(|cause| ControlError::Bind { path: path.to_owned(), cause })
}

/// Binds under another name and renames: nobody ever sees the socket with a wider mode, and a stale
/// one is replaced at once.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    let moved = fs::set_permissions(&fresh, Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&fresh, path));
    if moved.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    moved.map(|()| listener)
}

fn serve(listener: &UnixListener, who: (&[Sender<Query>], Option<&Operator>), stop: &AtomicBool) {
    loop {
        let accepted = listener.accept();
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let outcome = match accepted {
            Ok((stream, _)) => serve_client(&stream, who),
            Err(error) => {
                thread::sleep(ACCEPT_PAUSE);
                Err(error)
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "control client failed");
        }
    }
}

fn serve_client(
    stream: &UnixStream,
    (workers, operator): (&[Sender<Query>], Option<&Operator>),
) -> io::Result<()> {
    let line = read_line(&mut BufReader::new(Timed::new(stream)), MAX_REQUEST_LINE);
    let response = match line.map(|line| serde_json::from_slice(&line)) {
        Ok(Ok(request)) => operator
            .and_then(|operator| operator.answer(&request))
            .unwrap_or_else(|| ask(&request, workers)),
        Ok(Err(error)) => Response::Error(format!("the request is not understood: {error}")),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Response::Error(format!("the request is longer than {MAX_REQUEST_LINE} bytes"))
        }
        Err(error) => return Err(error),
    };
    let mut line = serde_json::to_vec(&response)?;
    if line.len() >= MAX_RESPONSE_LINE {
        let problem = "the response is too long: ask for fewer flows".to_owned();
        line = serde_json::to_vec(&Response::Error(problem))?;
    }
    line.push(b'\n');
    Timed::new(stream).write_all(&line)
}

/// Asks all workers; one of them is enough to change something.
fn ask(request: &Request, workers: &[Sender<Query>]) -> Response {
    let deadline = Instant::now() + WORKER_TIMEOUT;
    let is_question =
        matches!(request, Request::Status | Request::Flows { .. } | Request::Counters);
    let asked = if is_question { workers } else { &workers[..workers.len().min(1)] };
    let pose = |worker: &Sender<Query>| {
        let (reply, answer) = bounded(1);
        let query = Query { request: request.clone(), reply };
        worker.send_deadline(query, deadline).ok().map(|()| answer)
    };
    let posed: Vec<_> = asked.iter().map(pose).collect();
    let answers = posed.into_iter().map(|answer| answer?.recv_deadline(deadline).ok());
    match answers.collect::<Option<Vec<Response>>>() {
        Some(answers) => report::merge(request, answers),
        None => Response::Error(format!(
            "the worker did not answer within {} s: it hangs or has ended",
            WORKER_TIMEOUT.as_secs()
        )),
    }
}

/// A stream whose deadline covers all of its calls, so that a client that trickles gains no time.
struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    fn new(stream: &'a UnixStream) -> Self {
        Timed { stream, deadline: Instant::now() + CLIENT_TIMEOUT }
    }

    fn remaining(&self) -> io::Result<Option<Duration>> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        // A timeout of zero would mean none.
        if remaining.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(remaining)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.remaining()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.remaining()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::Receiver;
    use relay_abi::control::{CounterReport, FlowList};

    use super::*;

    #[test]
    fn a_request_reaches_the_worker_and_its_answer_comes_back() {
        let socket = Socket::new("round-trip");
        let (server, worker) = socket.serve_with(|request| match request {
            Request::Flows { limit } => {
                Response::Flows(FlowList { total: limit.unwrap_or(7) as u64, flows: Vec::new() })
            }
            _ => Response::Counters(vec![CounterReport {
                group: "drop".to_owned(),
                name: "malformed".to_owned(),
                value: 3,
            }]),
        });
        assert_eq!(socket.ask("{\"flows\":{}}"), "{\"flows\":{\"total\":7,\"flows\":[]}}\n");
        assert_eq!(
            socket.ask("{\"flows\":{\"limit\":2}}"),
            "{\"flows\":{\"total\":2,\"flows\":[]}}\n"
        );
        assert_eq!(
            socket.ask("\"counters\""),
            "{\"counters\":[{\"group\":\"drop\",\"name\":\"malformed\",\"value\":3}]}\n"
        );
        drop(server);
        worker.join().unwrap();
        assert!(!socket.path.exists());
    }

    #[test]
    fn only_the_owner_may_open_it() {
        let socket = Socket::new("mode");
        let (server, _queries) = socket.serve();
        let mode = fs::metadata(&socket.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(server);
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        let socket = Socket::new("refused");
        let (server, queries) = socket.serve();
        assert!(socket.ask("\"stop\"").starts_with("{\"error\":\"the request is not understood"));
        assert!(socket.ask("").starts_with("{\"error\":\"the request is not understood"));
        assert_eq!(
            socket.ask(&"x".repeat(MAX_REQUEST_LINE)),
            format!("{{\"error\":\"the request is longer than {MAX_REQUEST_LINE} bytes\"}}\n")
        );
        assert!(queries.is_empty());
        drop(server);
    }

    #[test]
    fn a_client_that_sends_nothing_does_not_keep_the_next_one_out() {
        let socket = Socket::new("silent");
        let (server, worker) = socket.serve_with(|_| Response::Counters(Vec::new()));
        let silent = UnixStream::connect(&socket.path).unwrap();
        assert_eq!(socket.ask("\"counters\""), "{\"counters\":[]}\n");
        drop((silent, server));
        worker.join().unwrap();
    }

    #[test]
    fn a_worker_that_hangs_or_ended_is_an_error() {
        let hangs = "{\"error\":\"the worker did not answer within 1 s: it hangs or has ended\"}\n";
        let socket = Socket::new("hangs");
        let (server, queries) = socket.serve();
        assert_eq!(socket.ask("\"status\""), hangs, "takes the query and does not answer");
        assert_eq!(socket.ask("\"status\""), hangs, "the queue is full");
        assert_eq!(queries.len(), 1);
        drop(queries);
        assert_eq!(socket.ask("\"status\""), hangs, "has ended");
        drop(server);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let socket = Socket::new("stale");
        drop(UnixListener::bind(&socket.path).unwrap());
        let (server, _queries) = socket.serve();
        let second = ControlServer::start(&socket.path, vec![bounded(1).0]).unwrap_err();
        assert!(matches!(second, ControlError::InUse(_)), "{second}");
        fs::remove_file(&socket.path).unwrap();
        fs::write(&socket.path, "precious").unwrap();
        drop(server);
        let third = ControlServer::start(&socket.path, vec![bounded(1).0]).unwrap_err();
        assert!(matches!(third, ControlError::NotASocket(_)), "{third}");
        assert_eq!(fs::read(&socket.path).unwrap(), b"precious");
    }

    /// A socket in a directory of its own; removed at the end.
    struct Socket {
        path: PathBuf,
    }

    impl Socket {
        fn new(name: &str) -> Self {
            let directory = format!("relay-control-{}-{name}", std::process::id());
            let directory = std::env::temp_dir().join(directory);
            fs::create_dir_all(&directory).unwrap();
            Socket { path: directory.join("control.sock") }
        }

        fn serve(&self) -> (ControlServer, Receiver<Query>) {
            let (sender, queries) = bounded(1);
            (ControlServer::start(&self.path, vec![sender]).unwrap(), queries)
        }

        fn serve_with(
            &self,
            answer: impl Fn(Request) -> Response + Send + 'static,
        ) -> (ControlServer, JoinHandle<()>) {
            let (server, queries) = self.serve();
            let worker = thread::spawn(move || {
                for query in queries {
                    query.reply.try_send(answer(query.request)).unwrap();
                }
            });
            (server, worker)
        }

        fn ask(&self, request: &str) -> String {
            let mut stream = UnixStream::connect(&self.path).unwrap();
            // Of a request that is too long the rest is not read: then the connection is reset behind the answer.
            let _ = stream.write_all(format!("{request}\n").as_bytes());
            let mut response = Vec::new();
            let _ = stream.read_to_end(&mut response);
            String::from_utf8(response).unwrap()
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.path.parent().unwrap());
        }
    }
}
