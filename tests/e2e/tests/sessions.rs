//! Sessions that clients resume at another relay, and clients with certificates.

use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::{Fixture, How, Options, origin, plan};
use xtask::lab::pki;

const FILE: &str = "1k.bin";

fn lab() -> Fixture {
    Fixture::up(&Options::default()).unwrap()
}

/// Fetches [`FILE`] with s_client; returns all that it shows.
fn fetch(lab: &Fixture, port: u16, arguments: &[&str]) -> Result<String> {
    let arguments = [&["-ign_eof"], arguments].concat();
    let mut client = Client::openssl(lab, false, port, &arguments)?;
    let host = plan::SERVER_NAME;
    client.send(format!("GET /{FILE} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let shown = client.read_to_end()?;
    let text = String::from_utf8_lossy(&shown).into_owned();
    let file = std::fs::read(origin::root().join(FILE))?;
    let whole = shown.windows(file.len()).any(|window| window == file);
    ensure!(whole, "no file with {arguments:?}: {text} {}", client.wait()?.said);
    Ok(text)
}

/// Ids alone: the client takes no tickets.
const SESSION_ID: [&str; 2] = ["-tls1_2", "-no_ticket"];

#[test]
fn a_session_id_resumes_at_the_other_relay_after_a_loss() {
    let mut lab = lab();
    let session = plan::state_file("session.pem");
    let session = session.to_str().unwrap();
    let keep = [&SESSION_ID[..], &["-sess_out", session]].concat();
    let resume = [&SESSION_ID[..], &["-sess_in", session]].concat();
    let first = fetch(&lab, plan::PORT, &keep).unwrap();
    assert!(first.contains("New, TLSv1.2"), "{first}");
    let again = fetch(&lab, plan::PORT, &resume).unwrap();
    assert!(again.contains("Reused, TLSv1.2"), "{again}");

    let (lost, _) = lab.lose_owner(How::Sigkill).unwrap();
    let at_the_other = fetch(&lab, plan::PORT, &resume).unwrap();
    assert!(at_the_other.contains("Reused, TLSv1.2"), "{at_the_other}");

    // The relay that comes back is blank, and is taught.
    lab.bring_back(&lost).unwrap();
    lab.lose_owner(How::Powercut).unwrap();
    let at_the_third = fetch(&lab, plan::PORT, &resume).unwrap();
    assert!(at_the_third.contains("Reused, TLSv1.2"), "{at_the_third}");
}

#[test]
fn clients_show_certificates_and_resume_with_them() {
    let mut lab = lab();
    let (chain, key) = pki::client_certificate();
    let (chain, key) = (chain.to_str().unwrap(), key.to_str().unwrap());
    for version in ["1.2", "1.3"] {
        let mut curl = lab.client("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--tls-max", version]);
        curl.arg("--cacert").arg(pki::ca()).args(["--cert", chain, "--key", key]);
        let port = plan::CLIENT_AUTH_PORT;
        let to = format!("{}:{port}:{}", plan::SERVER_NAME, plan::vip(false));
        curl.args(["--resolve", &to, &format!("https://{}:{port}/{FILE}", plan::SERVER_NAME)]);
        let got = curl.output().unwrap();
        assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
        assert_eq!(got.stdout, std::fs::read(origin::root().join(FILE)).unwrap());
    }
    let session = plan::state_file("session.pem");
    let session = session.to_str().unwrap();
    let certificate = ["-cert", chain, "-key", key];
    for version in [&["-tls1_3"][..], &["-tls1_2"], &SESSION_ID] {
        let keep = [version, &certificate, &["-sess_out", session]].concat();
        let first = fetch(&lab, plan::CLIENT_AUTH_PORT, &keep).unwrap();
        assert!(first.contains("New, TLSv1."), "{first}");
        let (lost, _) = lab.lose_owner(How::Sigkill).unwrap();
        let resume = [version, &["-sess_in", session]].concat();
        let again = fetch(&lab, plan::CLIENT_AUTH_PORT, &resume).unwrap();
        assert!(again.contains("Reused, TLSv1."), "{again}");
        lab.bring_back(&lost).unwrap();
    }
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let lab = lab();
    let refused = |arguments: &[&str]| {
        let arguments = [arguments, &["-ign_eof"]].concat();
        let client = Client::openssl(&lab, false, plan::CLIENT_AUTH_PORT, &arguments).unwrap();
        let said = client.wait().unwrap().said;
        // openssl 3.0 knows the alert by this name in both versions.
        assert!(said.contains("certificate required"), "{said}");
    };
    refused(&["-tls1_2"]);
    refused(&["-tls1_3"]);

    // A session of a listener that asks for no certificate is not resumed at this one.
    let session = plan::state_file("session.pem");
    let session = session.to_str().unwrap();
    for version in [&["-tls1_3"][..], &["-tls1_2"], &SESSION_ID] {
        fetch(&lab, plan::PORT, &[version, &["-sess_out", session]].concat()).unwrap();
        refused(&[version, &["-sess_in", session]].concat());
    }
}
