//! The cluster's configuration changes while connections flow: everywhere or nowhere, and without
//! losing one.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::{Fixture, How, Options, SYNC_LIMIT, plan, wait_for};
use serde_json::Value;
use xtask::lab::pki;
use xtask::shell::{output, run};

/// A port of the VIP where nothing listens at first.
const NEW_PORT: u16 = 10_443;

fn lab() -> Fixture {
    Fixture::up(&Options { relays: 3, witnesses: 1, ..Options::default() }).unwrap()
}

/// Makes a certificate for the server whose subject is `name`, and its key; both are called so.
fn issue(name: &str) -> Result<()> {
    let file = |suffix: &str| plan::state_file(&format!("{name}.{suffix}")).display().to_string();
    let (key, chain) = (file("key"), file("pem"));
    let (ca, ca_key) = (pki::ca().display().to_string(), plan::state_file("ca.key"));
    let subject = format!("/CN={name}");
    let names = format!("subjectAltName=DNS:{}", plan::SERVER_NAME);
    let arguments = [
        "req",
        "-x509",
        "-new",
        "-nodes",
        "-sha256",
        "-days",
        "30",
        "-batch",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-CA",
        &ca,
        "-CAkey",
        &ca_key.to_string_lossy(),
        "-keyout",
        &key,
        "-out",
        &chain,
        "-subj",
        &subject,
        "-addext",
        &names,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-addext",
        "extendedKeyUsage=serverAuth",
    ];
    run("openssl", arguments).map(drop)
}

/// The lab's listeners with the certificate `name` in place of the first one, and one more listener.
fn document(name: &str) -> Result<String> {
    let text = fs::read_to_string(plan::state_file("relay-1.toml"))?;
    let listeners = &text[text.find("[[listener]]").context("no listener")?..];
    let [(chain, key), _] = pki::server_certificates();
    // Relative to each relay's own configuration.
    let text = listeners.replace(&chain.display().to_string(), &format!("{name}.pem"));
    let text = text.replace(&key.display().to_string(), &format!("{name}.key"));
    let first = text.split("[[listener]]").nth(1).context("no listener")?;
    let port = format!("port = {}\n", plan::PORT);
    ensure!(first.contains(&port), "{first}");
    let added = first.replace(&port, &format!("port = {NEW_PORT}\n"));
    Ok(format!("{text}\n[[listener]]{added}"))
}

/// Writes a document; its path.
fn write(name: &str) -> Result<String> {
    let path = plan::state_file(&format!("{name}.toml"));
    fs::write(&path, document(name)?)?;
    Ok(path.display().to_string())
}

/// The subject of the certificate that a new client is shown at a port of the VIP.
fn shown(lab: &Fixture, port: u16) -> Result<String> {
    let mut client = Client::openssl(lab, false, port, &[])?;
    client.shut_input();
    let text = String::from_utf8_lossy(&client.read_to_end()?).into_owned();
    let subject = text.lines().find_map(|line| line.strip_prefix("subject="));
    Ok(subject.with_context(|| format!("no certificate at {port}: {text}"))?.to_owned())
}

fn demand_shown(lab: &Fixture, port: u16, name: &str) -> Result<()> {
    let subject = shown(lab, port)?;
    ensure!(subject.contains(name), "{subject:?} instead of {name}");
    Ok(())
}

fn configuration(lab: &Fixture, relay: &str) -> Result<Value> {
    let said = lab.ask(relay, &["config", "show", "--json"])?;
    Ok(serde_json::from_str::<Value>(&said)?["configuration"].take())
}

/// Waits until every relay holds `generation`, which is in force.
fn await_generation(lab: &Fixture, generation: u64) -> Result<()> {
    wait_for("the configuration everywhere", SYNC_LIMIT, || {
        for relay in lab.relays() {
            let report = configuration(lab, &relay)?;
            let held = report["held"].as_array().context("a list")?;
            let holds = held.iter().any(|one| *one == generation);
            ensure!(report["generation"] == generation && holds, "{relay}: {report}");
        }
        Ok(())
    })
}

