//! The witness as a process: what it says and answers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use relay_abi::control::{Response, Role};

use crate::cast::Directory;
use crate::cluster::{Cluster, PATIENCE};

fn witness(cluster: &Cluster, directory: &Directory) -> Command {
    let identity = cluster.authority.issue(10);
    directory.write("node.pem", &identity.chain);
    directory.write("node.key", &identity.key);
    directory.write("ca.pem", &cluster.authority.pem);
    let mut text = "[node]\nid = 10\ncontrol = \"control.sock\"\n[cluster.council]\n\
                    directory = \"votes\"\ncertificate = \"node.pem\"\nkey = \"node.key\"\n\
                    ca = \"ca.pem\"\n"
        .to_owned();
    for member in &cluster.members {
        let kind = if member.id == 10 { "witness" } else { "relay" };
        text += &format!(
            "[[cluster.council.member]]\nid = {}\naddress = \"{}\"\nkind = \"{kind}\"\n",
            member.id, member.address
        );
    }
    let config = directory.write("witness.toml", text.as_bytes());
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-dataplane"));
    command.arg("--witness").arg("--config").arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn ask(socket: &Path, request: &str) -> Option<Response> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(format!("{request}\n").as_bytes()).ok()?;
    let mut line = String::new();
    stream.read_to_string(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_witness_is_a_process_that_votes() {
    let mut cluster = Cluster::new(2, 1);
    cluster.start(1);
    cluster.start(2);
    let directory = Directory::new();
    let mut running = Running(witness(&cluster, &directory).spawn().unwrap());
    let start = Instant::now();
    let status = loop {
        let answer = ask(&directory.0.join("control.sock"), "\"status\"");
        if let Some(Response::Status(status)) = answer {
            let council = status.council.clone().unwrap();
            if council.members.iter().filter(|member| member.votes).count() == 3 {
                break status;
            }
        }
        assert!(start.elapsed() < PATIENCE, "{:?} {:#?}", running.0.try_wait(), cluster.reports());
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!((status.node, status.role), (10, Role::Witness));
    // With it, one relay is a majority.
    cluster.kill(2);
    cluster.wait("the death is in the view", |cluster| {
        let report = &cluster.reports()[&1];
        report.members.iter().any(|member| member.id == 2 && member.state == "dead")
    });
    let memory = std::fs::read_to_string(format!("/proc/{}/status", running.0.id())).unwrap();
    let resident = memory.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    println!("witness: {resident}");
    assert!(ask(&directory.0.join("control.sock"), "{\"flows\":{}}").is_some());
}

#[test]
fn a_crash_leaves_no_secret_on_the_disk() {
    let cluster = Cluster::new(2, 1);
    let directory = Directory::new();
    let mut command = witness(&cluster, &directory);
    let mut running = Running(command.current_dir(&directory.0).spawn().unwrap());
    let start = Instant::now();
    while ask(&directory.0.join("control.sock"), "\"status\"").is_none() {
        assert!(start.elapsed() < PATIENCE, "{:?}", running.0.try_wait());
        thread::sleep(Duration::from_millis(20));
    }
    let pid = running.0.id().to_string();
    let unlimited = ["--pid", &pid, "--core=unlimited:unlimited"];
    assert!(Command::new("prlimit").args(unlimited).status().unwrap().success());
    assert!(Command::new("kill").args(["-ABRT", &pid]).status().unwrap().success());
    let status = running.0.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}

fn failed(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_witness_says_why_it_can_not_vote() {
    let cluster = Cluster::new(2, 1);
    let directory = Directory::new();
    let mut command = witness(&cluster, &directory);
    // Two records, the first of them damaged: a vote may be forgotten.
    let votes = directory.0.join("votes");
    {
        use relay_views::id::NodeId;
        use relay_views::log::Log;
        let (mut log, found) = relay_views::disk::DiskLog::open(&votes, NodeId(10), 5).unwrap();
        let view = relay_views::View::genesis_of(4);
        for _ in 0..2 {
            let batch = relay_views::council::found(&[found.memory.seat], &view);
            let batch = relay_views::log::Batch { replace: false, ..batch };
            log.write(&batch).unwrap();
        }
    }
    let file = votes.join("votes.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let (code, text) = failed(&mut command);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("damaged at byte 24") && text.contains("move the directory"), "{text}");

    std::fs::remove_dir_all(&votes).unwrap();
    let other = cluster.authority.issue(2);
    directory.write("node.pem", &other.chain);
    directory.write("node.key", &other.key);
    for more in [&[][..], &["--check"]] {
        let (code, text) = failed(command.args(more));
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("it is not for node 10, but for node 2"), "{text}");
    }
}
