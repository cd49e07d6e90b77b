//! Clients that are not ours, through a cluster that is well.

use std::io::Write;
use std::net::Shutdown;

use anyhow::{Context, Result, ensure};
use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::counters::await_no_flows;
use e2e::{Fixture, How, Options, origin, plan};
use xtask::shell::output;

const FILE: &str = "1k.bin";
const TLS13_SUITES: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
const TLS12_CIPHERS: [&str; 3] = ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"];
/// Groups as openssl takes them, and as it shows them.
const GROUPS: [(&str, &str); 2] = [("X25519", "X25519"), ("P-256", "prime256v1")];

fn lab() -> Fixture {
    Fixture::up(&Options::default()).unwrap()
}

fn request(path: &str) -> String {
    format!("GET /{path} HTTP/1.0\r\nHost: {}\r\n\r\n", plan::SERVER_NAME)
}

/// The file as the origin has it.
fn file() -> Vec<u8> {
    std::fs::read(origin::root().join(FILE)).unwrap()
}

/// Fetches [`FILE`] with s_client; returns its words.
fn fetch(lab: &Fixture, arguments: &[&str]) -> Result<String> {
    let mut client = Client::openssl(lab, false, plan::PORT, arguments)?;
    client.send(request(FILE).as_bytes())?;
    let answer = client.read_to_end()?;
    let ended = client.wait()?;
    let whole = answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(&file());
    ensure!(whole, "{} bytes with {arguments:?}: {}", answer.len(), ended.said);
    ended.cleanly().with_context(|| format!("with {arguments:?}"))?;
    Ok(ended.said)
}

#[test]
fn openssl_speaks_every_tls13_suite_with_both_certificates_and_groups() {
    let lab = lab();
    for suite in TLS13_SUITES {
        for (signature, shown) in
            [("ecdsa_secp256r1_sha256", "ECDSA"), ("rsa_pss_rsae_sha256", "RSA-PSS")]
        {
            for (group, group_shown) in GROUPS {
                let said = fetch(
                    &lab,
                    &[
                        "-brief",
                        "-tls1_3",
                        "-ciphersuites",
                        suite,
                        "-sigalgs",
                        signature,
                        "-groups",
                        group,
                    ],
                )
                .unwrap();
                let facts = ["TLSv1.3", suite, shown, group_shown];
                assert!(facts.iter().all(|fact| said.contains(fact)), "{facts:?} in {said}");
            }
        }
    }
}

#[test]
fn openssl_speaks_every_tls12_suite_with_both_certificates_and_groups() {
    let lab = lab();
    for cipher in TLS12_CIPHERS {
        for kind in ["ECDSA", "RSA"] {
            for (group, group_shown) in GROUPS {
                let cipher = format!("ECDHE-{kind}-{cipher}");
                // P-256 is offered in any case: the certificate's own group must be, too.
                let groups = if group == "X25519" { "X25519:P-256" } else { group };
                let arguments = ["-brief", "-tls1_2", "-cipher", &cipher, "-groups", groups];
                let said = fetch(&lab, &arguments).unwrap();
                let facts = ["TLSv1.2", &cipher, kind, group_shown];
                assert!(facts.iter().all(|fact| said.contains(fact)), "{facts:?} in {said}");
            }
        }
    }
}

#[test]
fn curl_gets_exact_files_over_both_families_and_versions() {
    let lab = lab();
    let whole = std::fs::read(origin::root().join("16m.bin")).unwrap();
    for ipv6 in [false, true] {
        for version in ["1.2", "1.3"] {
            let mut curl = lab.curl(ipv6);
            curl.args(["--max-time", "60", "--tls-max", version, &format!("--tlsv{version}")]);
            curl.arg(lab.url("16m.bin"));
            let got = curl.output().unwrap();
            assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
            assert!(got.stdout == whole, "{} bytes over TLS {version}", got.stdout.len());
        }
    }
}

#[test]
fn curl_uploads_an_exact_file() {
    let lab = lab();
    let from = origin::root().join("16m.bin");
    for (ipv6, name) in [(false, "up/four"), (true, "up/six")] {
        let mut curl = lab.curl(ipv6);
        curl.args(["--max-time", "60", "--upload-file"]).arg(&from).arg(lab.url(name));
        output(&mut curl).unwrap();
        let arrived = std::fs::read(origin::root().join(name)).unwrap();
        assert!(arrived == std::fs::read(&from).unwrap(), "{} bytes", arrived.len());
    }
}

#[test]
fn curl_sends_several_requests_over_one_connection() {
    let lab = lab();
    let mut curl = lab.curl(false);
    curl.args(["--max-time", "60", "--write-out", "%{num_connects}", "--output", "/dev/null"]);
    let url = lab.url(FILE);
    for _ in 1..5 {
        curl.args([&url, "--output", "/dev/null"]);
    }
    assert_eq!(output(curl.arg(&url)).unwrap(), "10000");
}

#[test]
fn neither_server_name_nor_alpn_is_needed() {
    let lab = lab();
    let said = fetch(&lab, &["-brief", "-noservername"]).unwrap();
    assert!(said.contains("Verification: OK"), "{said}");
    // By address, curl sends no name; the address is in the certificate.
    let mut curl = lab.client("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--no-alpn", "--cacert"]);
    curl.arg(xtask::lab::pki::ca()).args(["--output", "/dev/null"]);
    curl.args(["--write-out", "%{size_download}", &format!("https://{}/{FILE}", plan::vip(false))]);
    assert_eq!(output(&mut curl).unwrap(), "1024");
}

