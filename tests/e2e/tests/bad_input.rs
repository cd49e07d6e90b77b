//! Whatever comes in, the answer is the one of the RFCs, it is counted, and others are not
//! disturbed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::counters::{await_count, await_no_flows, counters};
use e2e::{BAD_DATAGRAMS, BAD_FRAMES, BAD_RECORD, Fixture, How, Network, Options, plan, wait_for};
use rustix::net::sockopt::set_socket_linger;
use xtask::lab::pki;
use xtask::shell::{in_namespace, output};

fn lab() -> Fixture {
    Fixture::up(&Options::default()).unwrap()
}

fn begin(lab: &Fixture) -> Conversation {
    let listener = lab.backend_listener().unwrap();
    Conversation::accept(&listener, Client::raw(lab, false, "1.3").unwrap()).unwrap()
}

/// What the server says until it ends the connection; a reset is an error.
fn answer(mut connection: TcpStream, bytes: &[u8]) -> Result<Vec<u8>> {
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    connection.write_all(bytes)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(answer)
}

/// A transfer that runs meanwhile is not disturbed, and no view changes.
fn undisturbed(lab: &Fixture, meanwhile: impl FnOnce() -> Result<()>) {
    let mut talk = begin(lab);
    let standing = |name: String| {
        let status = lab.status(&name)?;
        // How many flows there are depends on when it is asked.
        Ok((name, status.role, status.in_sync, status.takeover_ms))
    };
    let views = || lab.relays().map(standing).collect::<Result<Vec<_>>>();
    let before = views();
    talk.stream(Flowing::Both, meanwhile).unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
    assert_eq!(before.unwrap(), views().unwrap());
}

#[test]
fn no_tls_gets_an_alert_and_the_end() {
    let lab = lab();
    let owner = lab.owner(None).unwrap();
    undisturbed(&lab, || {
        let before = counters(&lab, &owner)?;
        for garbage in [&[0; 300][..], &[0xff; 5000], b"SSH-2.0-OpenSSH_9.2\r\n"] {
            let said = answer(lab.connect(false, plan::PORT)?, garbage)?;
            ensure!(said.first() == Some(&21), "no alert but {said:?} for {garbage:?}");
        }
        await_count(&lab, &owner, &before, ("dropped/tls_malformed", 3))
    });
    await_no_flows(&lab, &owner).unwrap();
}

#[test]
fn plain_http_gets_the_end_and_is_counted_as_such() {
    let lab = lab();
    let owner = lab.owner(None).unwrap();
    let before = counters(&lab, &owner).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n";
    assert_eq!(answer(lab.connect(false, plan::PORT).unwrap(), request).unwrap(), b"");
    await_count(&lab, &owner, &before, ("dropped/plain_http", 1)).unwrap();
}

#[test]
fn an_unknown_server_name_is_not_recognized() {
    let lab = lab();
    let owner = lab.owner(None).unwrap();
    let before = counters(&lab, &owner).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let arguments = [version, "-servername", "other.test"];
        let client = Client::openssl(&lab, false, plan::PORT, &arguments).unwrap();
        let ended = client.wait().unwrap();
        assert!(!ended.success);
        ended.saying("unrecognized name").unwrap();
    }
    await_count(&lab, &owner, &before, ("dropped/tls_handshake", 2)).unwrap();
}

#[test]
fn clients_with_nothing_in_common_are_told() {
    let lab = lab();
    for arguments in [
        ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        ["-tls1_2", "-cipher", "AES256-SHA"],
        ["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"],
    ] {
        let ended = Client::openssl(&lab, false, plan::PORT, &arguments).unwrap().wait().unwrap();
        assert!(!ended.success, "{arguments:?}");
        ended.saying("alert").unwrap();
    }
}

#[test]
fn a_record_that_does_not_authenticate_gets_an_alert_and_no_reset() {
    let lab = lab();
    let owner = lab.owner(None).unwrap();
    let before = counters(&lab, &owner).unwrap();
    let listener = lab.backend_listener().unwrap();
    for version in ["1.2", "1.3"] {
        let mut command = lab.client("python3");
        command.args(["-c", BAD_RECORD, &plan::vip(false).to_string()]);
        command.arg(plan::RAW_PORT.to_string()).arg(pki::ca()).args([plan::SERVER_NAME, version]);
        let said = output(&mut command).unwrap();
        assert_eq!(said.trim(), "SSLV3_ALERT_BAD_RECORD_MAC\nfin", "TLS {version}");
        // No close at the backend that looks like the client's own.
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert!(server.read(&mut [0]).is_err(), "the server is told that all was well");
    }
    await_count(&lab, &owner, &before, ("dropped/tls_bad_mac", 2)).unwrap();
    await_no_flows(&lab, &owner).unwrap();
}

