//! Councils that agree on a configuration: in force everywhere or nowhere, and whoever comes later has
//! it before it takes part.

use std::fs;

use relay_abi::control::{ConfigurationReport, Request, Response};
use relay_dataplane::config::Basis;
use relay_dataplane::document::Operator;

use crate::cluster::Cluster;

const DOCUMENT: &str = "\
[[listener]]
addresses = [\"10.99.1.100\"]
port = 443
snat = [\"10.99.2.100\"]
backends = [\"10.99.2.10:8080\"]
[[listener.certificate]]
chain = \"chain.pem\"
key = \"key.pem\"
";

/// Three relays and a witness, each relay with a directory of its own.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(3, 1);
    for id in 1..=3 {
        let directory = cluster.directory.0.join(format!("files-{id}"));
        fs::create_dir_all(&directory).unwrap();
        cluster.documents.insert(id, Basis { directory, nodes: Vec::new(), key: [7; 32] });
        issue(&cluster, id, "key.pem");
    }
    cluster.start_all();
    cluster.wait("a cluster", |cluster| cluster.agrees(&[1, 2, 3, 10]) && are_able(cluster));
    cluster
}

/// Whether all relays know that all members know documents.
fn are_able(cluster: &Cluster) -> bool {
    (1..=3).all(|id| cluster.nodes[&id].reporter.configuration().unable.is_empty())
}

fn issue(cluster: &Cluster, id: u8, name: &str) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(["relay.test".to_owned()]).unwrap();
    let directory = &cluster.documents[&id].directory;
    fs::write(directory.join("chain.pem"), parameters.self_signed(&pair).unwrap().pem()).unwrap();
    fs::write(directory.join(name), pair.serialize_pem()).unwrap();
}

fn apply(cluster: &Cluster, id: u8, text: &str) -> Response {
    let reporter = cluster.nodes[&id].reporter.clone();
    let operator = Operator::new(reporter, cluster.documents[&id].clone());
    let request = Request::Configure { name: "new.toml".to_owned(), text: text.to_owned() };
    operator.answer(&request).unwrap()
}

fn report(cluster: &Cluster, id: u8) -> ConfigurationReport {
    cluster.nodes[&id].reporter.configuration().report()
}

fn generations(cluster: &Cluster, ids: &[u8], generation: u64) -> bool {
    ids.iter().all(|id| report(cluster, *id).generation == generation)
}

#[test]
fn a_document_is_in_force_when_all_relays_hold_it() {
    let mut cluster = cluster();
    assert_eq!(apply(&cluster, 1, DOCUMENT), Response::Configured { generation: 1 });
    cluster.wait("generation 1", |cluster| generations(cluster, &[1, 2, 3, 10], 1));
    for id in 1..=3 {
        let node = &cluster.nodes[&id];
        // The worker held it before any view had it in force.
        let held = node.held.lock().unwrap().clone();
        assert_eq!(held, [(1, 0)], "node {id}");
        assert_eq!(node.reporter.report().configuration.unwrap().held, [1]);
    }
    let Response::Configuration { text, .. } = cluster.nodes[&10].reporter.configuration().answer()
    else {
        panic!("no configuration");
    };
    assert_eq!(text, DOCUMENT, "the witness has it, too");

    // One that was away while it changed, and one whose disk is new.
    cluster.kill(3);
    cluster.wait("a loss", |cluster| cluster.agrees(&[1, 2, 10]));
    assert_eq!(apply(&cluster, 2, DOCUMENT), Response::Configured { generation: 2 });
    cluster.wait("generation 2", |cluster| generations(cluster, &[1, 2, 10], 2));
    fs::remove_dir_all(cluster.config(3).directory).unwrap();
    cluster.start(3);
    cluster.wait("a return", |cluster| cluster.agrees(&[1, 2, 3, 10]));
    assert_eq!(report(&cluster, 3).held, [2]);
    // It did not join before it held it: the view in which it lives is not the first it saw.
    assert_eq!(cluster.nodes[&3].held.lock().unwrap()[0].0, 2);
}

#[test]
fn a_document_that_one_relay_can_not_apply_is_withdrawn_everywhere() {
    let mut cluster = cluster();
    for id in [1, 3] {
        issue(&cluster, id, "new.key");
    }
    let text = DOCUMENT.replace("key.pem", "new.key");
    // Whom it is told to finds its own mistakes, and bothers nobody.
    let Response::Mistake(mistake) = apply(&cluster, 2, &text) else { panic!("no mistake") };
    assert!(mistake.starts_with("new.toml:8: listener[1].certificate[1].key: "), "{mistake}");

    assert_eq!(apply(&cluster, 1, &text), Response::Configured { generation: 1 });
    cluster.wait("a withdrawal", |cluster| {
        [1, 2, 3, 10].iter().all(|id| report(cluster, *id).withdrawn.is_some())
    });
    for id in [1, 2, 3, 10] {
        let report = report(&cluster, id);
        let withdrawn = report.withdrawn.unwrap();
        assert_eq!((withdrawn.generation, withdrawn.node), (1, Some(2)));
        let reason = withdrawn.reason.unwrap();
        assert!(reason.contains("new.key cannot be read"), "{reason}");
        assert_eq!((report.generation, report.proposed), (0, None));
    }

    // With the file there it comes into force, under a number of its own.
    issue(&cluster, 2, "new.key");
    assert_eq!(apply(&cluster, 1, &text), Response::Configured { generation: 2 });
    cluster.wait("generation 2", |cluster| generations(cluster, &[1, 2, 3, 10], 2));

    // A relay without its file stays out, says why, and comes when the file is there.
    cluster.kill(2);
    let key = cluster.documents[&2].directory.join("new.key");
    let pem = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    cluster.start(2);
    cluster.wait("a complaint", |cluster| {
        let trouble = cluster.nodes[&2].reporter.report().trouble;
        trouble.is_some_and(|text| text.contains("new.key cannot be read"))
    });
    cluster.wait("a loss", |cluster| cluster.agrees_without(&[1, 3, 10], 2));
    fs::write(&key, pem).unwrap();
    cluster.wait("a return", |cluster| cluster.agrees(&[1, 2, 3, 10]));
}

#[test]
fn no_document_is_proposed_before_all_members_know_what_that_is() {
    let mut cluster = cluster();
    cluster.kill(10);
    cluster.protocols.insert(10, 4);
    cluster.start(10);
    cluster.wait("a return", |cluster| cluster.agrees(&[1, 2, 3, 10]) && !are_able(cluster));
    let refused = |cluster: &Cluster| match apply(cluster, 1, DOCUMENT) {
        Response::Error(refused) => refused.contains("node 10 is of a version that knows no doc"),
        _ => false,
    };
    cluster
        .wait("a refusal", |cluster| !cluster.nodes[&1].reporter.configuration().unable.is_empty());
    assert!(refused(&cluster));
    cluster.kill(10);
    cluster.protocols.remove(&10);
    cluster.start(10);
    cluster.wait("a return", |cluster| cluster.agrees(&[1, 2, 3, 10]) && are_able(cluster));
    assert_eq!(apply(&cluster, 1, DOCUMENT), Response::Configured { generation: 1 });
    cluster.wait("generation 1", |cluster| generations(cluster, &[1, 2, 3, 10], 1));
}

#[test]
fn an_operator_may_think_better() {
    let cluster = cluster();
    // A worker that does not answer: one relay does not get ready.
    cluster.nodes[&3].declines.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(apply(&cluster, 1, DOCUMENT), Response::Configured { generation: 1 });
    cluster.wait("two of three", |cluster| report(cluster, 2).awaited == [3]);
    let Response::Error(busy) = apply(&cluster, 2, DOCUMENT) else { panic!("two at a time") };
    assert!(busy.contains("generation 1 is being prepared"), "{busy}");
    let reporter = cluster.nodes[&2].reporter.clone();
    let operator = Operator::new(reporter, cluster.documents[&2].clone());
    let withdrawn = operator.answer(&Request::WithdrawConfiguration);
    assert_eq!(withdrawn, Some(Response::Configured { generation: 1 }));
    cluster.wait("a withdrawal", |cluster| {
        (1..=3).all(|id| report(cluster, id).withdrawn.is_some_and(|one| one.node.is_none()))
    });
    assert!(generations(&cluster, &[1, 2, 3], 0));
}
