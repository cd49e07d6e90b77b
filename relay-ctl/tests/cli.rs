//! The binary against a relay that answers from a script.

use std::fs;
use std::io::{BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use relay_abi::control::{
    ConfigurationReport, CouncilMember, CouncilReport, CounterReport, FlowList, FlowReport,
    MAX_REQUEST_LINE, PeerReport, Request, Response, Role, Share, StatusReport, TcpReport,
    WithdrawnReport, read_line,
};

#[test]
fn status_is_shown_to_people() {
    let relay = FakeRelay::new(Response::Status(status_report()));
    let output = relay.ctl(&["status"]);
    assert_eq!(
        stdout(&output),
        "\
node         1
role         owner, in sync
view         12, term 3
buckets      4096 owned, and holds the addresses
flows        50 owned, 0 shadows, 1200 since the start
takeovers    1, the last in 12.3 ms
uptime       1 min 01 s
version      0.1.0
incarnation  5f00

PEER  ADDRESS     STATE   ROLE    IN SYNC     RTT      LAG     HEARD  INCARNATION
   2  10.99.3.22  alive   backup  yes      110 us  1.5 KiB  3 ms ago  6a01
   3  10.99.3.23  silent  -       no            -      0 B         -  -
"
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(relay.asked(), Request::Status);
}

#[test]
fn a_witness_shows_what_it_votes_about() {
    let member = |id: u8, kind: &str, state: &str| CouncilMember {
        id,
        kind: kind.to_owned(),
        state: state.to_owned(),
        incarnation: "5f00".to_owned(),
        votes: state != "dead",
        weight: 100,
    };
    let council = CouncilReport {
        kind: "witness".to_owned(),
        seat: "9@00000000000007".to_owned(),
        leader: Some(1),
        term: 4,
        view: 17,
        members: vec![member(1, "relay", "live"), member(2, "relay", "dead")],
        trouble: Some("votes.log: the disk is full".to_owned()),
        configuration: Some(ConfigurationReport { generation: 3, ..Default::default() }),
    };
    let report = StatusReport {
        role: Role::Witness,
        council: Some(Box::new(council)),
        peers: Vec::new(),
        ..status_report()
    };
    let relay = FakeRelay::new(Response::Status(report));
    assert_eq!(
        stdout(&relay.ctl(&["status"])),
        "\
node         1
role         witness
uptime       1 min 01 s
version      0.1.0
incarnation  5f00
council      1 leads, term 4, view 17
seat         9@00000000000007
trouble      votes.log: the disk is full
configured   generation 3 is in force

MEMBER  KIND   STATE  VOTES  WEIGHT  INCARNATION
     1  relay  live   yes       100  5f00
     2  relay  dead   no        100  5f00
"
    );
}

#[test]
fn a_mistake_in_a_document_has_an_exit_code_of_its_own() {
    let directory = std::env::temp_dir().join(format!("relay-ctl-document-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("listeners.toml");
    fs::write(&file, "[[listener]]\n").unwrap();
    let name = file.to_str().unwrap();
    let mistake = "listeners.toml:1: listener[1]: missing field `port`: add it".to_owned();
    let relay = FakeRelay::new(Response::Mistake(mistake.clone()));
    let output = relay.ctl(&["config", "apply", name]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("relay-ctl: {mistake}\n"));
    let text = "[[listener]]\n".to_owned();
    assert_eq!(relay.asked(), Request::Configure { name: name.to_owned(), text });

    let busy = FakeRelay::new(Response::Error("generation 3 is being prepared".to_owned()));
    let output = busy.ctl(&["config", "apply", name]);
    assert_eq!(output.status.code(), Some(1));
    fs::remove_dir_all(&directory).unwrap();
    // No relay is asked.
    let missing = ctl().args(["config", "apply", name]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn a_document_that_is_shown_is_one_again() {
    let report = ConfigurationReport {
        generation: 3,
        withdrawn: Some(WithdrawnReport {
            generation: 4,
            node: Some(2),
            reason: Some("configuration 4:9: no such file".to_owned()),
        }),
        ..Default::default()
    };
    let text = "[[listener]]\nport = 443".to_owned();
    let relay = FakeRelay::new(Response::Configuration { report, text });
    let output = stdout(&relay.ctl(&["config", "show"]));
    assert_eq!(
        output,
        "\
# generation 3 is in force
# generation 4 was withdrawn by node 2: configuration 4:9: no such file
[[listener]]
port = 443
"
    );
    assert_eq!(relay.asked(), Request::Configuration);
}

/// What two live relays say, of which the first is to own three times as much.
fn shared_report(owned: [u32; 2]) -> StatusReport {
    let member = |id: u8, kind: &str, weight: u16| CouncilMember {
        id,
        kind: kind.to_owned(),
        state: "live".to_owned(),
        incarnation: "5f00".to_owned(),
        votes: true,
        weight,
    };
    let members = vec![member(1, "relay", 300), member(2, "relay", 100), member(9, "witness", 100)];
    let council = CouncilReport { members, ..CouncilReport::default() };
    let shares = (1..).zip(owned).map(|(node, buckets)| Share { node, buckets }).collect();
    StatusReport { shares, council: Some(Box::new(council)), ..status_report() }
}

#[test]
fn shares_follow_from_weights() {
    // 16 units of 256 buckets each: 12 and 4 of them.
    let level = FakeRelay::new(Response::Status(shared_report([3072, 1024])));
    let table = "\
NODE  WEIGHT   DUE  OWNS
   1     300  3072  3072
   2     100  1024  1024
";
    assert_eq!(stdout(&level.ctl(&["rebalance"])), table);
    let uneven = FakeRelay::new(Response::Status(shared_report([2048, 2048])));
    let said = uneven.ctl(&["rebalance", "--wait", "0"]);
    assert!(stdout(&said).contains("1     300  3072  2048"));
    let lone = FakeRelay::new(Response::Status(status_report()));
    let refused = lone.ctl(&["rebalance"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("has no council"));
}

#[test]
fn a_weight_is_asked_for() {
    let relay = FakeRelay::new(Response::Proposed);
    assert_eq!(stdout(&relay.ctl(&["weigh", "2", "300"])), "node 2: asked for weight 300\n");
    assert_eq!(relay.asked(), Request::Weigh { node: 2, weight: 300 });
    for weight in ["0", "1001", "-1"] {
        assert_eq!(ctl().args(["weigh", "2", weight]).output().unwrap().status.code(), Some(2));
    }
}

#[test]
fn certificates_are_made_once_and_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = std::env::temp_dir().join(format!("relay-ctl-{}-trust", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    let run = |arguments: &[&str]| {
        let mut command = ctl();
        command.arg("cluster").args(arguments).arg("--directory").arg(&directory);
        command.output().unwrap()
    };
    let early = run(&["certificate", "--node", "1"]);
    let message = String::from_utf8(early.stderr).unwrap();
    assert!(message.contains("make the authority with relay-ctl cluster init"), "{message}");
    assert_eq!(run(&["init"]).status.code(), Some(0));
    let made = run(&["certificate", "--node", "1", "--node", "9"]);
    assert_eq!(made.status.code(), Some(0), "{}", String::from_utf8_lossy(&made.stderr));
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["ca.key", "ca.pem", "node-1.key", "node-1.pem", "node-9.key", "node-9.pem"]);
    let ca = fs::read(directory.join("ca.key")).unwrap();
    for again in [&["init"][..], &["certificate", "--node", "1"]] {
        let output = run(again);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(1) && message.contains("is not overwritten"),
            "{message}"
        );
    }
    assert_eq!(fs::read(directory.join("ca.key")).unwrap(), ca);
    assert_eq!(run(&["certificate", "--node", "64"]).status.code(), Some(2));
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn status_as_json_is_the_report_on_one_line() {
    let relay = FakeRelay::new(Response::Status(status_report()));
    let text = stdout(&relay.ctl(&["status", "--json"]));
    assert_eq!(text.matches('\n').count(), 1);
    assert!(text.contains("\"role\":\"owner\"") && text.contains("\"in_sync\":true"), "{text}");
    assert_eq!(serde_json::from_str::<StatusReport>(&text).unwrap(), status_report());
}

#[test]
fn flows_are_shown_to_people() {
    let flows = FlowList { total: 2, flows: vec![flow_report()] };
    let relay = FakeRelay::new(Response::Flows(flows));
    let output = relay.ctl(&["flows", "--limit", "1"]);
    assert_eq!(
        stdout(&output),
        "\
OWNER  BACKUP  CLIENT            VIP              BACKEND          TLS      SUITE                     SERVER         UP      DOWN  STATE          AGE
    1  2,3     10.99.1.10:40000  10.99.1.100:443  10.99.2.10:8080  TLSv1.3  TLS13_AES_128_GCM_SHA256  relay.test  120 B  64.0 MiB  established  1.5 s
1 of 2 flows; more with --limit
"
    );
    assert_eq!(relay.asked(), Request::Flows { limit: Some(1) });
}

#[test]
fn flows_as_json_are_an_array() {
    let flows = FlowList { total: 1, flows: vec![flow_report()] };
    let text = stdout(&FakeRelay::new(Response::Flows(flows)).ctl(&["flows", "--json"]));
    assert_eq!(serde_json::from_str::<Vec<FlowReport>>(&text).unwrap(), [flow_report()]);
}

#[test]
fn counters_at_zero_are_hidden_unless_asked_for() {
    let counter = |name: &str, value| CounterReport {
        group: "drop".to_owned(),
        name: name.to_owned(),
        value,
    };
    let counters = vec![counter("malformed", 0), counter("not_for_us", 12)];
    let relay = FakeRelay::new(Response::Counters(counters.clone()));
    assert_eq!(
        stdout(&relay.ctl(&["counters"])),
        "GROUP  COUNTER     VALUE\ndrop   not_for_us     12\n"
    );
    let relay = FakeRelay::new(Response::Counters(counters.clone()));
    assert!(stdout(&relay.ctl(&["counters", "--all"])).contains("drop   malformed       0\n"));
    let relay = FakeRelay::new(Response::Counters(counters.clone()));
    let text = stdout(&relay.ctl(&["counters", "--json"]));
    assert_eq!(serde_json::from_str::<Vec<CounterReport>>(&text).unwrap(), counters);
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let relay = FakeRelay::new(Response::Status(status_report()));
    let output = ctl().env("RELAY_CONTROL", &relay.path).arg("status").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn an_error_of_the_relay_is_exit_code_1() {
    let relay = FakeRelay::new(Response::Error("the worker hangs".to_owned()));
    let output = relay.ctl(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    assert_eq!(stderr(&output), "relay-ctl: the relay answers: the worker hangs\n");
}

#[test]
fn an_answer_to_another_question_is_exit_code_1() {
    let relay = FakeRelay::new(Response::Counters(Vec::new()));
    assert_eq!(relay.ctl(&["status"]).status.code(), Some(1));
}

#[test]
fn a_relay_that_cannot_be_reached_is_exit_code_1_with_a_remedy() {
    let output = ctl().args(["--control", "/nonexistent/relay.sock", "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "relay-ctl: cannot reach the relay at /nonexistent/relay.sock (No such file or directory \
         (os error 2)): is the relay running? Name its socket with --control or RELAY_CONTROL\n"
    );
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    for arguments in [&["restart"][..], &[], &["flows", "--limit", "many"]] {
        assert_eq!(ctl().args(arguments).output().unwrap().status.code(), Some(2));
    }
}

fn status_report() -> StatusReport {
    StatusReport {
        node: 1,
        version: "0.1.0".to_owned(),
        incarnation: "5f00".to_owned(),
        role: Role::Owner,
        in_sync: true,
        term: 3,
        view: 12,
        uptime_ms: 61_000,
        flows: 50,
        shadows: 0,
        flows_total: 1200,
        takeovers: 1,
        takeover_ms: Some(12.34),
        peers: vec![
            PeerReport {
                id: 2,
                address: "10.99.3.22".to_owned(),
                alive: true,
                incarnation: Some("6a01".to_owned()),
                role: Some(Role::Backup),
                rtt_us: Some(110),
                lag_bytes: 1536,
                last_heard_ms: Some(3),
                in_sync: true,
                version: Some(5),
            },
            PeerReport {
                id: 3,
                address: "10.99.3.23".to_owned(),
                alive: false,
                incarnation: None,
                role: None,
                rtt_us: None,
                lag_bytes: 0,
                last_heard_ms: None,
                in_sync: false,
                version: None,
            },
        ],
        owner: Some(1),
        buckets_owned: 4096,
        holds_addresses: true,
        units: Some(16),
        shares: vec![Share { node: 1, buckets: 4096 }],
        council: None,
    }
}

fn flow_report() -> FlowReport {
    FlowReport {
        id: "01a0".to_owned(),
        owner: 1,
        backups: vec![2, 3],
        client: "10.99.1.10:40000".to_owned(),
        vip: "10.99.1.100:443".to_owned(),
        backend: "10.99.2.10:8080".to_owned(),
        snat: "10.99.2.100:50000".to_owned(),
        tls_version: "TLSv1.3".to_owned(),
        suite: "TLS13_AES_128_GCM_SHA256".to_owned(),
        server_name: "relay.test".to_owned(),
        bytes_up: 120,
        bytes_down: 64 << 20,
        state: "established".to_owned(),
        age_ms: 1_500,
        client_tcp: TcpReport::default(),
        backend_tcp: TcpReport { kept: 17, ..TcpReport::default() },
    }
}

fn ctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-ctl"));
    command.env_remove("RELAY_CONTROL");
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Answers one request; its directory is removed at the end.
struct FakeRelay {
    path: PathBuf,
    thread: JoinHandle<Request>,
}

impl FakeRelay {
    fn new(response: Response) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = format!("relay-ctl-{}-{count}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // With a client connected, the name is no longer needed.
            fs::remove_dir_all(directory).unwrap();
            let line = read_line(&mut BufReader::new(&stream), MAX_REQUEST_LINE).unwrap();
            let mut answer = serde_json::to_vec(&response).unwrap();
            answer.push(b'\n');
            stream.write_all(&answer).unwrap();
            serde_json::from_slice(&line).unwrap()
        });
        FakeRelay { path, thread }
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        ctl().arg("--control").arg(&self.path).args(arguments).output().unwrap()
    }

    fn asked(self) -> Request {
        self.thread.join().unwrap()
    }
}