#[test]
fn a_backend_that_refuses_is_an_alert_to_the_client() {
    let lab = lab();
    for version in ["1.2", "1.3"] {
        let ended = Client::raw(&lab, false, version).unwrap().wait().unwrap();
        assert!(!ended.success);
        ended.saying("TLSV1_ALERT_INTERNAL_ERROR").unwrap();
    }
    await_no_flows(&lab, &lab.owner(None).unwrap()).unwrap();
}

#[test]
fn the_reset_of_a_backend_is_a_reset_to_the_client() {
    let lab = lab();
    let mut talk = begin(&lab);
    talk.exchange().unwrap();
    talk.tell(&[5; 1 << 20]).unwrap();
    set_socket_linger(&talk.server, Some(Duration::ZERO)).unwrap();
    drop(talk.server);
    let ended = talk.client.wait().unwrap();
    assert!(!ended.success, "a reset looks like a close");
    ended.saying("reset").unwrap();
    await_no_flows(&lab, &lab.owner(None).unwrap()).unwrap();
}

#[test]
fn a_client_that_vanishes_is_a_reset_to_the_backend() {
    let lab = lab();
    let mut talk = begin(&lab);
    talk.exchange().unwrap();
    let Conversation { client, mut server, .. } = talk;
    // Nobody reads what the client gives: when it is full, it ends with bytes unread, for which
    // its kernel resets the connection.
    server.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(server.write_all(&[5; 64 << 20]).is_err(), "nothing is full");
    drop(client);
    let end = server.read(&mut [0]);
    assert!(end.is_err(), "the server is told that all was well: {end:?}");
    await_no_flows(&lab, &lab.owner(None).unwrap()).unwrap();
}

/// Sends every frame of bad_frames.py to `mac`; returns the answers by case.
fn send_frames(lab: &Fixture, mac: &str, silent: bool) -> Result<BTreeMap<String, Vec<String>>> {
    let mut command = lab.client("python3");
    command.args(["-c", BAD_FRAMES, &Network::Client.device(), mac]);
    command.arg(Network::Client.v4(plan::ENDPOINT_HOST).to_string());
    command.arg(plan::vip(false).to_string());
    command.args(silent.then_some("silent"));
    Ok(serde_json::from_str(&output(&mut command)?)?)
}

#[test]
fn malformed_frames_and_stray_segments_are_counted_and_answered_as_rfc9293_says() {
    let lab = lab();
    let owner = lab.owner(None).unwrap();
    undisturbed(&lab, || {
        let before = counters(&lab, &owner)?;
        let mut answers = send_frames(&lab, plan::CLIENT_VIRTUAL_MAC, false)?;
        answers.retain(|_, flags| !flags.is_empty());
        let said: Vec<_> =
            answers.iter().map(|(case, flags)| (case.as_str(), flags.join(" "))).collect();
        let expected = [
            ("ack", "R"),
            ("ack to a closed port", "R"),
            ("data", "R"),
            ("fin", "R"),
            ("no flags", "RA"),
            ("syn to a closed port", "RA"),
        ];
        ensure!(said == expected.map(|(case, flags)| (case, flags.to_owned())), "{said:?}");
        // Every frame was sent twice. A bridge that filters takes some of those whose IP header is
        // wrong, so these are the counts without them.
        for counter in [
            ("dropped/bad_checksum", 2),
            ("dropped/cookie_invalid", 6),
            ("dropped/malformed", 8),
            ("dropped/unknown_flow", 8),
            ("xdp client0/xdp_fragment", 4),
            ("xdp client0/xdp_unsupported_protocol", 2),
        ] {
            await_count(&lab, &owner, &before, counter)?;
        }
        Ok(())
    });
}

#[test]
fn a_backup_answers_nothing() {
    let lab = lab();
    let owner = lab.owner(None).unwrap();
    let backup = lab.relays().find(|name| *name != owner).unwrap();
    let id: u8 = backup.trim_start_matches("relay-").parse().unwrap();
    undisturbed(&lab, || {
        let answers = send_frames(&lab, &Network::Client.mac(plan::relay_host(id)), true)?;
        let said: Vec<_> = answers.iter().filter(|(_, flags)| !flags.is_empty()).collect();
        ensure!(said.is_empty(), "{said:?}");
        Ok(())
    });
}

fn datagrams(arguments: &[&str]) -> Result<()> {
    let mut command = in_namespace(plan::SWITCH_NS, "python3");
    output(command.args(["-c", BAD_DATAGRAMS]).args(arguments)).map(drop)
}