/// Connects with s_client and keeps the session, then connects with it again.
fn resume(lab: &mut Fixture, version: &str, between: fn(&mut Fixture)) {
    let session = plan::state_file("session.pem");
    let session = session.to_str().unwrap();
    let first = fetch(lab, &["-brief", version, "-sess_out", session]).unwrap();
    assert!(first.contains("Verification: OK"), "{first}");
    between(lab);
    let mut client =
        Client::openssl(lab, false, plan::PORT, &[version, "-sess_in", session, "-ign_eof"])
            .unwrap();
    client.send(request(FILE).as_bytes()).unwrap();
    let shown = client.read_to_end().unwrap();
    let text = String::from_utf8_lossy(&shown);
    assert!(text.contains("Reused, TLSv1."), "{text}");
    let data = file();
    assert!(shown.windows(data.len()).any(|window| window == data), "no file in it");
}

#[test]
fn a_ticket_resumes_a_tls13_session() {
    resume(&mut lab(), "-tls1_3", |_| ());
}

#[test]
fn a_ticket_resumes_a_tls12_session() {
    resume(&mut lab(), "-tls1_2", |_| ());
}

#[test]
fn a_ticket_resumes_at_the_other_relay_after_a_loss() {
    let mut lab = lab();
    resume(&mut lab, "-tls1_3", |lab| drop(lab.lose_owner(How::Sigkill).unwrap()));
    let backup = lab.relays().find(|name| lab.status(name).is_err()).unwrap();
    lab.bring_back(&backup).unwrap();
    resume(&mut lab, "-tls1_2", |lab| drop(lab.lose_owner(How::Sigkill).unwrap()));
}

#[test]
fn a_client_updates_its_key_and_asks_for_ours() {
    let lab = lab();
    let listener = lab.backend_listener().unwrap();
    let client = Client::openssl(&lab, false, plan::RAW_PORT, &["-brief", "-tls1_3"]).unwrap();
    let mut talk = Conversation::accept(&listener, client).unwrap();
    for (turn, command) in ["k\n", "K\n", "k\n", "K\n", "K\n"].iter().enumerate() {
        talk.exchange().unwrap();
        talk.client.send(command.as_bytes()).unwrap();
        talk.client.await_word("KEYUPDATE", turn + 1).unwrap();
        talk.exchange().unwrap();
    }
}

#[test]
fn renegotiation_is_refused_and_the_connection_goes_on() {
    let lab = lab();
    let listener = lab.backend_listener().unwrap();
    let client = Client::openssl(&lab, false, plan::RAW_PORT, &["-brief", "-tls1_2"]).unwrap();
    let mut talk = Conversation::accept(&listener, client).unwrap();
    talk.exchange().unwrap();
    talk.client.send(b"R\n").unwrap();
    // openssl ends the connection itself when it gets the warning.
    talk.client.await_word("no renegotiation", 1).unwrap();
}

#[test]
fn both_ends_may_end_first() {
    let lab = lab();
    let listener = lab.backend_listener().unwrap();
    for version in ["1.2", "1.3"] {
        let client = Client::raw(&lab, false, version).unwrap();
        let mut talk = Conversation::accept(&listener, client).unwrap();
        talk.exchange().unwrap();
        talk.end().unwrap();

        let client = Client::raw(&lab, false, version).unwrap();
        let mut talk = Conversation::accept(&listener, client).unwrap();
        talk.exchange().unwrap();
        talk.server.shutdown(Shutdown::Write).unwrap();
        assert!(talk.client.read_to_end().unwrap().is_empty());
        talk.client.shut_input();
        talk.await_end_at_server().unwrap();
        talk.client.wait().unwrap().cleanly().unwrap();
        drop(talk.server);
        // TIME-WAIT alone keeps no flow.
        await_no_flows(&lab, &lab.owner(None).unwrap()).unwrap();
    }
}

#[test]
fn either_direction_goes_on_when_the_other_one_has_ended() {
    let lab = lab();
    let listener = lab.backend_listener().unwrap();
    for version in ["1.2", "1.3"] {
        let client = Client::raw(&lab, false, version).unwrap();
        let mut talk = Conversation::accept(&listener, client).unwrap();
        talk.client.shut_input();
        talk.await_end_at_server().unwrap();
        talk.stream(Flowing::Down, || Ok(())).unwrap();
        talk.end().unwrap();

        let client = Client::raw(&lab, false, version).unwrap();
        let mut talk = Conversation::accept(&listener, client).unwrap();
        talk.server.shutdown(Shutdown::Write).unwrap();
        assert!(talk.client.read_to_end().unwrap().is_empty());
        talk.stream(Flowing::Up, || Ok(())).unwrap();
        talk.client.shut_input();
        talk.await_end_at_server().unwrap();
        talk.client.wait().unwrap().cleanly().unwrap();
    }
}

#[test]
fn data_in_the_last_segments_arrives_before_the_end() {
    let lab = lab();
    let listener = lab.backend_listener().unwrap();
    let mut talk =
        Conversation::accept(&listener, Client::raw(&lab, false, "1.3").unwrap()).unwrap();
    talk.server.write_all(&[7; 100_000]).unwrap();
    talk.server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(talk.client.read_to_end().unwrap(), [7; 100_000]);
    talk.client.send(&[9; 50_000]).unwrap();
    talk.client.shut_input();
    talk.hear(&[9; 50_000]).unwrap();
    talk.await_end_at_server().unwrap();
    talk.client.wait().unwrap().cleanly().unwrap();
}
