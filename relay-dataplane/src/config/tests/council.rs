//! The section of the council, and a witness, which has little else.

use super::*;

/// The same relays as in [`VALID`], and a witness. Line numbers in the cases count from here.
const COUNCIL: &str = r#"[cluster.council]
directory = "votes"
certificate = "chain.pem"
key = "key.pem"
ca = "chain.pem"
[[cluster.council.member]]
id = 9
address = "10.99.4.9:7001"
kind = "witness"
[[cluster.council.member]]
id = 2
address = "10.99.3.22:7001"
[[cluster.council.member]]
id = 3
address = "10.99.3.23:7001"
[[cluster.council.member]]
id = 1
address = "10.99.3.21:7001"
kind = "relay"
"#;

/// [`VALID`] without the choice of deciding by silence.
fn counted() -> String {
    VALID.replace("without_council = true\n", "")
}

#[test]
fn who_wants_no_council_has_to_say_so() {
    let directory = Directory::new();
    assert!(directory.load(VALID).unwrap().cluster.council.is_none());
    let message = |text: &str| directory.load(text).unwrap_err().to_string();
    let refused = message(&counted());
    let expected = ":16: cluster.peer[1].id: there is another relay and no council: who hears \
                    nothing of the other for timeout_ms owns everything, so that a cut between \
                    the two makes two owners, and connections are lost: add a section \
                    [cluster.council] with a witness, or accept that with \
                    cluster.without_council = true";
    assert!(refused.ends_with(expected), "{refused}");
    let refused = message(&format!("{VALID}{COUNCIL}"));
    assert!(refused.contains(":15: cluster.without_council: there is a section"), "{refused}");
    let peers = counted().replace("[[cluster.peer]]\nid = 3\naddress = \"10.99.3.23\"\n", "");
    let alone = peers.replace("[[cluster.peer]]\nid = 2\naddress = \"10.99.3.22\"\n", "");
    assert!(directory.load(&alone).is_ok(), "one relay has nobody to agree with");
}

#[test]
fn a_council_is_resolved() {
    let directory = Directory::new();
    let council = directory.load(&(counted() + COUNCIL)).unwrap().cluster.council.unwrap();
    assert_eq!(council.members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 2, 3, 9]);
    assert_eq!((council.node, council.own().kind), (1, Kind::Relay));
    assert_eq!(council.own().address, "10.99.3.21:7001".parse().unwrap());
    assert!(council.members.iter().all(|member| member.votes));
    assert_eq!(council.directory, directory.path.join("votes"));
    assert_eq!(council.worker_timeout, Duration::from_millis(100));
    assert!(!council.realtime, "like the worker");
}

#[test]
fn the_former_version_may_be_asked_for() {
    let directory = Directory::new();
    let protocol = |said: &str| {
        let council =
            COUNCIL.replacen("[cluster.council]", &format!("[cluster.council]\n{said}"), 1);
        let config = directory.load(&(counted() + &council));
        config.map(|config| config.cluster.council.unwrap().protocol)
    };
    for (said, expected) in [("", 5), ("protocol = 4", 4), ("protocol = 5", 5)] {
        assert_eq!(protocol(said).unwrap(), expected, "{said}");
    }
    for said in ["protocol = 3", "protocol = 6", "protocol = -1", "protocol = 261"] {
        let refused = protocol(said).unwrap_err().to_string();
        let expected = "is out of range: set it to 4 to 5";
        assert!(
            refused.contains("cluster.council.protocol") && refused.ends_with(expected),
            "{refused}"
        );
    }
}

#[test]
fn a_witness_needs_two_sections() {
    let directory = Directory::new();
    let text = format!("[node]\nid = 9\ncontrol = \"c.sock\"\n{COUNCIL}");
    let witness = directory.witness(&text).unwrap();
    assert_eq!((witness.node.id, witness.council.own().kind), (9, Kind::Witness));
    let message = |text: &str| directory.witness(text).unwrap_err().to_string();
    let refused = message(&text.replace("id = 9\ncontrol", "id = 2\ncontrol"));
    let expected = ":14: cluster.council.member[2].id: this node, 2, is a relay: start it without \
                    --witness, or change its kind to witness";
    assert!(refused.ends_with(expected), "{refused}");
    let refused = message(&format!("[ports]\n{text}"));
    assert!(refused.contains(":1: ports: unknown field `ports`"), "{refused}");
}