#[test]
fn a_certificate_and_a_port_change_while_connections_flow() {
    let mut lab = lab();
    issue("second").unwrap();
    issue("third").unwrap();
    let (second, third) = (write("second").unwrap(), write("third").unwrap());
    let before = shown(&lab, plan::PORT).unwrap();
    assert!(before.contains(plan::SERVER_NAME), "{before}");
    assert!(shown(&lab, NEW_PORT).is_err(), "nothing listens yet");

    let listener = lab.backend_listener().unwrap();
    let client = Client::raw(&lab, false, "1.3").unwrap();
    let mut talk = Conversation::accept(&listener, client).unwrap();
    talk.exchange().unwrap();
    let owner = lab.owner(None).unwrap();
    let mut others = lab.relays().filter(|relay| *relay != owner);
    let (other, away) = (others.next().unwrap(), others.next().unwrap());
    let change = || {
        // By way of a relay that does not own.
        let said = lab.ask(&other, &["config", "apply", &second])?;
        ensure!(said.contains("generation 1 is in force at every relay"), "{said}");
        demand_shown(&lab, plan::PORT, "second")?;
        demand_shown(&lab, NEW_PORT, "second")?;
        await_generation(&lab, 1)
    };
    talk.stream(Flowing::Both, change).unwrap();

    // Whoever owns, whoever was away: all new connections meet the same configuration.
    let lose = || {
        lab.kill(&away, How::Sigkill)?;
        let said = lab.ask(&owner, &["config", "apply", &third])?;
        ensure!(said.contains("generation 2"), "{said}");
        lab.await_margin(&owner)?;
        let (lost, successor) = lab.lose_owner(How::Sigkill)?;
        ensure!(successor == other, "{successor} owns");
        demand_shown(&lab, plan::PORT, "third")?;
        lab.bring_back(&away)?;
        lab.bring_back(&lost)?;
        await_generation(&lab, 2)?;
        lab.await_margin(&other)?;
        // The last relay that carries it has not seen the change itself.
        lab.lose_owner(How::Powercut)?;
        demand_shown(&lab, plan::PORT, "third")?;
        demand_shown(&lab, NEW_PORT, "third")?;
        lab.bring_back(&other)
    };
    talk.stream(Flowing::Both, lose).unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
    let log = fs::read_to_string(e2e::relay::log(&other)).unwrap();
    assert!(log.contains("those of this node's own file are not used"), "{log}");
}

/// Puts something that is no file of a key over `path`, for one relay's process alone.
fn hide(relay: &str, path: &str) -> Result<()> {
    let pids = run("ip", ["netns", "pids", &plan::namespace(relay)])?;
    let pid = pids.lines().next().context("no process")?;
    let mut command = Command::new("nsenter");
    command.args(["--mount", "--target", pid.trim(), "mount", "--bind", "/dev/null", path]);
    output(&mut command).map(drop)
}

#[test]
fn a_document_that_one_relay_cannot_apply_changes_nothing() {
    let lab = lab();
    issue("second").unwrap();
    let second = write("second").unwrap();
    let key = plan::state_file("second.key").display().to_string();
    hide("relay-3", &key).unwrap();
    let listener = lab.backend_listener().unwrap();
    let client = Client::raw(&lab, false, "1.3").unwrap();
    let mut talk = Conversation::accept(&listener, client).unwrap();
    talk.exchange().unwrap();

    let refused = lab.ask("relay-1", &["config", "apply", &second]).unwrap_err();
    let refused = format!("{refused:#}");
    let reason = format!("{key} is not a regular file");
    assert!(refused.contains("withdrawn by node 3: "), "{refused}");
    assert!(refused.contains(&reason) && refused.contains("nothing has changed"), "{refused}");
    for relay in lab.relays() {
        let report = configuration(&lab, &relay).unwrap();
        assert_eq!(report["generation"], 0, "{report}");
        assert!(report["proposed"].is_null(), "{report}");
        assert_eq!(report["withdrawn"]["node"], 3, "{report}");
    }
    let before = shown(&lab, plan::PORT).unwrap();
    assert!(before.contains(plan::SERVER_NAME), "{before}");
    assert!(shown(&lab, NEW_PORT).is_err(), "nothing listens there");
    talk.exchange().unwrap();

    // A mistake that the first relay finds itself goes no further.
    fs::write(&second, "[[listener]]\nport = 443\n").unwrap();
    let mistake = lab.ask("relay-1", &["config", "apply", &second]).unwrap_err();
    let mistake = format!("{mistake:#}");
    assert!(mistake.contains("second.toml:1: listener[1]: missing field"), "{mistake}");
    assert_eq!(configuration(&lab, "relay-1").unwrap()["withdrawn"]["generation"], 1);
    talk.exchange().unwrap();
    talk.end().unwrap();
}