#[test]
fn forged_and_replayed_cluster_datagrams_are_counted_and_change_nothing() {
    let lab = lab();
    let owner = lab.owner(None).unwrap();
    let backup = lab.relays().find(|name| *name != owner).unwrap();
    let file = plan::state_file("datagram");
    let file = file.to_str().unwrap();
    undisturbed(&lab, || {
        for (from, to) in [(&backup, &owner), (&owner, &backup)] {
            datagrams(&["capture", file, &Network::Cluster.switch_port(from)])?;
            for (how, counter) in [
                ("as-is", "dropped/peer_replay"),
                ("changed", "dropped/peer_authentication"),
                ("cut", "dropped/peer_malformed"),
                ("stranger", "dropped/peer_authentication"),
                ("random", "dropped/peer_malformed"),
            ] {
                let before = counters(&lab, to)?;
                datagrams(&["inject", file, &Network::Cluster.switch_port(to), how, "20"])?;
                await_count(&lab, to, &before, (counter, 20))?;
            }
        }
        Ok(())
    });
}

#[test]
fn datagrams_of_an_old_incarnation_are_refused() {
    let mut lab = lab();
    let owner = lab.owner(None).unwrap();
    let backup = lab.relays().find(|name| *name != owner).unwrap();
    let (from_owner, from_backup) = (plan::state_file("owner"), plan::state_file("backup"));
    for (file, relay) in [(&from_owner, &owner), (&from_backup, &backup)] {
        let port = Network::Cluster.switch_port(relay);
        datagrams(&["capture", file.to_str().unwrap(), &port]).unwrap();
    }
    lab.kill(&backup, How::Sigkill).unwrap();
    wait_for("a view without the backup", Duration::from_secs(20), || {
        let status = lab.status(&owner)?;
        ensure!(!status.in_sync, "{status:?}");
        Ok(())
    })
    .unwrap();
    lab.bring_back(&backup).unwrap();
    undisturbed(&lab, || {
        for (file, to) in [(&from_owner, &backup), (&from_backup, &owner)] {
            let before = counters(&lab, to)?;
            let port = Network::Cluster.switch_port(to);
            datagrams(&["inject", file.to_str().unwrap_or_default(), &port, "as-is", "20"])?;
            await_count(&lab, to, &before, ("dropped/peer_replay", 20))?;
        }
        Ok(())
    });
}

#[test]
fn a_wrong_configuration_ends_the_relay_with_code_2_and_names_the_place() {
    let lab = lab();
    let good = std::fs::read_to_string(plan::state_file("relay-1.toml")).unwrap();
    let file = plan::state_file("wrong.toml");
    let program = xtask::binaries::binaries(lab.options().bin_dir.as_deref()).unwrap();
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program.join("relay-dataplane"));
        let said = command.arg("--config").arg(&file).arg("--check").output().unwrap();
        (said.status.code(), String::from_utf8(said.stderr).unwrap())
    };
    assert_eq!(check(&good).0, Some(0), "{}", check(&good).1);
    for (key, old, new) in [
        ("node.id", "id = 1\n", "id = 0\n"),
        ("cluster.timeout_ms", "timeout_ms = 100", "timeout_ms = 3"),
        ("cluster.heartbeat_ms", "heartbeat_ms = 5", "heartbeat_ms = \"soon\""),
        ("cluster.heartbeats", "heartbeat_ms = 5", "heartbeats = 5"),
        ("cluster.key_file", "cluster.key\"", "nothing.key\""),
        ("ports.mode", "mode = \"poll\"", "mode = \"lazy\""),
        ("virtual_mac.client", plan::CLIENT_VIRTUAL_MAC, "02:00"),
        ("listener[1].port", "port = 443", "port = 70000"),
        ("listener[1].backends", "10.99.2.10:8080", "nowhere:8080"),
        ("listener[1].certificate[1].chain", "server-ecdsa.pem", "nothing.pem"),
    ] {
        let text = good.replacen(old, new, 1);
        assert_ne!(text, good, "{old:?} is not in the configuration");
        let (code, said) = check(&text);
        assert_eq!(code, Some(2), "{key}: {said}");
        let changed = good.lines().zip(text.lines()).position(|(old, new)| old != new);
        let place = format!("{}:{}: {key}", file.display(), changed.unwrap() + 1);
        let rest = said.trim().strip_prefix(&place);
        let named = rest.is_some_and(|rest| rest.matches(": ").count() >= 2);
        assert!(named && said.trim().lines().count() == 1, "not {place} ...: {said}");
    }
    // A key that belongs to another certificate.
    let swapped = good.replacen("server-ecdsa.key", "server-rsa.key", 1);
    let (code, text) = check(&swapped);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("does not belong"), "{text}");
}