#[test]
fn two_relays_without_a_witness_are_spelled_out() {
    let directory = Directory::new();
    let peer = "[[cluster.peer]]\nid = 3\naddress = \"10.99.3.23\"\n";
    let witness =
        "[[cluster.council.member]]\nid = 9\naddress = \"10.99.4.9:7001\"\nkind = \"witness\"\n";
    let third = "[[cluster.council.member]]\nid = 3\naddress = \"10.99.3.23:7001\"\n";
    let pair = format!(
        "{}{}",
        counted().replace(peer, ""),
        COUNCIL.replace(witness, "").replace(third, "")
    );
    let refused = directory.load(&pair).unwrap_err().to_string();
    let expected = ": cluster.council.member[1]: two relays and no witness: relay 1 would decide alone, \
                    and when it is lost, relay 2 takes nothing over and all connections are lost: \
                    add a member of kind witness on a third machine, or accept that with \
                    cluster.council.without_witness = true";
    assert!(refused.ends_with(expected), "{refused}");
    let key = "key = \"key.pem\"\nca";
    let said = pair.replace(key, &format!("without_witness = true\n{key}"));
    let council = directory.load(&said).unwrap().cluster.council.unwrap();
    let votes: Vec<_> = council.members.iter().map(|member| (member.id, member.votes)).collect();
    assert_eq!(votes, [(1, true), (2, false)]);
}

#[test]
fn mistakes_in_the_council_name_their_remedy() {
    let directory = Directory::new();
    let before = counted().lines().count();
    for (from, to, line, expected) in COUNCILS {
        let text = format!("{}{}", counted(), COUNCIL.replacen(from, to, 1));
        let message = directory.load(&text).unwrap_err().to_string();
        let here = format!("{}/", directory.path.display());
        let expected = format!(":{}: {}", before + line, expected.replace("DIR", &here));
        assert!(message.ends_with(&expected), "\n{message}\n{expected}");
    }
}

const COUNCILS: &[(&str, &str, usize, &str)] = &[
    (
        "\"votes\"",
        "\"\"",
        2,
        "cluster.council.directory: there is no directory: name one of its own such as /var/lib/relay/votes",
    ),
    (
        "certificate = \"chain.pem\"",
        "certificate = \"key.pem\"",
        3,
        "cluster.council.certificate: DIRkey.pem holds no certificate: name the PEM file that `relay-ctl cluster certificate` wrote for this node",
    ),
    (
        "key = \"key.pem\"",
        "key = \"chain.pem\"",
        4,
        "cluster.council.key: DIRchain.pem holds no private key: name the key that `relay-ctl cluster certificate` wrote for this node",
    ),
    (
        "ca = \"chain.pem\"",
        "ca = \"key.pem\"",
        5,
        "cluster.council.ca: DIRkey.pem holds no certificate: name ca.pem, as `relay-ctl cluster init` wrote it",
    ),
    ("id = 9", "id = 64", 7, "cluster.council.member[1].id: 64 is out of range: set it to 1 to 63"),
    (
        "id = 9",
        "id = 2",
        11,
        "cluster.council.member[2].id: 2 is already the id of another member: give each node its own id",
    ),
    (
        "10.99.4.9:7001",
        "10.99.4.9",
        8,
        "cluster.council.member[1].address: \"10.99.4.9\" is no address and port: write it as 192.0.2.1:7001 or [2001:db8::1]:7001",
    ),
    (
        "10.99.4.9:7001",
        "0.0.0.0:7001",
        8,
        "cluster.council.member[1].address: 0.0.0.0 is the unspecified address: use a unicast address that every member can reach",
    ),
    (
        "10.99.4.9:7001",
        "127.0.0.1:7001",
        8,
        "cluster.council.member[1].address: 127.0.0.1:7001 is a loopback address, and others are not: use a unicast address that every member can reach",
    ),
    (
        "10.99.4.9:7001",
        "10.99.3.22:7001",
        12,
        "cluster.council.member[2].address: 10.99.3.22:7001 is already the address of another member: give each council its own address or port",
    ),
    (
        "\"witness\"",
        "\"arbiter\"",
        9,
        "cluster.council.member[1].kind: \"arbiter\" is no kind of member: set it to relay or witness",
    ),
    (
        "\"relay\"",
        "\"witness\"",
        17,
        "cluster.council.member[4].id: this node, 1, is a witness: start it with --witness, or change its kind to relay",
    ),
    (
        "id = 1\n",
        "id = 4\n",
        6,
        "cluster.council.member[1]: this node, 1, is not among the members: list every node, this one too: the list is the same everywhere",
    ),
    (
        "id = 3\n",
        "id = 5\n",
        6,
        "cluster.council.member[1]: cluster.peer 3 is no member of kind relay: list the other relays in both places",
    ),
    (
        "key = ",
        "without_witness = true\nkey = ",
        4,
        "cluster.council.without_witness: it is for two relays without a witness: remove it: these members decide by majority",
    ),
];
